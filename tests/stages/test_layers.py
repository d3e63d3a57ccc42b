"""Stages that work on whole arrays, their peers, and rules of one's own that do."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.chains import agree
from tests.support.libraries import Library, same_bits
from tests.support.xla import quick

pytestmark = pytest.mark.usefixtures("quickly")

Array = np.ndarray[Any, Any]


def _rows(a: Array) -> Array:
    return a.reshape(len(a), math.prod(a.shape[1:]))


def _adaptive(p: Array, x: Array) -> Array:
    """Row by row; of a vector element by element."""
    if p.ndim < 2:
        p, x, shape = p.reshape(-1, 1), x.reshape(-1, 1), p.shape
    else:
        shape = p.shape
    rows = []
    for w, g in zip(_rows(p), _rows(x), strict=True):
        most = 0.5 * max(float(np.sqrt((w * w).sum())), 1e-3)
        length = float(np.sqrt((g * g).sum()))
        rows.append(g * (most / length) if length > most else g)
    return np.array(rows, x.dtype).reshape(shape)


def _centered(p: Array, x: Array) -> Array:
    return np.array([row - row.mean() for row in _rows(x)]).reshape(x.shape) if x.ndim > 1 and x.size else x


STAGES: dict[str, tuple[Callable[[], ao.Stage], Callable[[Array, Array], Array]]] = {
    "AdaptiveClip": (lambda: ao.AdaptiveClip(0.5), _adaptive),
    "Centralize": (ao.Centralize, _centered),
}
SHAPES: dict[str, tuple[int, ...]] = {
    "W": (4, 6),
    "kernel": (3, 2, 2, 2),
    "b": (5,),
    "s": (),
    "none": (0,),
    "empty": (0, 3),
}


def _problem(lib: Library, dtype: str, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Parameters and gradients, and the values that they have."""
    rng = np.random.default_rng(seed)
    start = {k: np.asarray(rng.normal(size=s)) for k, s in SHAPES.items()}
    start["W"][0] = 0  # no share of which moves anything
    params = {k: lib.array(a, dtype) for k, a in start.items()}
    grads = {k: lib.array(rng.normal(size=s) * 10.0 ** rng.integers(-3, 2), dtype) for k, s in SHAPES.items()}
    p, g = ({k: np.asarray(lib.tonumpy(a)).astype(float) for k, a in tree.items()} for tree in (params, grads))
    return params, grads, p, g


WIDE = pytest.mark.omit("its other dtypes are jax's", lambda lib, dtype, **_: lib == "jax-x64" and dtype != "float64")


@pytest.mark.telling
@WIDE
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", STAGES)
def test_equations(lib: Library, name: str, dtype: str) -> None:
    """Beside loops over rows in float64, on every library; in place and in the pure form."""
    make, plain = STAGES[name]
    params, grads, p, g = _problem(lib, dtype)
    optimizer = ao.chain(make(), ao.SGD(0.5))
    pure, _ = optimizer.step(params, grads, optimizer.init(params))
    pure, new = lib.values((pure, optimizer.update(params, grads)))
    rtol = {"float64": 1e-13, "float16": 2e-3, "bfloat16": 2e-2}.get(dtype, 1e-5)
    for k in SHAPES:
        assert same_bits(new[k], pure[k])
        wanted = p[k] - 0.5 * plain(p[k], g[k])
        np.testing.assert_allclose(new[k].astype(float), wanted, rtol=rtol, atol=rtol)


@WIDE
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_unit_norm(lib: Library, dtype: str) -> None:
    """Rows have length 1 after each step, towards where it led; those of zeros stay; numbers are refused."""
    params, grads, p, g = _problem(lib, dtype, seed=1)
    del params["s"], grads["s"]
    params["zero"] = grads["zero"] = lib.array(np.zeros((2, 3)), dtype)
    p["zero"] = g["zero"] = np.zeros((2, 3))
    optimizer = ao.chain(ao.Centralize(), ao.SGD(0.5), ao.UnitNorm())
    new = lib.values(optimizer.update(params, grads))
    for k in params:
        moved = p[k] - 0.5 * _centered(p[k], g[k])
        rows = moved.reshape(1, -1) if moved.ndim == 1 else moved.reshape(len(moved), int(np.prod(moved.shape[1:])))
        lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
        wanted = (rows / np.where(lengths > 0, lengths, 1.0)).reshape(moved.shape)
        tolerance = 2e-3 if dtype == "float16" else 1e-5
        np.testing.assert_allclose(new[k].astype(float), wanted, rtol=tolerance, atol=tolerance)
    with pytest.raises(ValueError, match=r"params\['s'\] is a number; UnitNorm wants vectors or rows"):
        optimizer.update({**params, "s": lib.array(1.0, dtype)}, {**grads, "s": lib.array(1.0, dtype)})


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        (ao.AdaptiveClip(), "is complex; AdaptiveClip wants real parameters"),
        (ao.UnitNorm(), "is complex; UnitNorm wants real parameters"),
    ],
)
def test_complex_parameters_are_refused(stage: ao.Stage, says: str) -> None:
    """By path, before anything is written, in every form; not where they rest, or are for another method."""
    stages = (ao.SGD(1.0), stage) if isinstance(stage, ao.ParameterStage) else (stage, ao.SGD(1.0))
    params: Any = {"l": [np.ones(2, complex)], "w": np.ones(2)}
    grads: Any = {"l": [np.ones(2, complex)], "w": np.ones(2)}
    optimizer = ao.chain(*stages)
    for call in (
        lambda: optimizer.update(params, grads),
        lambda: optimizer.init(params),
        lambda: optimizer.explain(params, grads),
    ):
        with pytest.raises(ValueError, match=rf"params\['l'\]\[0\] {says}"):
            call()
    assert optimizer.state is None
    frozen = ao.chain(*deepcopy(stages), ao.groups({"l.**": None, ...: {}}))
    frozen.update(params, grads)
    divided = ao.partition({"l.*": ao.SGD(1.0), ...: ao.chain(*deepcopy(stages))})
    divided.update(params, grads)
    assert params["l"][0].tolist() == [0.0, 0.0]


def test_centralized_complex_parameters() -> None:
    """The mean is that of both parts, and the step keeps the means of rows."""
    rng = np.random.default_rng(2)
    p, g = (rng.normal(size=(3, 4)) + 1j * rng.normal(size=(3, 4)) for _ in range(2))
    wanted = p - (g - g.mean(axis=1, keepdims=True))
    means = p.mean(axis=1)
    ao.chain(ao.Centralize(), ao.SGD(1.0)).update(p, g)
    np.testing.assert_allclose(p, wanted, rtol=1e-14)
    np.testing.assert_allclose(p.mean(axis=1), means, rtol=1e-13)


def test_optax(need: Callable[[str], Library]) -> None:
    """optax's centralize; and its adaptive_grad_clip, whose units of a matrix are columns."""
    optax = pytest.importorskip("optax")
    lib = need("jax-x64")

    rng = np.random.default_rng(3)
    shapes = {"W": (4, 6), "V": (5, 3)}
    params = {k: rng.normal(size=s) for k, s in shapes.items()}
    ours = {name: {k: a.copy() for k, a in params.items()} for name in ("center", "clip")}
    with lib.context():
        peers = {
            "center": optax.chain(optax.centralize(), optax.sgd(0.1)),
            "clip": optax.chain(optax.adaptive_grad_clip(0.1), optax.sgd(0.1)),
        }
        turned = {"center": lambda a: a, "clip": lambda a: a.T}
        theirs = {name: {k: lib.asarray(turned[name](a)) for k, a in params.items()} for name in peers}
        states = {name: peer.init(theirs[name]) for name, peer in peers.items()}
        updates = {name: quick(peer.update) for name, peer in peers.items()}
        optimizers = {
            "center": ao.chain(ao.Centralize(), ao.SGD(0.1)),
            "clip": ao.chain(ao.AdaptiveClip(0.1), ao.SGD(0.1)),
        }
        for _ in range(20):
            g = {k: rng.normal(size=s) for k, s in shapes.items()}
            for name, update in updates.items():
                given = {k: lib.asarray(turned[name](a)) for k, a in g.items()}
                moved, states[name] = update(given, states[name], theirs[name])
                theirs[name] = optax.apply_updates(theirs[name], moved)
                optimizers[name].update(ours[name], g)
        for name, tree in theirs.items():
            for k, a in tree.items():
                np.testing.assert_allclose(ours[name][k], turned[name](np.asarray(a)), rtol=1e-12, atol=1e-12)


def test_who_runs_it() -> None:
    """The portable engine, whatever is asked for; its chain with it; nothing is compiled, and there is no source."""
    params = {"w": np.ones((2, 2), np.float32)}
    for engine in (None, "compiled", "blocked", "portable"):
        optimizer = ao.chain(ao.Centralize(), ao.Adam(), engine=engine)
        (share,) = optimizer.explain(params, params)
        assert (share.engine, share.reason) == ("portable", "Centralize works on whole arrays")
        optimizer.compile(params)
        (share,) = optimizer.explain(params, params)
        assert share.engine == "portable"
        for text in ("compiled", "blocked", "cuda"):
            with pytest.raises(ValueError, match=f"Centralize works on whole arrays: '{text}' makes no code of it"):
                optimizer.kernel_source(text)


@pytest.mark.parametrize("name", ["jax", "jax-x64"])
def test_under_jit(name: str, need: Callable[[str], Library]) -> None:
    """Traced once, with a schedule; agrees with NumPy's run."""
    lib = need(name)

    with lib.context():

        def make() -> Any:
            return ao.chain(ao.AdaptiveClip(lambda t: 0.5 / t), ao.Centralize(), ao.SGD(0.1), Columns(), ao.UnitNorm())

        optimizer, eager, traces = make(), make(), []

        def counted(*given: Any) -> Any:
            traces.append(1)
            return optimizer.step(*given)

        step = quick(counted)
        p: Any = {"W": lib.array(np.arange(6.0).reshape(2, 3)), "b": lib.array([1.0, 2.0])}
        q, state = lib.values(p), optimizer.init(p)
        for i in range(4):
            g = {"W": lib.array(np.arange(6.0).reshape(2, 3) - i), "b": lib.array([1.0, -2.0])}
            p, state = step(p, g, state)
            q = eager.update(q, lib.values(g))
        assert len(traces) == 1
        for k in p:
            np.testing.assert_allclose(p[k], q[k], rtol=1e-5, atol=1e-5)


class Columns(ao.Stage):
    """A mean of squares for each column: a slot of another shape."""

    slots = ("v", "n")
    array_rule = True

    def slot_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return (shape[1:], ())

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, v: Any, n: Any, c: Any) -> Any:
        v = 0.5 * v + 0.5 * (xp.sum(x * x, axis=0) if x.ndim else x * x)
        n = n + 1.0
        return x / (1.0 + v) * n, v, n


@pytest.mark.parametrize("dtype", ["float32", "float16", "complex64"])
def test_slots_of_other_shapes(lib: Library, dtype: str) -> None:
    """They start as zeros of the compute dtype and come through states; others are refused."""
    optimizer = ao.chain(Columns(), ao.Momentum(0.5), ao.FlushSubnormals())
    p: Any = {"W": lib.array(np.ones((2, 3)), dtype), "s": lib.array(1.0, dtype)}
    g = {"W": lib.array([[1.0, 2.0, 3.0], [0.0, 2.0, 4.0]], dtype), "s": lib.array(2.0, dtype)}
    state = optimizer.init(p)
    wide = "complex64" if dtype == "complex64" else "float32"
    first = {k: np.asarray(lib.tonumpy(a)) for k, a in {**state.slots[0]["v"], "n": state.slots[0]["n"]["W"]}.items()}
    assert {k: (a.shape, str(a.dtype)) for k, a in first.items()} == {
        "W": ((3,), wide),
        "s": ((), wide),
        "n": ((), wide),
    }
    pure = p
    v, n, m, wanted = np.zeros(3), 0.0, np.zeros((2, 3)), np.ones((2, 3))
    values = np.array([[1.0, 2.0, 3.0], [0.0, 2.0, 4.0]])
    for _ in range(2 if lib.name == "dask" else 3):
        pure, state = optimizer.step(pure, g, state)
        v, n = 0.5 * v + 0.5 * (values**2).sum(axis=0), n + 1
        m = 0.9 * m + 0.5 * values / (1 + v) * n
        wanted = wanted - m
    for _ in range(2 if lib.name == "dask" else 3):
        p = optimizer.update(p, g)
    assert same_bits(np.asarray(lib.tonumpy(p["W"])), np.asarray(lib.tonumpy(pure["W"])))
    np.testing.assert_allclose(
        np.asarray(lib.tonumpy(p["W"])).real.astype(float), wanted, rtol=5e-3 if dtype == "float16" else 1e-5
    )
    assert optimizer.state is not None
    for found in (optimizer.state, state):
        np.testing.assert_allclose(np.asarray(lib.tonumpy(found.slots[0]["v"]["W"])).real, v, rtol=1e-5)
    wrong = {**state.slots[0], "v": state.slots[1]["v"]}
    with pytest.raises(
        ValueError,
        match=r"params\['W'\] has shape \(2, 3\) but state.slots\[0\]\['v'\]\['W'\] has shape \(2, 3\); wanted \(3,\)",
    ):
        optimizer.step(pure, g, state._replace(slots=(wrong, *state.slots[1:])))


def test_a_rule_that_gives_another_shape_is_refused() -> None:
    """By the names of the rules, before anything is written."""

    class Wrong(ao.Stage):
        array_rule = True
        rule = staticmethod(lambda xp, p, x, c: xp.sum(x, axis=0))

    p = np.ones((2, 3))
    with pytest.raises(TypeError, match=r"Wrong.* gave a ndarray of shape \(3,\) .*; wanted the shape \(2, 3\)"):
        ao.chain(ao.SGD(1.0), Wrong(), ao.Metrics()).update(p, p)
    assert (p == 1).all()


def test_measures_of_chains_with_whole_arrays() -> None:
    """A norm of what is centralized, a look at it, and a gate before."""
    rng = np.random.default_rng(5)
    p, g = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    optimizer = ao.chain(
        ao.SkipNonFinite(),
        ao.Centralize(),
        ao.Metrics("centered"),
        ao.ClipGlobalNorm(0.5),
        ao.SGD(1.0),
        ao.Metrics("step"),
    )
    before = p.copy()
    optimizer.update(p, g)
    x = g - g.mean(axis=1, keepdims=True)
    norm = float(np.linalg.norm(x))
    np.testing.assert_allclose(p, before - x * min(1.0, 0.5 / norm), rtol=1e-14)
    assert optimizer.last_metrics["centered"][""].norm == pytest.approx(norm, rel=1e-14)
    assert optimizer.last_metrics["step"][""].norm == pytest.approx(0.5, rel=1e-14)
    optimizer.update(p, g * np.nan)
    assert vars(optimizer.stages[0])["offender"] == ""


def test_copies() -> None:
    """Deep copies of whole stages go on alone."""
    rng = np.random.default_rng(6)
    optimizer, p = ao.chain(Columns(), ao.Momentum(), ao.UnitNorm()), rng.normal(size=(3, 4))
    optimizer.update(p, rng.normal(size=(3, 4)))
    other, q, g = deepcopy(optimizer), p.copy(), rng.normal(size=(3, 4))
    assert agree(optimizer.update(p, g), other.update(q, g))


def test_wrong_values() -> None:
    """By name."""
    with pytest.raises(ValueError, match=r"share is 0.0; wanted above 0"):
        ao.AdaptiveClip(0.0)
    with pytest.raises(ValueError, match=r"eps is -1.0; wanted above 0"):
        ao.AdaptiveClip(eps=-1.0)
