"""Methods of whole arrays: on every library and dtype, their states, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.chains import COPIES, copied_halfway
from tests.support.libraries import HALF, REAL, WHOLE, Library, numpy_dtype, same_bits
from tests.support.xla import quick

SHAPES: dict[str, tuple[int, ...]] = {"W": (3, 5), "tall": (6, 2), "cube": (2, 3, 2)}
OTHERS: dict[str, tuple[int, ...]] = {"b": (4,), "s": (), "none": (0,), "empty": (3, 0)}
MATRICES = {"Muon", "Shampoo"}
FEW = {
    "SGLD": ("W", "s", "empty"),
    "Adafactor": ("W", "cube", "b", "s", "empty"),
    "Muon": ("tall", "cube"),
    "Shampoo": ("tall", "cube"),
}
"""One of each kind, where JAX compiles each operation for each shape."""
COMPUTE = {"float16": "float32", "bfloat16": "float32"}
MAKE: dict[str, Callable[..., ao.Optimizer]] = {
    # Eigenvalues are known to a share of the largest, so that a small eps would be lost in float32.
    "Shampoo": lambda **more: ao.Shampoo(**{"eps": 0.1, **more}),
    "SGLD": lambda **more: ao.SGLD(**{"seed": 5, **more}),
}
# Sums of products, of which each library has its own order and its own fused additions, and eigenvectors: some tens of
# roundings, which small singular values and eigenvalues make hundreds of.
TOLERANCE = {"float64": 1e-11, "float32": 2e-4}
UNIT = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def _make(name: str, **hyper: Any) -> Any:
    return MAKE.get(name, WHOLE[name])(**hyper)


def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    return SHAPES if name in MATRICES else {**SHAPES, **OTHERS}


def _drawn(rng: np.random.Generator, name: str, dtype: str, shapes: Any = None) -> dict[str, Any]:
    of = {**SHAPES, **OTHERS}
    return {k: np.asarray(rng.normal(size=of[k])).astype(numpy_dtype(dtype)) for k in shapes or _shapes(name)}


def _near(a: Any, b: Any, dtype: str, what: str) -> None:
    """To the tolerance of the dtype, relative to the largest, and two units of the half precision rounded to."""
    assert a.dtype == b.dtype, what
    assert a.shape == b.shape, what
    wide, other = a.astype(np.float64), b.astype(np.float64)
    tolerance = TOLERANCE[COMPUTE.get(str(a.dtype), str(a.dtype))]
    largest = float(np.max(np.abs(other), initial=1.0))
    bound = tolerance * largest + 2 * UNIT.get(str(a.dtype), 0.0) * np.abs(other)
    assert (np.abs(wide - other) <= bound).all(), (what, np.max(np.abs(wide - other), initial=0))


def test_whole_methods_are_known() -> None:
    """A new one would need its shapes and values here."""
    assert set(WHOLE) == {"Adafactor", "Muon", "Shampoo", "SGLD"}


@pytest.mark.omit("test_shampoo_is_refused_on_dask", lambda lib, name, **_: (lib, name) == ("dask", "Shampoo"))
@pytest.mark.omit(
    "a draw takes seconds, and tests/random/test_numbers.py has each dtype",
    lambda lib, name, dtype: (lib, name) == ("dask", "SGLD") and dtype != "float32",
)
@pytest.mark.omit("jax has the others", lambda lib, dtype, **_: lib == "jax-x64" and dtype != "float64")
@pytest.mark.covering(1)  # of each method JAX, the slowest, is in test_under_jit, and dtypes are each library's own
@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("dtype", HALF + REAL)
@pytest.mark.parametrize("name", WHOLE)
def test_equals_numpy(lib: Library, name: str, dtype: str) -> None:
    """`update` and `step` from NumPy's own parameters and state, each of five steps; shapes and dtypes are NumPy's."""
    rng = np.random.default_rng(50)
    theirs = _drawn(rng, name, dtype, FEW.get(name))
    reference = _make(name)
    state = reference.init(theirs)
    optimizer = _make(name)
    ours = {k: lib.asarray(a) for k, a in theirs.items()}
    kept = dict(ours)
    steps = 2 if lib.name == "dask" or name == "SGLD" else 5  # whose draws take long
    for step in range(steps):
        g = _drawn(rng, name, dtype, FEW.get(name))
        before = {k: lib.asarray(a) for k, a in theirs.items()}
        slots = {slot: {k: lib.asarray(a) for k, a in of.items()} for slot, of in state.slots.items()}
        given = {k: lib.asarray(a) for k, a in g.items()}
        pure, after = optimizer.step(before, given, state._replace(slots=slots))
        theirs, state = reference.step(theirs, g, state)
        assert after.step == step + 1
        for k in theirs:
            assert type(pure[k]) is type(before[k])
            _near(lib.tonumpy(pure[k]), theirs[k], dtype, f"{k} at {step}")
            for slot, of in state.slots.items():
                _near(lib.tonumpy(after.slots[slot][k]), of[k], dtype, f"{slot} of {k}")
                assert str(of[k].dtype) == COMPUTE.get(dtype, dtype)
        assert optimizer.state is None or optimizer.state.step == step
        optimizer.update(ours, given)
    for k, a in kept.items():
        assert (ours[k] is a) == lib.writable
    if dtype not in HALF:  # where a rounding to the other side is not seen to
        for k, a in theirs.items():
            _near(lib.tonumpy(ours[k]), a, dtype, k)


@pytest.mark.covering(1)  # each takes seconds to compile
@pytest.mark.parametrize("dtype", [*HALF, *REAL])
@pytest.mark.parametrize("name", WHOLE)
def test_under_jit(name: str, dtype: str, need: Callable[[str], Library]) -> None:
    """`step` under `jax.jit`, with the count of steps traced: compiled once, and NumPy's values.

    The bound of lr that falls with t is on its way there, and the call of the random numbers.
    """
    lib = need("jax-x64" if dtype == "float64" else "jax")
    with lib.context():
        rng = np.random.default_rng(51)
        optimizer = _make(name, lr=0.4)
        theirs = _drawn(rng, name, dtype, FEW.get(name))
        state = optimizer.init(theirs)
        ours = {k: lib.asarray(a) for k, a in theirs.items()}
        traces: list[int] = []

        def traced(*given: Any) -> Any:
            traces.append(1)
            return optimizer.step(*given)

        other, step = optimizer.init(ours), quick(traced)
        for _ in range(8):
            g = _drawn(rng, name, dtype, FEW.get(name))
            theirs, state = optimizer.step(theirs, g, state)
            ours, other = step(ours, {k: lib.asarray(a) for k, a in g.items()}, other)
        assert len(traces) == 1
        assert int(other.step) == 8
        for k, a in theirs.items():
            if dtype in HALF:
                found = lib.tonumpy(ours[k]).astype(np.float64)
                np.testing.assert_allclose(found, a.astype(np.float64), rtol=0, atol=16 * UNIT[dtype])
            else:
                _near(lib.tonumpy(ours[k]), a, dtype, k)


def test_states_have_the_shapes_that_are_said() -> None:
    """Of rows and columns, of elements, or none."""
    params = {k: np.ones(s) for k, s in {**SHAPES, **OTHERS}.items()}
    slots = ao.Adafactor().init(params).slots
    shapes = {k: tuple(slots[slot][k].shape for slot in ("row", "column", "v")) for k in params}
    assert shapes == {
        "W": ((3,), (5,), (0,)),
        "tall": ((6,), (2,), (0,)),
        "cube": ((2, 3), (2, 2), (0,)),
        "b": ((0,), (0,), (4,)),
        "s": ((0,), (0,), ()),
        "none": ((0,), (0,), (0,)),
        "empty": ((3,), (0,), (0,)),
    }
    assert ao.SGLD().init(params).slots == {}
    params = {k: np.ones(s) for k, s in SHAPES.items()}
    slots = ao.Shampoo().init(params).slots
    assert [slots["L"][k].shape for k in params] == [(3, 3), (6, 6), (2, 2)]
    assert [slots["R"][k].shape for k in params] == [(5, 5), (2, 2), (6, 6)]
    assert [a.shape for a in ao.Muon().init(params).slots["m"].values()] == list(SHAPES.values())


REFUSED: dict[str, tuple[str, Any, str]] = {
    "Muon, a vector": ("Muon", np.ones(3), r"has shape \(3,\); Muon wants matrices, and ao.partition gives the rest"),
    "Muon, a number": ("Muon", np.ones(()), r"has shape \(\); Muon wants matrices"),
    "Muon, empty": ("Muon", np.ones((3, 0)), r"has shape \(3, 0\); Muon wants matrices"),
    "Muon, complex": ("Muon", np.ones((3, 3), complex), "is complex; Muon wants real matrices"),
    "Shampoo, a vector": ("Shampoo", np.ones(3), r"has shape \(3,\); Shampoo wants matrices"),
    "Shampoo, a number": ("Shampoo", np.ones(()), r"has shape \(\); Shampoo wants matrices"),
    "Shampoo, empty": ("Shampoo", np.ones((0, 3)), r"has shape \(0, 3\); Shampoo wants matrices"),
    "Shampoo, complex": ("Shampoo", np.ones((3, 3), complex), "is complex; Shampoo wants real matrices"),
    "SGLD, complex": ("SGLD", np.ones(3, complex), "is complex; SGLD wants real parameters"),
    "Adafactor, complex": ("Adafactor", np.ones(3, complex), "is complex; Adafactor wants real parameters"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals(what: str, need: Callable[[str], Library]) -> None:
    """By the name of the parameter, with everything as it was: at the first update and at the hundredth."""
    name, wrong, match = REFUSED[what]
    for library in ("numpy", "torch", "jax"):
        lib = need(library)
        dtype = "complex64" if np.iscomplexobj(wrong) else "float32"
        params = {"layer": {"W": lib.array(np.ones((2, 2))), "bad": lib.array(wrong, dtype)}}
        optimizer = _make(name)
        before = lib.tonumpy(params["layer"]["W"]).copy()
        for attempt in (optimizer.update, optimizer.explain, lambda p, _, o=optimizer: o.init(p)):
            with pytest.raises((TypeError, ValueError), match=rf"params\['layer'\]\['bad'\] {match}"):
                attempt(params, params)
        assert optimizer.state is None
        assert same_bits(lib.tonumpy(params["layer"]["W"]), before)


def test_shampoo_is_refused_on_dask(need: Callable[[str], Library]) -> None:
    """Which has no eigenvalues; before anything is computed."""
    lib = need("dask")
    p = {"W": lib.array(np.ones((3, 3)))}
    optimizer = ao.Shampoo()
    with pytest.raises((TypeError, ValueError), match=r"params\['W'\] is a dask array, and dask has no linalg.eigh"):
        optimizer.update(p, p)
    assert optimizer.state is None


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("name", WHOLE)
def test_copies_go_on_alone(name: str, copied: Callable[[Any], Any]) -> None:
    """A copy in mid-training, a pickled one too, gives the same bits, and shares nothing."""
    rng = np.random.default_rng(52)
    params = _drawn(rng, name, "float32")
    grads = [_drawn(rng, name, "float32") for _ in range(8)]
    optimizer = _make(name)
    other, _ = copied_halfway(optimizer, copied, params, grads)
    other.lr = 0.375
    assert optimizer.lr != 0.375


@pytest.mark.parametrize("name", WHOLE)
def test_portable_and_why(name: str) -> None:
    """Whatever engine is asked for; and no code is made of it, nor compiled."""
    params = {k: np.ones(s) for k, s in _shapes(name).items()}
    for engine in (None, "portable"):
        (share,) = _make(name, engine=engine).explain(params, params)
        assert share.engine == "portable"
        if engine is None:
            assert share.reason == f"{name} works on whole arrays"
    for engine in ("cuda", "compiled", "blocked"):
        with pytest.raises(ValueError, match=f"{name} works on whole arrays: '{engine}' makes no code of it"):
            _make(name).kernel_source(engine)
    _make(name).compile(params)  # passes them over
    (share,) = ao.chain(ao.ClipGlobalNorm(1.0), _make(name), ao.EMA(0.5)).explain(params, params)
    assert (share.engine, share.reason) == ("portable", f"{name} works on whole arrays")


@pytest.mark.parametrize("name", WHOLE)
def test_in_a_partition(name: str, need: Callable[[str], Library]) -> None:
    """Matrices by themselves, vectors by SGD, which has its engine: what each does alone."""
    for library in ("numpy", "torch", "jax"):
        lib = need(library)
        rng = np.random.default_rng(53)
        start = {"W": rng.normal(size=(3, 5)), "bias": rng.normal(size=5)}
        params = {k: lib.array(a) for k, a in start.items()}
        alone, vector = {"W": lib.array(start["W"])}, {"bias": lib.array(start["bias"])}
        optimizer = ao.partition({"W": _make(name), ...: ao.SGD(0.25)})
        single, sgd = _make(name), ao.SGD(0.25)
        for _ in range(3):
            g = {k: lib.array(rng.normal(size=a.shape)) for k, a in start.items()}
            optimizer.update(params, g)
            single.update(alone, {"W": g["W"]})
            sgd.update(vector, {"bias": g["bias"]})
        assert same_bits(lib.tonumpy(params["W"]), lib.tonumpy(alone["W"]))
        assert same_bits(lib.tonumpy(params["bias"]), lib.tonumpy(vector["bias"]))
        assert optimizer.state is not None
        shares = {share.engine for share in optimizer.explain(params, params)}
        assert "portable" in shares
        assert len(shares) == 2


@pytest.mark.parametrize("name", WHOLE)
def test_schedules_and_live_rates(name: str) -> None:
    """A schedule is the numbers that it gives, set one after the other; so is the pure form."""
    rng = np.random.default_rng(54)
    one = _drawn(rng, name, "float64")
    two, three = ({k: a.copy() for k, a in one.items()} for _ in range(2))

    def lr(t: int) -> float:
        return 0.2 / (1 + t)

    scheduled, live = _make(name, lr=lr), _make(name)
    state = scheduled.init(three)
    for t in range(1, 6):
        g = _drawn(rng, name, "float64")
        scheduled.update(one, g)
        live.lr = lr(t)
        live.update(two, g)
        three, state = scheduled.step(three, g, state)
    for k, a in one.items():
        assert same_bits(a, two[k])
        assert same_bits(a, three[k])


@pytest.mark.parametrize("name", WHOLE)
def test_parameters_without_a_gradient(name: str) -> None:
    """They rest, with their slots and their counts."""
    rng = np.random.default_rng(55)
    params = _drawn(rng, name, "float64")
    optimizer = _make(name)
    optimizer.update(params, _drawn(rng, name, "float64"))
    rest = params["W"].copy()
    slots = {slot: of["W"].copy() for slot, of in optimizer.state.slots.items()}
    optimizer.update(params, {**_drawn(rng, name, "float64"), "W": None})
    assert same_bits(params["W"], rest)
    assert optimizer.state.t["W"] == 1
    assert optimizer.state.t["tall"] == 2
    assert all(same_bits(optimizer.state.slots[slot]["W"], a) for slot, a in slots.items())


@pytest.mark.parametrize("order", ["F", "strided", "other dtype"])
@pytest.mark.parametrize("name", WHOLE)
def test_layouts(name: str, order: str) -> None:
    """Parameters and gradients in any order of memory, and gradients of another real dtype: the same values."""
    rng = np.random.default_rng(56)
    start, x = rng.normal(size=(4, 6)), rng.normal(size=(4, 6)).astype(np.float32).astype(np.float64)
    expected = _make(name).update({"w": start.copy()}, {"w": x})["w"]
    p, g = start.copy(), x
    if order == "F":
        p, g = np.asfortranarray(p), np.asfortranarray(g)
    elif order == "strided":
        p, g = np.repeat(p, 2, axis=1)[:, ::2], np.repeat(g, 2, axis=0)[::2]
    else:
        g = g.astype(np.float32)
    _make(name).update({"w": p}, {"w": g})
    np.testing.assert_allclose(p, expected, rtol=1e-12, atol=1e-12)


BAD: dict[str, list[Any]] = {
    "lr": [-0.1, math.nan, math.inf, "fast", 1j, None],
    "eps": [-1e-7, math.nan, math.inf],
    "momentum": [-0.1, 1.0, 1.5, math.nan],
    "weight_decay": [-0.1, math.nan, math.inf],
    "decay": [-0.1, math.nan, math.inf],
    "floor": [-0.1, math.nan, math.inf],
    "least": [-0.1, math.nan, math.inf],
    "rms": [-0.1, math.nan, math.inf],
    "ahead": [-0.1, 1.1, math.nan],
    **{name: [math.nan, "3.4445", None] for name in ("a", "b", "c")},
    "clip": [0.0, -1.0, math.nan],
    "steps": [0, -1, 1.5, math.nan, math.inf],
    "temperature": [-0.1, math.nan, math.inf],
    "seed": [-1, 0.5, 2**32, math.nan, math.inf],
    "stream": [-1, 0.5, 2**32, math.nan],
}
MORE = {("Shampoo", "eps"): [0.0, -1e-7, math.nan]}


@pytest.mark.parametrize("name", WHOLE)
def test_bad_hyperparameters(name: str) -> None:
    """Refused where they are given: to the constructor, to the attribute, by a schedule; each with its name."""
    for hyper in WHOLE[name].hyperparameters:
        for value in MORE.get((name, hyper), BAD[hyper]):
            with pytest.raises((TypeError, ValueError), match=f"^{hyper} is .*wanted"):
                WHOLE[name](**{hyper: value})
            optimizer, p = WHOLE[name](), {"w": np.ones((2, 2))}
            optimizer.update(p, {"w": np.ones((2, 2))})
            before, state, old = p["w"].copy(), deepcopy(optimizer.state), getattr(optimizer, hyper)
            with pytest.raises((TypeError, ValueError), match=f"^{hyper} is .*wanted"):
                setattr(optimizer, hyper, value)
            assert getattr(optimizer, hyper) == old
            if (name, hyper) == ("SGLD", "stream"):
                continue  # each parameter has its own instead
            setattr(optimizer, hyper, lambda t, value=value: value)
            with pytest.raises((TypeError, ValueError), match=f"^{hyper}, from its schedule at step 2, is .*wanted"):
                optimizer.update(p, {"w": np.ones((2, 2))})
            assert same_bits(p["w"], before)
            assert repr(optimizer.state) == repr(state)


@pytest.mark.parametrize("library", ["numpy", "jax"])
def test_zeros_make_no_nan(library: str, need: Callable[[str], Library]) -> None:
    """Gradients of zeros, from the first step on: eps keeps all divisions finite, in float32 too."""
    lib = need(library)
    for name in WHOLE:
        shapes = {k: {**SHAPES, **OTHERS}[k] for k in FEW.get(name, _shapes(name))}
        p = {k: lib.array(np.ones(s)) for k, s in shapes.items()}
        optimizer = _make(name)
        for _ in range(2):
            optimizer.update(p, {k: lib.array(np.zeros(s)) for k, s in shapes.items()})
        assert all(np.isfinite(lib.tonumpy(a)).all() for a in p.values()), name
