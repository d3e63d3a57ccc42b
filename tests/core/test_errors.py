"""Bad input: a clear error that names the key, and parameters and state as they were."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import optree
import pytest

import anyoptim as ao
from tests.support.libraries import PAIRS, Library, same_bits
from tests.support.states import equal_states


class Case(NamedTuple):
    """`params` and `grads` are made from a good W (2, 3) and b (3,) and their gradients."""

    params: Callable[[Any, Any], Any]
    grads: Callable[[Any, Any], Any]
    error: type[Exception]
    says: tuple[str, ...]


def _same(w: Any, b: Any) -> dict[str, Any]:
    return {"W": w, "b": b}


ANYWHERE = {
    "missing key": Case(_same, lambda w, b: {"W": w}, ValueError, ("grads['b'] is missing", "None skips")),
    "misspelt key": Case(_same, lambda w, b: {"W": w, "B": b}, ValueError, ("grads['b'] is missing", "grads['B']")),
    "unexpected key": Case(_same, lambda w, b: {"W": w, "b": b, "c": b}, ValueError, ("grads['c']",)),
    "nested key": Case(
        lambda w, b: {"l": [{"W": w}, b]},
        lambda w, b: {"l": [{"V": w}, b]},
        ValueError,
        ("grads['l'][0]['W'] is missing", "grads['l'][0]['V']"),
    ),
    "short list": Case(lambda w, b: [w, b], lambda w, b: [w], ValueError, ("grads[1] is missing",)),
    "long list": Case(lambda w, b: [w, b], lambda w, b: [w, b, b], ValueError, ("grads[2]",)),
    "array for a dict": Case(_same, lambda w, b: w, ValueError, ("grads is an array, but params a dict",)),
    "dict for an array": Case(
        lambda w, b: w, lambda w, b: {"W": w}, ValueError, ("grads is a dict, but params an array",)
    ),
    "list for a dict": Case(_same, lambda w, b: [w, b], ValueError, ("grads is a list, but params a dict",)),
    "list for an array": Case(
        _same,
        lambda w, b: {"W": w, "b": [1.0, 1.0], "c": b},
        ValueError,
        ("grads['b'] is a list, but params['b'] an array (np.asarray(...) makes one); grads['c'] has no match",),
    ),
    "lists for an array": Case(
        _same,
        lambda w, b: {"W": [[1.0], [1.0]], "b": b},
        ValueError,
        ("params['W'] an array (np.asarray(...) makes one)",),
    ),
    "arrays for an array": Case(
        _same, lambda w, b: {"W": w, "b": [b]}, ValueError, ("is a list, but params['b'] an array",)
    ),
    "None for all": Case(_same, lambda w, b: None, ValueError, ("grads is None",)),
    "shape": Case(
        _same, lambda w, b: {"W": w, "b": w}, ValueError, ("params['b'] has shape (3,)", "grads['b'] has shape (2, 3)")
    ),
    "shape that would broadcast": Case(
        lambda w, b: {"W": w, "b": b[:1]}, lambda w, b: {"W": w, "b": b}, ValueError, ("params['b'] has shape (1,)",)
    ),
    "a gradient for None": Case(
        lambda w, b: {"W": w, "b": None}, _same, ValueError, ("grads['b'] is given, but params['b'] is None",)
    ),
    "a string": Case(_same, lambda w, b: {"W": w, "b": "b"}, TypeError, ("grads['b'] is a builtins.str",)),
    "a generator": Case(lambda w, b: (x for x in (w, b)), _same, TypeError, ("params is a builtins.generator",)),
    "a set": Case(lambda w, b: {"W": w, "b": {1.0}}, _same, TypeError, ("params['b'] is a builtins.set",)),
    "integer scalar": Case(lambda w, b: {"W": w, "b": 3}, lambda w, b: {"W": w, "b": 1.0}, TypeError, ("params['b']",)),
    "bool scalar": Case(lambda w, b: {"W": w, "b": 1.0}, lambda w, b: {"W": w, "b": True}, TypeError, ("grads['b']",)),
    "two gradients for one array": Case(
        lambda w, b: {"W": w, "V": w},
        lambda w, b: {"W": w, "V": w + w},
        ValueError,
        ("params['V'] and params['W'] are one array", "grads['V'] and grads['W'] are two gradients"),
    ),
}


def _refused(optimizer: ao.Optimizer, params: Any, grads: Any, case: Case, tonumpy: Callable[[Any], Any]) -> None:
    """The update raises what it should, and leaves arrays, containers and state as they were."""
    leaves = [p for p in optree.tree_leaves(params) if hasattr(p, "shape")]
    values, state = [np.array(tonumpy(p)) for p in leaves], deepcopy(optimizer.state)
    with pytest.raises(case.error) as raised:
        optimizer.update(params, grads)
    for text in case.says:
        assert text in str(raised.value)
    after = [p for p in optree.tree_leaves(params) if hasattr(p, "shape")]
    assert all(a is b for a, b in zip(leaves, after, strict=True))
    for p, value in zip(leaves, values, strict=True):
        assert same_bits(tonumpy(p), value)
    assert equal_states(optimizer.state, state, tonumpy)


@pytest.mark.parametrize("name", ANYWHERE)
@pytest.mark.parametrize(("lib", "method"), PAIRS, indirect=True)
def test_refused_on_every_library(lib: Library, name: str, method: type[ao.Optimizer]) -> None:
    """At the first update, and again in mid-training by an optimizer that has a state to lose."""
    case = ANYWHERE[name]
    w, b = lib.array([[1, 2, 3], [4, 5, 6]]), lib.array([1, 2, 3])
    gw, gb = lib.array(np.ones((2, 3))), lib.array(np.ones(3))
    _refused(method(), case.params(w, b), case.grads(gw, gb), case, lib.tonumpy)

    optimizer, params = method(), {"W": w, "b": b}
    optimizer.update(params, {"W": gw, "b": gb})
    if case.params is _same:
        _refused(optimizer, case.params(*params.values()), case.grads(gw, gb), case, lib.tonumpy)


def test_pure_form_refuses_the_same(lib: Library) -> None:
    """`step` checks like `update`."""
    w, b = lib.array([[1, 2, 3], [4, 5, 6]]), lib.array([1, 2, 3])
    for name, case in ANYWHERE.items():
        if name == "a generator":
            continue
        optimizer = ao.Adam()
        with pytest.raises(case.error) as raised:
            optimizer.step(case.params(w, b), case.grads(w, b), optimizer.init(case.params(w, b)))
        assert case.says[0] in str(raised.value) or "params['b']" in str(raised.value)


NUMPY = {
    "integers": Case(
        lambda w, b: {"W": w.astype(int), "b": b}, _same, TypeError, ("params['W'] has dtype int64; wanted", "float32")
    ),
    "integer gradient": Case(
        _same, lambda w, b: {"W": w, "b": b.astype(np.int8)}, TypeError, ("grads['b'] has dtype int8",)
    ),
    "booleans": Case(lambda w, b: {"W": w, "b": b > 0}, _same, TypeError, ("params['b'] has dtype bool",)),
    "boolean gradient": Case(_same, lambda w, b: {"W": w, "b": b > 0}, TypeError, ("grads['b'] has dtype bool",)),
    "objects": Case(lambda w, b: {"W": w.astype(object), "b": b}, _same, TypeError, ("params['W'] has dtype object",)),
    "object gradient": Case(
        _same, lambda w, b: {"W": w, "b": b.astype(object)}, TypeError, ("grads['b'] has dtype object",)
    ),
    "long double": Case(
        lambda w, b: {"W": w.astype(np.longdouble), "b": b}, _same, TypeError, ("params['W'] has dtype float128",)
    ),
    "matrix": Case(lambda w, b: {"W": np.asmatrix(w), "b": b}, _same, TypeError, ("params['W'] is a numpy matrix",)),
    "matrix gradient": Case(
        _same, lambda w, b: {"W": np.asmatrix(w), "b": b}, TypeError, ("grads['W'] is a numpy matrix",)
    ),
    "masked": Case(
        lambda w, b: {"W": np.ma.masked_less(w, 3), "b": b}, _same, TypeError, ("params['W'] is a numpy MaskedArray",)
    ),
    "masked gradient": Case(
        _same, lambda w, b: {"W": w, "b": np.ma.masked_less(b, 3)}, TypeError, ("grads['b'] is a numpy MaskedArray",)
    ),
    "complex gradient": Case(
        _same, lambda w, b: {"W": w, "b": b * 1j}, TypeError, ("params['b'] has dtype float64 but grads['b']",)
    ),
    "real gradient": Case(
        lambda w, b: {"W": w, "b": b * 1j}, _same, TypeError, ("params['b'] has dtype complex128 but grads['b']",)
    ),
    "overlap": Case(
        lambda w, b: {"W": w, "b": w[1]}, _same, ValueError, ("params['W'] and params['b'] share part of their memory",)
    ),
    "transposed twin": Case(
        lambda w, b: {"W": w, "b": w.T}, lambda w, b: {"W": w, "b": w.T}, ValueError, ("share part of their memory",)
    ),
    "overlap of interleaved columns": Case(
        lambda w, b: {"W": w[:, :2], "b": w[:, 1:]},
        lambda w, b: {"W": w[:, :2], "b": w[:, 1:]},
        ValueError,
        ("params['W'] and params['b'] share",),
    ),
    "overlap with itself": Case(
        lambda w, b: {"W": w, "b": np.lib.stride_tricks.as_strided(b.copy(), (2, 2), (8, 8))},
        lambda w, b: {"W": w, "b": w[:, :2]},
        ValueError,
        ("params['b'] overlaps itself",),
    ),
    "a read-only view of the whole": Case(
        lambda w, b: {"W": w, "b": _locked(w[:])}, lambda w, b: {"W": w, "b": None}, ValueError, ("share part",)
    ),
    "the same memory in another dtype": Case(
        lambda w, b: {"W": w[0], "b": w[0].view("c8")},
        lambda w, b: {"W": b, "b": None},
        ValueError,
        ("share part of their memory",),
    ),
    "a read-only array in a tuple": Case(
        lambda w, b: {"l": (w, _read_only(b))},
        lambda w, b: {"l": (w, b)},
        TypeError,
        ("params['l'][1] can't be written to", "tuple", "optimizer.step"),
    ),
    "a float in a tuple": Case(lambda w, b: (w, 1.0), lambda w, b: (w, 1.0), TypeError, ("params[1]", "tuple", "step")),
}


def _read_only(a: Any) -> Any:
    return _locked(a.copy())


def _locked(a: Any) -> Any:
    a.flags.writeable = False
    return a


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("name", NUMPY)
def test_refused_for_numpy(name: str, method: type[ao.Optimizer]) -> None:
    """What only NumPy's arrays can be."""
    case = NUMPY[name]
    w, b = np.arange(6.0).reshape(2, 3), np.arange(3.0)
    _refused(method(), case.params(w, b), case.grads(np.ones((2, 3)), np.ones(3)), case, np.asarray)


def test_read_only_overlap_is_refused() -> None:
    """Writing to one array would change another that only reads the same memory."""
    w = np.arange(6.0).reshape(2, 3)
    row = w[0]
    row.flags.writeable = False
    case = Case(_same, _same, ValueError, ("share part of their memory",))
    _refused(ao.SGD(), {"W": w, "row": row}, {"W": w, "row": row}, case, np.asarray)


@pytest.mark.parametrize("name", ["torch", "jax", "dask", "strict"])
def test_mixed_libraries(name: str, need: Callable[[str], Library]) -> None:
    """A gradient of another library than its parameter's; parameters of several libraries side by side are fine."""
    lib = need(name)
    ours = {"W": np.ones(2, np.float32), "b": lib.array([1.0])}
    case = Case(_same, _same, TypeError, ("params['W'] is a numpy array", "grads['W'] is a"))
    grads = {"W": lib.array([1.0, 1.0]), "b": lib.array([1.0])}
    values = ours["W"].copy()
    with pytest.raises(case.error) as raised:
        ao.SGD().update(ours, grads)
    assert all(text in str(raised.value) for text in case.says)
    assert same_bits(ours["W"], values)
    ao.SGD(lr=1.0).update(ours, {"W": np.ones(2), "b": lib.array([1.0])})
    assert ours["W"].tolist() == [0, 0]
    assert lib.tonumpy(ours["b"]) == 0


def _devices(name: str) -> tuple[Any, Any]:
    """One array of two elements on each of two devices."""
    if name == "strict":
        import array_api_strict as strict

        return strict.ones(2), strict.ones(2, device=strict.Device("device1"))
    if name == "torch":
        import torch

        return torch.ones(2), torch.ones(2, device="meta")
    import jax

    one, two = jax.devices()[:2]
    return jax.device_put(np.ones(2, np.float32), one), jax.device_put(np.ones(2, np.float32), two)


@pytest.mark.parametrize("name", ["strict", "torch", "jax"])
def test_mixed_devices(name: str, need: Callable[[str], Library]) -> None:
    """A gradient on another device than its parameter, and a parameter that moved away from its slots."""
    lib = need(name)
    here, there = _devices(name)
    with pytest.raises(ValueError, match=r"params\['w'\] is on device .* but grads\['w'\] is on device"):
        ao.SGD().update({"w": here}, {"w": there})
    assert lib.tonumpy(here).tolist() == [1, 1]
    optimizer = ao.Adam()
    optimizer.update({"w": here}, {"w": here})
    with pytest.raises(ValueError, match=r"params\['w'\] is on device .* its slot 'm' is on"):
        optimizer.update({"w": there}, {"w": there})


def test_sparse_torch_gradient(need: Callable[[str], Library]) -> None:
    """Embeddings give sparse gradients, which no rule can read."""
    need("torch")
    import torch

    w = torch.ones(2)
    with pytest.raises(TypeError, match=r"grads\['w'\] has layout torch.sparse_coo"):
        ao.SGD().update({"w": w}, {"w": w.to_sparse()})


def test_dask_array_of_unknown_shape(need: Callable[[str], Library]) -> None:
    """A shape that is not known yet can't be compared."""
    lib = need("dask")
    g = lib.array([1.0, 2.0])
    with pytest.raises(TypeError, match=r"grads\['w'\] has the unknown shape"):
        ao.SGD().update({"w": lib.array([1.0, 2.0])}, {"w": g[g > 1]})


def test_dask_array_of_masked_chunks(need: Callable[[str], Library]) -> None:
    """They would lose their masks in silence."""
    lib = need("dask")
    import dask.array as da

    with pytest.raises(TypeError, match=r"params\['w'\] has masked chunks"):
        ao.SGD().update({"w": da.ma.masked_equal(lib.array([1.0, 2.0]), 1.0)}, {"w": lib.array([1.0, 2.0])})


@pytest.mark.parametrize("name", ["jax", "dask"])
def test_a_tuple_of_arrays_that_cannot_be_rebound(name: str, need: Callable[[str], Library]) -> None:
    """`update` refuses and names `step`; `step` does it."""
    lib = need(name)
    params, optimizer = (lib.array([1.0]), lib.array([2.0])), ao.SGD(lr=1.0)
    with pytest.raises(TypeError, match=r"params\[0\].*tuple.*params, state = optimizer.step\(params, grads, state\)"):
        optimizer.update(params, params)
    moved, _ = optimizer.step(params, params, optimizer.init(params))
    assert type(moved) is tuple
    assert [float(lib.tonumpy(p)[0]) for p in moved] == [0, 0]


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "gained": (lambda p: {**p, "new": np.ones(1)}, r"params changed since the first update: params\['new'\] came"),
    "lost": (lambda p: {"W": p["W"]}, r"params changed since the first update: params\['b'\], params\['c'\] went"),
    "renamed": (lambda p: {"W": p["W"], "c": p["c"], "d": p["b"]}, r"params\['d'\] came, params\['b'\] went"),
    "became a list": (lambda p: [p["W"], p["b"]], r"params\[0\], params\[1\] came"),
    "shape": (
        lambda p: {**p, "b": np.ones(4)},
        r"params\['b'\] is a numpy array of shape \(4,\) and dtype float64, but was a numpy array of shape \(3,\)",
    ),
    "dtype": (
        lambda p: {**p, "b": np.ones(3, "f4")},
        r"params\['b'\] is .* dtype float32, but was .* dtype float64 at the first update",
    ),
    "None": (lambda p: {**p, "b": None}, r"params\['b'\] is None, but was a numpy array"),
    "tied": (lambda p: {**p, "c": p["b"]}, r"params\['c'\] is .*under a second name, but was a numpy array of shape"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_parameters_that_changed_between_steps(name: str, method: type[ao.Optimizer]) -> None:
    """Slots belong to keys, shapes and dtypes; what they belonged to is named."""
    change, says = CHANGES[name]
    params, optimizer = {"W": np.ones((2, 3)), "b": np.ones(3), "c": np.ones(3)}, method()
    optimizer.update(params, {"W": np.ones((2, 3)), "b": np.ones(3), "c": np.ones(3)})
    changed, state = change(params), deepcopy(optimizer.state)
    values = [np.array(p) for p in optree.tree_leaves(changed)]
    with pytest.raises(ValueError, match=says):
        optimizer.update(changed, optree.tree_map(lambda p: p, changed))
    assert all(same_bits(a, b) for a, b in zip(optree.tree_leaves(changed), values, strict=True))
    assert equal_states(optimizer.state, state)


BAD_VALUES: dict[str, list[Any]] = {
    "lr": [-0.1, math.nan, math.inf, -math.inf, "fast", "0.1", 1j, None, 10**400],
    **{name: [-1e-7, math.nan, math.inf] for name in ("eps", "eps_corrected", "eps_root", "eps_max")},
    **{name: [-1e-7, math.nan, math.inf] for name in ("weight_decay", "momentum_decay", "lr_decay", "threshold")},
    **{name: [-1e-7, math.nan, math.inf] for name in ("lambd", "alpha", "t0", "step_min", "step_max")},
    **{name: [-0.1, 1.0, 1.5, math.nan] for name in ("momentum", "dampening", "rho", "eta_minus")},
    **{name: [-0.1, 1.0, 1.5, math.nan] for name in ("beta1", "beta2", "beta3")},
    "eta_plus": [0.9, -1.2, math.nan, math.inf],
    "warmup": [-0.1, 0.6, math.nan],
}


def test_bad_hyperparameters(method: type[ao.Optimizer]) -> None:
    """Refused where they are given: to the constructor, to the attribute, by a schedule; each with its name."""
    for name in method.hyperparameters:
        for value in BAD_VALUES.get(name, ["fast", math.nan]):  # which no domain has
            with pytest.raises((TypeError, ValueError), match=f"^{name} is .*wanted"):
                method(**{name: value})
            optimizer, p = method(), np.ones(2)
            optimizer.update(p, np.ones(2))
            before, state, old = p.copy(), deepcopy(optimizer.state), getattr(optimizer, name)
            with pytest.raises((TypeError, ValueError), match=f"^{name} is .*wanted"):
                setattr(optimizer, name, value)
            assert getattr(optimizer, name) == old
            setattr(optimizer, name, lambda t, value=value: value)
            with pytest.raises((TypeError, ValueError), match=f"^{name}, from its schedule at step 2, is .*wanted"):
                optimizer.update(p, np.ones(2))
            assert same_bits(p, before)
            assert equal_states(optimizer.state, state)


def test_a_schedule_that_fails_leaves_everything() -> None:
    """The user's own exception comes through, before anything is written."""

    def schedule(t: int) -> float:
        raise LookupError("no rate for this step")

    p, optimizer = np.ones(2), ao.Momentum()
    optimizer.update(p, np.ones(2))
    before, state = p.copy(), deepcopy(optimizer.state)
    optimizer.lr = schedule
    with pytest.raises(LookupError, match="no rate for this step"):
        optimizer.update(p, np.ones(2))
    assert same_bits(p, before)
    assert equal_states(optimizer.state, state)


def test_unknown_engine() -> None:
    """The names there are stand in the message."""
    names = "'cuda', 'compiled', 'blocked', 'jax', 'portable', or None"
    with pytest.raises(ValueError, match=f"engine is 'warp'; wanted one of {names}"):
        ao.SGD(engine="warp")  # type: ignore[arg-type]
    optimizer = ao.SGD(engine="portable")
    with pytest.raises(ValueError, match="engine is 'warp'"):
        optimizer.engine = "warp"  # type: ignore[assignment]
    assert optimizer.engine == "portable"


def test_states_that_do_not_fit(lib: Library) -> None:
    """`step` checks the state that it is handed like everything else."""
    p, adam = {"w": lib.array([1.0, 2.0])}, ao.Adam()
    state = adam.init(p)
    bad = {
        r"state is a dict; wanted the State": {"m": 1},
        r"state.slots has \['v'\]; wanted \['m', 'v'\]": ao.Momentum().init(p),
        r"state.t\['w'\] is missing": state._replace(t={}),
        r"state.slots\['m'\]\['w'\] is missing": state._replace(slots={**state.slots, "m": {"x": p["w"]}}),
        r"params\['w'\] has shape \(2,\) but state.slots\['m'\]\['w'\] has shape \(1,\)": adam.init(
            {"w": lib.array([1.0])}
        ),
        r"state.slots\['m'\]\['w'\] is None": state._replace(slots={**state.slots, "m": {"w": None}}),
    }
    for says, wrong in bad.items():
        with pytest.raises((TypeError, ValueError), match=says):
            adam.step(p, p, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"state.slots\['m'\]\['w'\] has dtype .*; wanted"):
        adam.step({"w": np.ones(1)}, {"w": np.ones(1)}, adam.init({"w": np.ones(1, np.float32)}))


@pytest.mark.parametrize("mode", ["raise", "warn"])
def test_numpy_error_state_changes_nothing(mode: Any, method: type[Any]) -> None:
    """Overflow, division by zero and NaN on the way are results, whatever `np.seterr` says."""
    values = np.array([0.0, 1e-320, 1e-40, 3e38, 1e300, np.inf, np.nan, 1.0])
    expected: list[Any] = []
    for state in ("ignore", mode):
        for dtype in (np.float32, np.float64):
            with np.errstate(all="ignore"):
                p, g = (values.astype(dtype) for _ in range(2))
            old = np.seterr(all=state)
            try:
                optimizer = method(lr=10.0, **({"eps": 0.0} if "eps" in method.hyperparameters else {}))
                for _ in range(3):
                    optimizer.update({"p": p, "x": 1e308}, {"p": g, "x": 1e308})
                layer = ao.Dropout(0.5, seed=1, inverted=True)
                y, dx = layer.forward(p), layer.backward(g)
            finally:
                np.seterr(**old)
            expected.append((p, y, dx))
    for a, b in zip(expected[:2], expected[2:], strict=True):
        assert all(same_bits(x, y) for x, y in zip(a, b, strict=True))


def test_a_rule_that_goes_wrong_is_named() -> None:
    """A rule may use its few operations only, and must give arrays of its parameter's shape and dtype."""

    class Tanh(ao.Optimizer):
        @staticmethod
        def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
            return xp.tanh(x)

    class Sum(ao.Optimizer):
        @staticmethod
        def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
            return x[:, None]

    class Slotless(ao.Optimizer):
        slots = ("v",)

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, v: Any, c: Any) -> Any:
            return x

    class InPlace(ao.Optimizer):
        slots = ("m",)

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, m: Any, c: Any) -> Any:
            m += x
            return m, m

    p = np.ones(3)
    g = np.ones(3)
    with pytest.raises(TypeError, match=r"the rule .*Tanh.rule does what no kernel can: it uses xp.tanh; .*has .*sqrt"):
        Tanh().update(p, g)
    with pytest.raises(TypeError, match=r"the rule .*Sum.rule does what no kernel can: it takes \[.*\] of an array"):
        Sum().update(p, g)
    with pytest.raises(TypeError, match=r"Slotless.rule gave 1 arrays; wanted a tuple of 2"):
        Slotless().update(p, g)
    with pytest.raises(TypeError, match=r"InPlace.rule does what no kernel can: it writes to what it was given"):
        InPlace().update(p, g)
    optimizer = InPlace(engine="portable")
    state = optimizer.init(p)
    with pytest.raises(TypeError, match="it writes to what it was given"):
        optimizer.step(p, g, state)
    assert p.tolist() == g.tolist() == [1, 1, 1]
    assert state.slots["m"].tolist() == [0, 0, 0]


STARTS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "array": (lambda xp, p: xp.zeros_like(p), "gave a .*; wanted a tuple of 1"),
    "two": (lambda xp, p: (p, p), "gave 2 arrays; wanted a tuple of 1"),
    "dtype": (lambda xp, p: (xp.zeros(2, dtype=xp.float64),), "dtype .*float64; wanted .* dtype .*float32"),
    "shape": (lambda xp, p: (xp.zeros(3, dtype=xp.float32),), r"shape .*3.*; wanted the shape \(2,\)"),
    "number": (lambda xp, p: (1.0,), "wanted the shape"),
}


@pytest.mark.parametrize("name", STARTS)
def test_slots_that_start_wrong_are_named(lib: Library, name: str) -> None:
    """What `init_slots` gives is checked like what a rule gives."""
    init, says = STARTS[name]
    if lib.name == "jax" and name == "dtype":
        pytest.skip("jax makes no float64 without x64, and warns of it")

    class Wrong(ao.SGD):
        slots = ("s",)

        @classmethod
        def init_slots(cls, xp: Any, p: Any) -> Any:
            return init(xp, p)

    with pytest.raises(TypeError, match=f"Wrong.init_slots gave .*{says.removeprefix('gave ')}"):
        Wrong().init(lib.array([1.0, 2.0]))


def test_misspelt_hyperparameters(method: type[Any]) -> None:
    """A name that no rule reads is refused where it is given, to the constructor and as an attribute."""
    with pytest.raises(TypeError, match="learning_rate"):
        method(learning_rate=0.1)
    optimizer = method()
    with pytest.raises(AttributeError, match=f"{method.__name__} has no 'learning_rate'; its hyperparameters are lr"):
        optimizer.learning_rate = 0.1

    class Own(ao.Optimizer):
        lr: ao.Nonnegative
        beta: ao.Fraction

    with pytest.raises(TypeError, match="Own was not given beta"):
        Own(lr=0.1)  # type: ignore[call-arg]


def test_a_container_under_two_names() -> None:
    """Its floats have no identity of their own, but one place can't take two gradients."""
    inner = [1.0]
    with pytest.raises(ValueError, match=r"params\[0\]\[0\] and params\[1\]\[0\] are one place in one container"):
        ao.SGD().update([inner, inner], [[1.0], [2.0]])
    assert inner == [1.0]


def test_a_dict_of_another_class() -> None:
    """It is a leaf to every tree library, so the message says what would do."""

    class Named(dict[str, Any]):
        pass

    with pytest.raises(TypeError, match=r"params is a .*Named; wanted an array, a float, or a plain dict.*dict\(...\)"):
        ao.SGD().update(Named(w=np.ones(1)), {"w": np.ones(1)})


@pytest.mark.parametrize("transform", ["jit", "grad", "scan", "lr"])
def test_update_under_a_jax_transformation(transform: str, need: Callable[[str], Library]) -> None:
    """State and step count would be frozen into the transformed function: refused, and nothing is remembered."""
    lib = need("jax")
    import jax

    optimizer, w, g = ao.Momentum(), lib.array([1.0, 2.0]), lib.array([1.0, 1.0])

    def set_lr(lr: Any) -> Any:
        optimizer.lr = lr
        return optimizer.update({"w": np.ones(2)}, {"w": np.ones(2)})["w"]

    calls: dict[str, Callable[[], Any]] = {
        "jit": lambda: jax.jit(optimizer.update)(w, g),
        "grad": lambda: jax.grad(lambda a: optimizer.update(a, g).sum())(w),
        "scan": lambda: jax.lax.scan(lambda a, _: (optimizer.update(a, g), None), w, None, length=2),
        "lr": lambda: jax.jit(set_lr)(0.1),
    }
    with pytest.raises(TypeError, match=r"the update of params.* is traced.*optimizer.step\(params, grads, state\)"):
        calls[transform]()
    assert optimizer.state is None


def test_states_with_other_counts(lib: Library) -> None:
    """Step counts are integers."""
    p, sgd = {"w": lib.array([1.0])}, ao.SGD()
    for step, t, says in (
        (1.7, {"w": 1}, "state.step is 1.7; wanted an integer"),
        (-5, {"w": 1}, "state.step is -5; wanted at least 0"),
        (1, {"w": None}, r"state.t\['w'\] is None; wanted an integer"),
        (1, {"w": "1"}, r"state.t\['w'\] is '1'; wanted an integer"),
    ):
        with pytest.raises((TypeError, ValueError), match=says):
            sgd.step(p, p, ao.State(step, t, {}))
    _, state = sgd.step(p, p, ao.State(np.int64(1), {"w": np.array(1)}, {}))
    assert state == ao.State(2, {"w": 2}, {})
