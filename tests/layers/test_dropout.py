"""Dropout: its masks and its state, on every library. Its arithmetic and its parts are among its relatives'."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import anyoptim as ao
from tests.reference.philox import choice
from tests.support.libraries import HALF, REAL, Library, numpy_dtype, same_bits

pytestmark = pytest.mark.usefixtures("quickly")

RATIOS = [0.0, 0.1, 0.5, 0.9, 1.0]


@pytest.mark.telling
@pytest.mark.parametrize("ratio", RATIOS)
def test_the_mask_of_key_and_call_is_the_definition(lib: Library, ratio: float) -> None:
    """On every library: kept where the choice is at least ratio * 2**32, choices from Python's own integers."""
    x = lib.array(np.ones((3, 7)))
    expected = [[float(choice(7 * i + j, 99, 1) >= ratio * 2**32) for j in range(7)] for i in range(3)]
    assert lib.tonumpy(ao.dropout(x, ratio, 99, 1)).tolist() == expected
    layer = ao.Dropout(ratio, seed=99)
    for _ in range(2):
        y = layer.forward(x)
    assert lib.tonumpy(y).tolist() == expected
    assert lib.tonumpy(layer.mask).tolist() == [[bool(e) for e in row] for row in expected]


@pytest.mark.covering(1)  # each ratio on each library: the definition, of which this is a consequence
@pytest.mark.parametrize("ratio", RATIOS)
def test_the_kept_share(lib: Library, ratio: float) -> None:
    """It is within four standard deviations of 1 - ratio for a fixed key; at 0 all are kept, and at 1 none."""
    n = 40_000
    layer = ao.Dropout(ratio, seed=2026)
    share = float(lib.tonumpy(layer.forward(lib.array(np.ones(n)))).mean())
    assert abs(share - (1 - ratio)) <= 4 * np.sqrt(ratio * (1 - ratio) / n)


def test_forward_calls_draw_new_masks_and_backward_uses_its_own(lib: Library) -> None:
    """So many forwards give so many masks; after each, backward passes what that forward passed."""
    layer, x = ao.Dropout(0.5, seed=1), lib.array(np.ones(64))
    seen = set()
    for _ in range(lib.steps(20)):
        y = lib.tonumpy(layer.forward(x))
        layer.forward(x, False)  # inference between does not disturb it
        assert lib.tonumpy(layer.backward(x)).tolist() == y.tolist()
        assert lib.tonumpy(layer.mask).tolist() == (y == 1).tolist()
        seen.add(y.tobytes())
    assert len(seen) == lib.steps(20)


def test_layers_without_a_seed_differ_and_layers_of_one_seed_agree() -> None:
    """No two layers share masks by accident; on purpose they do."""
    x = np.ones(64)
    assert len({ao.Dropout().forward(x).tobytes() for _ in range(20)}) == 20
    assert same_bits(ao.Dropout(seed=5).forward(x), ao.Dropout(seed=5).forward(x))
    assert not same_bits(ao.Dropout(seed=5).forward(x), ao.Dropout(seed=6).forward(x))


def test_unseeded_keys_use_all_their_bits() -> None:
    """Each of the upper eight of 64 random bits is set somewhere among 50 keys, but for a chance of 8 in 2**50."""
    keys = [ao.Dropout().key for _ in range(50)]
    assert all(any(key >> bit & 1 for key in keys) for bit in range(56, 64))


def test_the_threshold_is_the_nearest_integer() -> None:
    """A choice below it drops, one that equals it stays."""
    first = choice(0, 7, 0)
    x = np.ones(1)
    for ratio, kept in ((first, 1), (first + 0.25, 1), (first + 0.75, 0), (first + 1, 0)):
        assert ao.dropout(x, ratio / 2**32, 7).tolist() == [kept]


def test_the_first_and_the_last_choice(lib: Library) -> None:
    """At ratio 0 even the choice 0 stays, and at 1 even the largest drops; at the ratios next to these, they do not."""
    for offset, drawn, ratios in (
        (8739743747, 0, ((0.0, 1), (2**-32, 0))),
        (10637236712, 2**32 - 1, ((1.0, 0), (1 - 2**-32, 1))),
    ):
        assert choice(offset, 7, 0) == drawn  # found by looking at all of them
        for ratio, kept in ratios:
            assert lib.tonumpy(ao.dropout(lib.array([1.0]), ratio, 7, 0, offset)).tolist() == [kept]


def test_a_changed_ratio_leaves_the_last_forward_its_own() -> None:
    """`dropout_ratio` is a live attribute, and backward belongs to a forward that has been."""
    layer, x = ao.Dropout(0.5, seed=1), np.ones(100)
    y = layer.forward(x)
    layer.dropout_ratio, layer.inverted = 0.9, True
    assert same_bits(layer.backward(x), y)
    assert same_bits(np.asarray(layer.mask), y == 1)
    assert layer.forward(x).max() == pytest.approx(10)


@given(shape=array_shapes(min_dims=0, max_dims=3, min_side=0), order=st.sampled_from("CF"))
def test_memory_order_does_not_matter(shape: tuple[int, ...], order: Any) -> None:
    """Elements are counted in logical C order whatever the layout of x, and a 0-d array stays an array."""
    x = np.ones(shape)
    expected = ao.Dropout(seed=3).forward(x)
    given = np.asarray(np.asarray(x, order=order)[::-1] if shape else x)
    y = ao.Dropout(seed=3).forward(given)
    assert isinstance(y, np.ndarray)
    assert same_bits(np.ascontiguousarray(y), np.ascontiguousarray(expected))


def test_backward_of_another_dtype_and_layout(lib: Library) -> None:
    """A gradient in another dtype keeps that dtype; one in another memory order is met element by element."""
    layer = ao.Dropout(0.5, seed=4)
    y = lib.tonumpy(layer.forward(lib.array(np.ones((4, 6)))))
    for dtype in set(lib.dtypes) & set(HALF + REAL):
        dx = layer.backward(lib.array(np.ones((4, 6)), dtype))
        assert lib.tonumpy(dx).dtype == numpy_dtype(dtype)
        assert np.asarray(lib.tonumpy(dx), np.float32).tolist() == y.tolist()
    dout = np.arange(24.0, dtype=np.float32).reshape(6, 4)
    transposed = lib.asarray(dout).T
    assert lib.tonumpy(layer.backward(transposed)).tolist() == (dout.T * y).tolist()


def test_state_goes_on_where_it_was_taken(lib: Library) -> None:
    """After a restore, a copy or a pickle, the next mask is the next mask."""
    layer, x = ao.Dropout(0.5), lib.array(np.ones(64))
    for _ in range(3):
        layer.forward(x)
    restored = ao.Dropout(0.5)
    restored.load_state_dict(layer.state_dict())
    layers = [restored, deepcopy(layer)] + ([pickle.loads(pickle.dumps(layer))] if lib.name != "strict" else [])  # noqa: S301
    for other in layers[1:]:
        assert lib.tonumpy(other.backward(x)).tolist() == lib.tonumpy(layer.backward(x)).tolist()
    with pytest.raises(RuntimeError, match="no mask yet"):
        restored.backward(x)
    expected = lib.tonumpy(layer.forward(x)).tolist()
    assert [lib.tonumpy(other.forward(x)).tolist() for other in layers] == [expected] * len(layers)


def test_bad_states_are_refused_whole() -> None:
    """A state that can't be loaded changes nothing."""
    layer = ao.Dropout(seed=5)
    layer.forward(np.ones(3))
    before = {"layer": "Dropout", "inverted": False, "noise_shape": None, "key": 5, "calls": 1, "dropout_ratio": 0.5}
    good = {**before, "key": 1, "calls": 2, "dropout_ratio": 0.25}
    for state, error, says in (
        (None, ValueError, "state is None; wanted a dict with layer, inverted, noise_shape, key, calls, "),
        ({"key": 1, "calls": 2}, ValueError, "state is {.*wanted a dict with"),
        ({**good, "x": 3}, ValueError, "state is {.*wanted a dict with"),
        ({**good, "calls": -2}, ValueError, r"state\['calls'\] is -2"),
        ({**good, "calls": "2"}, TypeError, r"state\['calls'\] is '2'"),
        ({**good, "dropout_ratio": 1.25}, ValueError, r"state\['dropout_ratio'\] is 1.25"),
        ({**good, "inverted": True}, ValueError, r"state\['inverted'\] is True; wanted False, as this layer has it"),
        ({**good, "inverted": np.ones(2)}, ValueError, r"state\['inverted'\] is array"),
        ({**good, "noise_shape": [1]}, ValueError, r"state\['noise_shape'\] is \[1\]; wanted None, as this"),
        (ao.DropConnect().state_dict(), ValueError, r"state\['layer'\] is 'DropConnect'; wanted 'Dropout'"),
        (ao.AlphaDropout().state_dict(), ValueError, r"state\['layer'\] is 'AlphaDropout'; wanted 'Dropout'"),
    ):
        with pytest.raises(error, match=says):
            layer.load_state_dict(state)  # type: ignore[arg-type]
        assert layer.state_dict() == before
        assert layer.mask is not None


@pytest.mark.parametrize("ratio", [-0.1, 1.1, np.nan, np.inf, "half", None])
def test_ratio_outside_its_range(ratio: Any) -> None:
    """Refused by constructor, attribute and function, by name."""
    with pytest.raises((TypeError, ValueError), match=r"^dropout_ratio is .*wanted.*from 0 to 1"):
        ao.Dropout(ratio)
    layer = ao.Dropout(0.25)
    with pytest.raises((TypeError, ValueError), match=r"^dropout_ratio is .*wanted.*from 0 to 1"):
        layer.dropout_ratio = ratio
    assert layer.dropout_ratio == 0.25
    with pytest.raises((TypeError, ValueError), match=r"^ratio is .*wanted.*from 0 to 1"):
        ao.dropout(np.ones(2), ratio, 0)


def test_bad_input() -> None:
    """An input that can't be dropped out of is named, and no call is counted for it."""
    layer = ao.Dropout(seed=1)
    before = layer.state_dict()
    assert layer.mask is None
    with pytest.raises(RuntimeError, match="backward came before the first forward"):
        layer.backward(np.ones(2))
    layer.forward(np.ones(2), call=0)
    with pytest.raises(RuntimeError, match=r"after forward\(x, call=...\) wanted backward\(dout, call=...\) with the"):
        layer.backward(np.ones(2))
    for x, says in (
        (np.ones(3, int), "x has dtype int64; wanted one of float16"),
        (np.ones(3, bool), "x has dtype bool"),
        (np.ma.masked_less(np.ones(3), 0), "x is a numpy MaskedArray"),
        ([1.0, 2.0], "x is a builtins.list; wanted an array"),
    ):
        for training in (True, False):
            with pytest.raises(TypeError, match=says):
                layer.forward(x, training)
    assert layer.state_dict() == before
    layer.forward(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"dout has shape \(3,\) but the last training forward's x had shape \(2, 3\)"):
        layer.backward(np.ones(3))
    for seed in (-1, 2**64, 0.5):
        with pytest.raises((TypeError, ValueError), match=r"^seed is"):
            ao.Dropout(seed=seed)  # type: ignore[arg-type]


def test_a_float_is_an_input_too() -> None:
    """A Python float is taken by layers, as it is by optimizers."""
    y = ao.Dropout(0.0).forward(2.5)
    assert y == 2.5
    assert type(y) is float


def test_infinities_and_ratio_one() -> None:
    """Inverted dropout at ratio 1 has nothing to scale: it gives 0, not 0*inf, and an infinite x no warning."""
    assert ao.Dropout(1.0, inverted=True).forward(np.ones(5)).tolist() == [0] * 5
    y = ao.Dropout(0.5, seed=0).forward(np.full(50, np.inf))
    assert set(y[~np.isnan(y)].tolist()) == {np.inf}


def test_traced_layers_are_refused_and_the_function_is_not(need: Callable[[str], Library]) -> None:
    """A jitted layer would draw the same mask for ever; the function takes the call as an argument."""
    lib = need("jax")
    import jax

    layer, x = ao.Dropout(0.5, seed=1), lib.array(np.ones(32))
    with pytest.raises(TypeError, match=r"x is traced.*anyoptim.dropout\(x, ratio, key, call\)"):
        jax.jit(layer.forward)(x)
    assert layer.calls == 0
    y = layer.forward(x)
    with pytest.raises(TypeError, match="dout is traced"):
        jax.jit(layer.backward)(x)
    assert lib.tonumpy(jax.jit(lambda a: layer.forward(a, False))(x)).tolist() == [0.5] * 32
    compiled = jax.jit(lambda a, call: ao.dropout(a, 0.5, 1, call))
    assert lib.tonumpy(compiled(x, 0)).tolist() == lib.tonumpy(y).tolist()
    assert lib.tonumpy(compiled(x, 1)).tolist() == lib.tonumpy(layer.forward(x)).tolist()
    gradient = jax.grad(lambda a: (3 * ao.dropout(a, 0.5, 1, 0)).sum())(x)
    assert lib.tonumpy(gradient).tolist() == (3 * lib.tonumpy(y)).tolist()


def test_a_traced_ratio_is_refused(need: Callable[[str], Library]) -> None:
    """The threshold is a number of the host."""
    lib = need("jax")
    import jax

    with pytest.raises(TypeError, match="ratio is traced; wanted a number"):
        jax.jit(lambda ratio: ao.dropout(lib.array([1.0]), ratio, 0))(0.5)


def test_masks_lie_where_their_input_lay(need: Callable[[str], Library]) -> None:
    """The mask lies on the second of two devices, where forward and backward are."""
    need("jax")
    import jax

    there = jax.devices()[1]
    layer = ao.Dropout(seed=1)
    y = layer.forward(jax.device_put(np.ones(8, np.float32), there))
    assert layer.mask is not None
    assert [a.device for a in (y, layer.mask, layer.backward(y))] == [there] * 3


def test_autograd_goes_through(need: Callable[[str], Library]) -> None:
    """Torch's gradient of forward is backward."""
    need("torch")
    import torch

    x = torch.ones(64, requires_grad=True)
    layer = ao.Dropout(0.5, inverted=True, seed=1)
    layer.forward(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == layer.backward(torch.ones(64)).tolist()


def test_dask_stays_lazy_and_keeps_its_chunks(need: Callable[[str], Library]) -> None:
    """The mask is divided as x is, and nothing is computed."""
    need("dask")
    import dask.array as da

    x = da.ones((30, 7), chunks=(8, 4))
    y = ao.Dropout(0.5, seed=1).forward(x)
    assert y.chunks == x.chunks
    assert same_bits(y.compute(), ao.Dropout(0.5, seed=1).forward(np.ones((30, 7))))


def test_a_foreign_byte_order_stays() -> None:
    """The output has the byte order of x, in whatever way it is computed."""
    x = np.arange(4, dtype=">f4")
    for y in (ao.dropout(x, 0.5, 1), ao.dropout(x, 0.5, 1, inverted=True), ao.zoneout(x, x, 0.5, 1)):
        assert y.dtype == x.dtype


def test_a_traced_call_of_another_library(need: Callable[[str], Library]) -> None:
    """It is refused, with the names of both libraries."""
    need("jax")
    import jax

    with pytest.raises(TypeError, match="call is traced by jax, but like is an array of numpy"):
        jax.jit(lambda call: ao.dropout(np.ones(3), 0.5, 1, call))(2)
