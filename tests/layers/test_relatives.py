"""Dropout and its relatives, all alike: bits, gradients, expectations, shards and state."""

from __future__ import annotations

import inspect
import json
import math
import pickle
from collections.abc import Callable
from copy import copy, deepcopy
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim.random import spawn
from tests.support.libraries import COMPLEX, HALF, REAL, Library, numpy_dtype, same_bits
from tests.support.relatives import DISCOVERED, VARIANTS, Variant
from tests.support.xla import quick

pytestmark = pytest.mark.usefixtures("quickly")

SHAPE = (4, 5, 3)
KINDS = ("Dropout, noise_shape", "AlphaDropout", "GaussianDropout, noise_shape", "Zoneout")
"""One variant of each function and kind of noise shape, where each test takes seconds."""

FEW = {"dask": ("float32",), "jax": ("float32", "bfloat16"), "jax-x64": ("float64",)}
"""The dtypes to test on libraries where each takes a second; the two first variants have all of them."""
FIRST = list(VARIANTS)[:2]


@pytest.fixture(params=list(VARIANTS))
def variant(request: pytest.FixtureRequest) -> Variant:
    """Each row of the table in turn."""
    return VARIANTS[request.param]


kinds = pytest.mark.omit(
    "one of each kind will do where it takes seconds", lambda lib, variant, **_: lib in FEW and variant not in KINDS
)


def _values(seed: int, dtype: str = "float64", shape: tuple[int, ...] = SHAPE) -> Any:
    x = np.random.default_rng(seed).normal(size=shape)
    return (x + 1j * x[::-1] if dtype in COMPLEX else x).astype(numpy_dtype(dtype))


def _inputs(variant: Variant, dtype: str = "float64", shape: tuple[int, ...] = SHAPE) -> list[Any]:
    return [_values(seed, dtype, shape) for seed in range(variant.inputs)]


def _tuple(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


def test_the_table_has_every_layer() -> None:
    assert {name.partition(",")[0] for name in VARIANTS} == set(DISCOVERED)


@pytest.mark.omit("it isn't complex", lambda variant, dtype, **_: dtype in COMPLEX and not VARIANTS[variant].complex)
@pytest.mark.omit(
    "a few will do",
    lambda lib, variant, dtype, **_: dtype not in FEW.get(lib, (dtype,)) and variant not in FIRST,
)
@pytest.mark.parametrize("dtype", HALF + REAL + COMPLEX)
def test_bits(lib: Library, variant: Variant, dtype: str) -> None:
    """Forward, backward and rest are NumPy's own arithmetic with choices of Python's own integers, to the last bit.

    Half precision is computed in float32 and rounded once.
    """
    ratio, xs, dout = 0.3, _inputs(variant, dtype), _values(9, dtype)
    layer, given, there = variant.make(ratio, 7), [lib.asarray(x) for x in xs], lib.asarray(dout)
    found = [layer.forward(*given), *_tuple(layer.backward(there)), layer.forward(*given, False)]
    drawn = variant.drawn(variant.noise(SHAPE), ratio, 7, 0)
    wide = numpy_dtype("float32" if dtype in HALF else dtype)
    wides = [x.astype(wide) for x in xs]
    expected = [
        variant.forward(*wides, drawn, ratio),
        *_tuple(variant.backward(dout.astype(wide), drawn, ratio)),
        variant.rest(*wides, ratio),
    ]
    for a, e in zip(found, expected, strict=True):
        assert type(a) is type(given[0])
        assert a.dtype == given[0].dtype
        assert same_bits(lib.tonumpy(a), np.asarray(e).astype(numpy_dtype(dtype)))
    assert all(same_bits(lib.tonumpy(a), x) for a, x in zip(given, xs, strict=True))
    mask = lib.tonumpy(layer.mask)
    assert mask.shape == variant.noise(SHAPE)
    if mask.dtype == bool:
        assert mask.tolist() == drawn.tolist()
    else:
        one = np.ones(SHAPE, np.zeros(0, wide).real.dtype)
        assert same_bits(mask + 0 * one, variant.forward(one, drawn, ratio))


@kinds
@pytest.mark.covering(1)  # each layer on each library: test_bits
def test_a_layer_is_its_function(lib: Library, variant: Variant) -> None:
    """A counted or named draw is the function's of key and call; a named one, or a sample, leaves the layer alone."""
    xs, dout = [lib.asarray(x) for x in _inputs(variant, "float32")], lib.asarray(_values(9, "float32"))
    layer = variant.make(0.4, 11)

    def bits(found: Any) -> list[Any]:
        return [lib.tonumpy(a).tolist() for a in _tuple(found)]

    layer.forward(*xs)
    before = layer.state_dict(), layer.mask
    for call in (0, 2**40):
        named = bits(layer.forward(*xs, call=call)) + bits(layer.backward(dout, call=call))
        assert named == bits(variant.function(*xs, 0.4, 11, call)) + bits(variant.gradient(dout, 0.4, 11, call))
        assert bits(layer.sample(*xs, call)) == bits(variant.function(*xs, 0.4, spawn(11, 0), call))
    assert layer.state_dict() == before[0]
    assert lib.tonumpy(layer.mask).tolist() == lib.tonumpy(before[1]).tolist()
    assert bits(layer.backward(dout)) == bits(variant.gradient(dout, 0.4, 11, 0))


def test_gradients_are_finite_differences(variant: Variant) -> None:
    """Under a fixed mask all are of first degree, so that differences are off by roundings alone, 1e-16 / 1e-4."""
    layer, xs, c, h = variant.make(0.4, 3), _inputs(variant), _values(9), 1e-4
    gradients = _tuple(layer.backward(c, call=5))
    for k, gradient in enumerate(gradients):
        numeric = np.zeros(SHAPE)
        for index in np.ndindex(*SHAPE):
            loss = []
            for sign in (1, -1):
                moved = [x.copy() for x in xs]
                moved[k][index] += sign * h
                loss.append((c * layer.forward(*moved, call=5)).sum())
            numeric[index] = (loss[0] - loss[1]) / (2 * h)
        np.testing.assert_allclose(gradient, numeric, rtol=0, atol=1e-10)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.8])
def test_moments_are_the_theorys(variant: Variant, ratio: float) -> None:
    """The mean and variance of the output, over 2**16 independent draws, within four standard errors."""
    n = 1 << 16
    shape = (n, 1, 3)
    values = [1.5, -0.7][: variant.inputs]
    y = variant.make(ratio, 2026).forward(*(np.full(shape, value) for value in values))[:, 0, 0]
    mean, variance, fourth = variant.moments(*values, ratio)
    assert abs(y.mean() - mean) <= 4 * math.sqrt(variance / n)
    # Around the known mean; of two numbers as far from it the variance has no error but for roundings.
    assert abs(((y - mean) ** 2).mean() - variance) <= 4 * math.sqrt(max(0, fourth - variance**2) / n) + 1e-12
    rest = variant.make(ratio, 0).forward(*(np.full(1, value) for value in values), False)
    if variant.complex:  # the others keep a distribution, and not each mean
        assert abs(rest[0] - mean) < 1e-15


@kinds
@pytest.mark.covering(1)  # each layer on each library: test_bits; any part on each library: random/test_place.py
def test_shards_equal_the_whole(lib: Library, variant: Variant) -> None:
    """A part lies along any axis, by blocks, steps and permutations, and along the first by a number of elements."""
    xs, dout = _inputs(variant, "float32"), _values(9, "float32")
    place = (0.4, 8, 3)

    def both(index: Any, **where: Any) -> list[Any]:
        parts = [lib.asarray(np.ascontiguousarray(x[index])) for x in xs]
        d = lib.asarray(np.ascontiguousarray(dout[index]))
        found = [variant.function(*parts, *place, **where), *_tuple(variant.gradient(d, *place, **where))]
        return [lib.tonumpy(a) for a in found]

    whole = both(np.s_[:])
    for index, where in (
        (np.s_[3:], {"offset": 45}),
        (np.s_[1:3], {"offset": 15}),
        (np.s_[:1], {"offset": 0}),
        (np.s_[1:3], {"offset": (1, 0, 0), "within": SHAPE}),
        (np.s_[:, 2:4], {"offset": (0, 2, 0), "within": SHAPE}),
        (np.s_[:, :, 1:2], {"offset": (0, 0, 1), "within": SHAPE}),
        (np.s_[1::2, 3:, 1:], {"offset": (range(1, 4, 2), 3, 1), "within": SHAPE}),
        (np.s_[[2, 0, 3]], {"offset": ([2, 0, 3], 0, 0), "within": SHAPE}),
        (np.ix_([3], [4, 0, 2, 1, 3], [2, 0, 1]), {"offset": ([3], [4, 0, 2, 1, 3], [2, 0, 1]), "within": SHAPE}),
    )[:: 8 if lib.name in FEW else 1]:
        for part, all_ in zip(both(index, **where), whole, strict=True):
            assert same_bits(part, np.ascontiguousarray(all_[index]))


def test_state_goes_on(variant: Variant) -> None:
    """After a restore, a copy or a pickle, the next mask is the next mask."""
    layer, xs = variant.make(0.5, 17), _inputs(variant)
    for _ in range(3):
        layer.forward(*xs)
    restored = variant.make(0.5, 1)
    restored.load_state_dict(layer.state_dict())
    copies = [restored, copy(layer), deepcopy(layer), pickle.loads(pickle.dumps(layer))]  # noqa: S301
    expected = layer.forward(*xs)
    assert all(same_bits(other.forward(*xs), expected) for other in copies)
    assert same_bits(eval(repr(layer), dict(vars(ao))).forward(*xs, call=9), layer.forward(*xs, call=9))  # noqa: S307


def test_a_state_is_of_one_way_to_make_a_layer(variant: Variant) -> None:
    """It goes through JSON, and each argument that decides on masks, or scales, must be that of the layer it is for."""
    layer = variant.make(0.5, 17)
    state = layer.state_dict()
    assert list(state) == ["layer", *layer._attributes, "key", "calls", "dropout_ratio"]
    assert json.loads(json.dumps(state)) == state
    layer.load_state_dict(json.loads(json.dumps(state)))
    layer.load_state_dict({**state, **{name: getattr(layer, name) for name in layer._attributes}})  # with tuples
    others = {"inverted": (True, False), "noise_shape": (None, (1, None, None), (1, 5, 3)), "axis": (1, 2, -1)}
    for name in layer._attributes:
        for value in others[name]:
            if value != getattr(layer, name):
                other = variant.make(0.5, 17)
                setattr(other, name, value)
                before = other.state_dict()
                with pytest.raises(ValueError, match=rf"^state\['{name}'\] is .*; wanted .*, as this layer has it"):
                    other.load_state_dict(state)
                assert other.state_dict() == before


def test_attributes(variant: Variant) -> None:
    """An attribute that a layer has not is refused, with the names of those it has, which can all be set."""
    layer = variant.make(0.5, 1)
    names = ["key", "calls", *(name for name in inspect.signature(type(layer)).parameters if name != "seed")]
    for wrong in {"ratio", "p", "seed", "axis", "inverted", "noise_shape"} - {*names}:
        with pytest.raises(AttributeError) as caught:
            setattr(layer, wrong, 0.5)
        assert str(caught.value).startswith(f"{type(layer).__name__} has no {wrong!r}; its attributes are dropout")
        assert {*str(caught.value).partition(" are ")[2].partition(";")[0].split(", ")} == {*names}
    for name in names:
        setattr(layer, name, getattr(layer, name))


def test_training_is_a_bool(variant: Variant) -> None:
    """It may be 0 or 1, or NumPy's bool; anything else, though true or false, is refused, and counts nothing."""
    layer, xs = variant.make(0.5, 3), _inputs(variant)
    odd: tuple[Any, ...] = ("no", "", None, 2, 0.0, [], np.ones(1, bool))
    for wrong in odd:
        with pytest.raises(TypeError, match=r"training is .*; wanted True or False"):
            layer.forward(*xs, training=wrong)
    assert layer.calls == 0
    for value in (True, 1, np.True_, np.int64(1)):
        call = layer.calls
        assert same_bits(layer.forward(*xs, training=value), variant.function(*xs, 0.5, 3, call))
    rest, call = layer.forward(*xs, False), layer.calls
    assert all(same_bits(layer.forward(*xs, value), rest) for value in (0, np.False_, np.int64(0)))
    assert layer.calls == call


def test_inverted_is_a_bool(variant: Variant) -> None:
    """As `training` is, by function, constructor and attribute, which keeps its value and gives Python's bool back."""
    layer, xs = variant.make(0.5, 3), _inputs(variant)
    function = getattr(ao, layer._pure)
    if "inverted" not in inspect.signature(function).parameters:
        return
    before = layer.inverted
    odd: tuple[Any, ...] = ("no", "", None, 2, 0.0, [], np.ones(1, bool))
    for wrong in odd:
        for call in (
            lambda wrong=wrong: type(layer)(inverted=wrong),
            lambda wrong=wrong: setattr(layer, "inverted", wrong),
            lambda wrong=wrong: function(*xs, 0.5, 3, inverted=wrong),
        ):
            with pytest.raises(TypeError, match=r"^inverted is .*; wanted True or False"):
                call()
    assert layer.inverted is before
    for value in (1, np.True_, np.int64(1)):
        layer.inverted = value
        assert layer.inverted is True
        assert same_bits(function(*xs, 0.5, 3, inverted=value), function(*xs, 0.5, 3, inverted=True))


def test_attributes_are_checked_where_they_are_set(variant: Variant) -> None:
    """A bad value is refused before the next forward, by name, and the layer stays as it was."""
    layer = variant.make(0.5, 3)
    before = repr(layer), layer.calls
    bad: dict[str, tuple[Any, ...]] = {
        "key": (-1, 2**64, 0.5, "3", None, True),
        "calls": (-1, 2**64, 0.5, "3", None, True),
        "noise_shape": (3, "ab", (0.5, None), (1, "b"), (-1, None), (True, None), {1, None}),
        "axis": (0.5, "1", None, True),
    }
    for name in {"key", "calls", *layer._attributes} & {*bad}:
        for wrong in bad[name]:
            with pytest.raises((TypeError, ValueError), match=rf"^{name} is .*; wanted "):
                setattr(layer, name, wrong)
    assert (repr(layer), layer.calls) == before
    with pytest.raises(TypeError, match=r"^seed is True; wanted an integer"):
        type(layer)(seed=True)


def test_a_changed_key_leaves_the_last_forward_its_own(variant: Variant) -> None:
    """What is set between a forward and its backward is for forwards to come: mask and gradient stay."""
    layer, xs, c = variant.make(0.5, 3), _inputs(variant), _values(9)
    layer.forward(*xs)
    mask = layer.mask
    layer.key, layer.calls = 4, 7
    for found, expected in zip(_tuple(layer.backward(c)), _tuple(variant.gradient(c, 0.5, 3, 0)), strict=True):
        assert same_bits(found, expected)
    assert same_bits(np.asarray(layer.mask), np.asarray(mask))
    assert same_bits(layer.forward(*xs), variant.function(*xs, 0.5, 4, 7))


def test_a_noise_shape_is_a_value() -> None:
    """A list that is changed later changes no layer, and NumPy's integers become Python's."""
    shape: list[Any] = [None, np.int64(1), 3]
    layer = ao.Dropout(0.5, noise_shape=shape, seed=3)
    y = layer.forward(np.ones(SHAPE))
    shape[1] = None
    assert layer.noise_shape == (None, 1, 3)
    assert repr(layer) == "Dropout(0.5, inverted=False, noise_shape=(None, 1, 3), seed=3)"
    assert same_bits(layer.backward(np.ones(SHAPE)), y)


def test_steps_through_time(variant: Variant) -> None:
    """T forwards, then T backwards in reverse, each with its own mask, which later forwards do not meet again."""
    shape = (64, 5, 3)
    layer, xs, c = variant.make(0.5, 5), _inputs(variant, "float64", shape), _values(9, "float64", shape)
    steps = 4
    masks = set()
    for _ in range(3):
        forwards = [layer.forward(*xs, call=layer.calls + t) for t in range(steps)]
        for t in reversed(range(steps)):
            found = layer.backward(c, call=layer.calls + t)
            alone = variant.make(0.5, 5)
            alone.calls = layer.calls + t
            assert same_bits(alone.forward(*xs), forwards[t])
            assert all(same_bits(a, b) for a, b in zip(_tuple(alone.backward(c)), _tuple(found), strict=True))
        layer.calls += steps
        masks |= {y.tobytes() for y in forwards}
    assert len(masks) == 3 * steps


def test_a_named_call_may_be_traced(need: Callable[[str], Library], variant: Variant) -> None:
    """Under `jax.jit`: compiled once, for all calls, to NumPy's numbers. XLA contracts products and sums."""
    lib = need("jax")
    import jax

    arrays, gradient = _inputs(variant, "float32"), _values(9, "float32")
    xs, c = [lib.asarray(x) for x in arrays], lib.asarray(gradient)
    layer = variant.make(0.5, 5)
    traces: list[int] = []

    def run(call: Any) -> Any:
        traces.append(1)
        return layer.forward(*xs, call=call), layer.backward(c, call=call), layer.sample(*xs, call)

    compiled = quick(run)
    for call in range(3):
        y, d, s = compiled(call)
        for a, b in (
            (y, layer.forward(*arrays, call=call)),
            (s, layer.sample(*arrays, call)),
            *zip(_tuple(d), _tuple(layer.backward(gradient, call=call)), strict=True),
        ):
            np.testing.assert_allclose(a, b, rtol=3e-7, atol=3e-7)
    assert len(traces) == 1
    with pytest.raises(TypeError, match=rf"is traced.*wanted call=.*anyoptim.{layer._pure}\("):
        jax.jit(layer.forward)(*xs)
    layer.forward(*arrays)
    with pytest.raises(TypeError, match="dout is traced"):
        jax.jit(layer.backward)(c)
    assert layer.calls == (0 if isinstance(layer, ao.VariationalDropout) else 1)


def test_autograd_goes_through(need: Callable[[str], Library], variant: Variant) -> None:
    """The gradient of torch and that of JAX are backward's."""
    need("torch")
    need("jax")
    import jax
    import torch

    xs, c = _inputs(variant, "float32"), _values(9, "float32")
    layer = variant.make(0.5, 1)
    expected = _tuple(layer.backward(c, call=2))
    tensors = [torch.tensor(x, requires_grad=True) for x in xs]
    (layer.forward(*tensors, call=2) * torch.tensor(c)).sum().backward()
    theirs = quick(jax.grad(lambda *a: (layer.forward(*a, call=2) * c).sum(), tuple(range(len(xs)))))(*xs)
    for tensor, there, e in zip(tensors, theirs, expected, strict=True):
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.numpy(), e, rtol=3e-7, atol=1e-7)
        np.testing.assert_allclose(there, e, rtol=3e-7, atol=1e-7)


def test_dask_stays_lazy(need: Callable[[str], Library], variant: Variant) -> None:
    """A forward of Dask arrays computes nothing, and keeps chunks."""
    lib = need("dask")
    import dask

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("computed")

    xs = [lib.asarray(x) for x in _inputs(variant)]
    layer = variant.make(0.5, 1)
    with dask.config.set(scheduler=refuse):
        y = layer.forward(*xs)
    assert y.chunks == xs[0].chunks
    assert same_bits(lib.tonumpy(y), layer.forward(*_inputs(variant), call=0))
