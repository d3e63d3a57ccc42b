"""Chains give the same bits on all engines and exact libraries, with stages of one's own; and FlushSubnormals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anyoptim as ao
from tests.support.chains import ALIKE, CHAINS, KINDS, ROOTLESS, Make, agree, flat, matrices, problem, run
from tests.support.internals import threads as _threads
from tests.support.layouts import LAYOUTS, hostile
from tests.support.libraries import ENGINES, Library, same_bits

OTHERS = [name for name in ENGINES if name != "portable"]
DTYPES = ["float16", "float32", "float64", "complex64", "complex128"]
PRECISIONS = {"single": ("float32", "float16", "complex64"), "double": ("float64", "complex128")}
"""The dtypes that one kernel takes; most time of these tests goes into compiling."""
BOTH = {"clip, Adam, EMA", "clip each, Momentum, Cautious, trust"}
"""Measures of all and of each, and roots: the others run in float64, as their equations do, and else as products."""
BITS = [
    pytest.param(
        name,
        dtype,
        marks=() if (dtype == "float64" and name not in ALIKE) or name in BOTH else pytest.mark.product,
    )
    for name in CHAINS
    for dtypes in PRECISIONS.values()
    for dtype in dtypes
]
SHAPES: dict[str, tuple[int, ...]] = {"W": (7, 9), "b": (1023,), "n.b": (1025,), "s": (), "none": (0,), "empty": (3, 0)}


def _copied(params: dict[str, Any], order: Callable[[Any], Any] = np.array) -> dict[str, Any]:
    return {k: order(a.copy()) if a.ndim else a.copy() for k, a in params.items()}


def _same(make: Make, params: dict[str, Any], grads: list[Any], order: Callable[[Any], Any] = np.array) -> Any:
    """Run on each engine, and compare; what the portable one gives."""
    expected = run(make("portable"), _copied(params, order), grads)
    for engine in OTHERS:
        assert agree(run(make(engine), _copied(params, order), grads), expected), engine
    return expected


@pytest.mark.parametrize(("name", "dtype"), BITS)
def test_bits_on_hostile_values(name: str, dtype: str) -> None:
    """Gradients that grow from subnormal to huge, then come as they will; and hostile values, which a norm spreads.

    Thirty steps are far past the last at which a chain does something new, and slots have had all magnitudes.
    """
    rng = np.random.default_rng(30)

    def draw(scale: float) -> dict[str, Any]:
        with np.errstate(all="ignore"):
            parts = {k: np.asarray(rng.normal(size=s) + 1j * rng.normal(size=s)) * scale for k, s in SHAPES.items()}
            return {k: np.asarray(a if "complex" in dtype else a.real, dtype) for k, a in parts.items()}

    def some_hostile(share: float) -> dict[str, Any]:
        calm = draw(1.0)
        found = {k: hostile(rng, s, dtype) for k, s in SHAPES.items()}
        return {k: np.where(rng.random(s) < share, found[k], calm[k]) for k, s in SHAPES.items()}

    low, high = (-7, 3) if dtype == "float16" else (-44, 30)
    powers = [*np.linspace(low, high, 20), *rng.uniform(low, high, 10)]
    _same(CHAINS[name], draw(1.0), [draw(10.0**power) for power in powers])
    _same(CHAINS[name], some_hostile(1.0), [some_hostile(1.0) for _ in range(5)])
    # A single NaN and no infinity: the norm is NaN, and under a clipping all other elements go on.
    params, grads = draw(1.0), [draw(1.0) for _ in range(5)]
    grads[2]["W"][0, 0] = np.nan
    result, _ = _same(CHAINS[name], params, grads)
    assert np.isfinite(result["n.b"]).all() or name == "two slots of one name"


@pytest.mark.covering(1)  # they meet in test_bits_on_any_shape_and_layout: to an engine a chain is one more rule
@pytest.mark.parametrize("dtype", ["float16", "float64", "complex128"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.product if name in ALIKE else ()) for name in KINDS]
)
def test_bits_on_layouts(name: str, layout: str, dtype: str) -> None:
    """Parameters of any memory order with gradients of any other."""
    params, grads = problem(dtype, steps=4)
    for other in ("C", layout):
        _same(CHAINS[name], params, [_copied(g, LAYOUTS[other]) for g in grads], LAYOUTS[layout])
    _same(CHAINS[name], params, [_copied(g, LAYOUTS[layout]) for g in grads])


@settings(max_examples=10)
@given(
    lengths=st.lists(st.sampled_from([1, 1023, 1025, 65535, 65536, 65537, 131073]), min_size=1, max_size=3),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 2**32),
)
@pytest.mark.parametrize("name", ["clip, Adam, EMA", "two slots of one name"])
def test_bits_around_blocks(name: str, lengths: list[int], dtype: str, seed: int) -> None:
    """Lengths about blocks of the norm and of the engines, several parameters, gradients of both real dtypes."""
    rng = np.random.default_rng(seed)
    params = {str(k): rng.normal(size=n).astype(dtype) for k, n in enumerate(lengths)}
    grads = [
        {k: rng.normal(size=a.shape).astype(other) for k, a in params.items()}
        for other in (dtype, "float64", "float32")
    ]
    _same(CHAINS[name], params, grads)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_bits_in_threads(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 2**20 elements, shared out among 1, 2 and 5 threads."""
    rng = np.random.default_rng(31)
    params = {k: rng.normal(size=2 * n).astype("float32").view(dtype) for k, n in (("W", (1 << 20) + 5), ("b", 99))}
    grads = [{k: rng.normal(size=2 * a.size).astype("float32").view(dtype)[: a.size] for k, a in params.items()}]
    make = CHAINS["clip, Adam, EMA"]
    expected = run(make("portable"), _copied(params), grads * 2)
    shared: list[Any] = []

    def counted(pieces: Any, *arguments: Any) -> None:
        original(pieces, *arguments)
        shared.extend([pieces] if pieces._offered else [])

    original = _threads.Pieces.__init__
    monkeypatch.setattr(_threads.Pieces, "__init__", counted)
    for threads in (1, 2, 5):
        monkeypatch.setattr(_threads, "threads", lambda n=threads: n)
        for engine in OTHERS:
            shared.clear()
            assert agree(run(make(engine), _copied(params), grads * 2), expected)
            assert len(shared) == (4 if threads > 1 else 0)  # the reductions and the steps


def _beside_numpy(lib: Library, chain: Make, dtype: str, engine: ao.EngineName | None) -> None:
    params, grads = problem(dtype, steps=2 if lib.slow else 10)
    theirs = [{k: lib.asarray(a) for k, a in g.items()} for g in grads]
    p, slots = run(chain(engine), {k: lib.asarray(a) for k, a in params.items()}, theirs)
    expected = run(chain("portable"), params, grads)
    found: Any = p, slots
    assert agree(_computed(found) if lib.name == "dask" else optree.tree_map(lib.tonumpy, found), expected)


def _computed(tree: Any) -> Any:
    """Dask's arrays, all at once: they have most of their graphs in common."""
    import dask

    (found,) = dask.compute(tree)
    return found


@pytest.mark.omit(
    "torch's square root of an array, of float64 too, is 1 ulp off now and then",
    lambda name, library, dtype: library == "torch" and name not in ROOTLESS,
)
@pytest.mark.omit(
    "Dask is slow, and computes with NumPy itself; arrays/test_libraries.py has its dtypes",
    lambda name, library, dtype: library == "dask" and dtype != "float32",
)
@pytest.mark.parametrize("library", ["strict", "torch", pytest.param("dask", marks=pytest.mark.product)])
@pytest.mark.parametrize(
    ("name", "dtype"),  # which take turns
    [
        pytest.param(name, dtype, marks=() if (i + k) % len(DTYPES) == 0 else pytest.mark.product)
        for i, name in enumerate(CHAINS)
        for k, dtype in enumerate(DTYPES)
    ],
)
def test_bits_of_libraries(name: str, library: str, dtype: str, need: Callable[[str], Library]) -> None:
    """The portable engine gives NumPy's bits on array-api-strict, torch CPU and Dask; torch has roots of its own."""
    _beside_numpy(need(library), CHAINS[name], dtype, "portable")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", [None, *OTHERS])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in BOTH else pytest.mark.product) for name in KINDS]
)
def test_bits_of_torch_in_place(
    name: str, engine: ao.EngineName | None, dtype: str, need: Callable[[str], Library]
) -> None:
    """On torch CPU tensors the engines that compute on their memory give NumPy's bits, roots and all."""
    lib = need("torch")
    params, _ = problem(dtype, steps=1)
    tensors = {k: lib.asarray(a) for k, a in params.items()}
    shares = CHAINS[name](engine).explain(tensors, tensors)
    wanted = "compiled" if engine == "compiled" and dtype != "float16" else "blocked"
    assert {share.engine for share in shares} == {wanted}
    _beside_numpy(lib, CHAINS[name], dtype, engine)


@pytest.mark.omit("they'd be the same", lambda chunks, shape: chunks == 2 and max(shape, default=0) < 2)
@pytest.mark.parametrize("chunks", [1, 2, -1])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5, 7), (2, 3, 4), (1500,)])
def test_any_dask_array(chunks: int, shape: tuple[int, ...], need: Callable[[str], Library]) -> None:
    """Empty arrays, no dimension, many chunks: NumPy's bits."""
    need("dask")
    import dask.array as da

    chunks = 700 if chunks == 1 and shape == (1500,) else 1024 if chunks == 2 and shape == (1500,) else chunks
    rng = np.random.default_rng(32)
    params, x = {"w": np.asarray(rng.normal(size=shape))}, np.asarray(rng.normal(size=shape))
    make = CHAINS["Adam, clip, decay, EMA, flush"]
    p, slots = run(
        make(None), {"w": da.from_array(params["w"], chunks=chunks)}, [{"w": da.from_array(x, chunks=chunks)}]
    )
    assert agree(_computed((p, slots)), run(make("portable"), params, [{"w": x}]))


class Sign(ao.Stage):
    rule = staticmethod(lambda xp, p, x, c: xp.sign(x))


class Box(ao.ParameterStage):
    size: ao.Nonnegative
    rule = staticmethod(lambda xp, p, c: xp.minimum(xp.maximum(p, -c.size), c.size))


class Ball(ao.ParameterStage):
    reductions = {"norm": ao.Norm(lambda xp, p, x: p)}
    coefficients = staticmethod(lambda t, hyper: {"scale": 1.0 / max(hyper.norm, 1.0)})
    rule = staticmethod(lambda xp, p, c: p * c.scale)


class Halved(ao.SlotStage):
    rule = staticmethod(lambda xp, s, c: xp.where(s * s > 0.0625, 0.5 * s, s))


class Lookahead(ao.ParameterStage):
    slots = ("slow",)
    coefficients = staticmethod(lambda t, hyper: {"sync": t % 3 == 0})

    def init_slots(self, xp: Any, p: Any) -> tuple[Any, ...]:
        return (xp.asarray(p, copy=True),)

    @staticmethod
    def rule(xp: Any, p: Any, slow: Any, c: Any) -> Any:
        return (p, slow) if not c.sync else (slow + 0.5 * (p - slow), slow + 0.5 * (p - slow))


class Normalized(ao.Stage):
    eps: ao.Nonnegative
    reductions = {"norm": ao.Norm(lambda xp, p, x: x)}
    coefficients = staticmethod(lambda t, hyper: {"scale": 1.0 / (hyper.norm + hyper.eps)})
    rule = staticmethod(lambda xp, p, x, c: x * c.scale)


class Lion(ao.Optimizer):
    lr: ao.Nonnegative
    beta1: ao.Fraction
    beta2: ao.Fraction
    slots = ("m",)

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, m: Any, c: Any) -> Any:
        return c.lr * xp.sign(c.beta1 * m + (1 - c.beta1) * x), c.beta2 * m + (1 - c.beta2) * x


def _lion(engine: ao.EngineName | None = None) -> Lion:
    return Lion(lr=0.25, beta1=0.9, beta2=0.5, engine=engine)


OWN: dict[str, tuple[Make, list[float], list[float]]] = {
    # What [1, -2] and its gradients [3, -4], [3, -4] become, by hand.
    "Stage": (lambda e: ao.chain(Sign(), ao.SGD(0.5), engine=e), [0.5, -1.5], [0.0, -1.0]),
    "Stage after": (lambda e: ao.chain(ao.SGD(0.5), Sign(), engine=e), [0.0, -1.0], [-1.0, 0.0]),
    "ParameterStage": (lambda e: ao.chain(ao.SGD(1.0), Box(size=1.5), engine=e), [-1.5, 1.5], [-1.5, 1.5]),
    "ParameterStage measuring": (
        lambda e: ao.chain(ao.SGD(2.0), Ball(), engine=e),
        [-5 / 61**0.5, 6 / 61**0.5],
        [],
    ),
    "ParameterStage with slots": (lambda e: ao.chain(ao.SGD(1.0), Lookahead(), engine=e), [-2.0, 2.0], [-5.0, 6.0]),
    "SlotStage": (lambda e: ao.chain(ao.Momentum(1.0, 0.5), Halved(), engine=e), [-2.0, 2.0], [-5.75, 7.0]),
    "Stage with a reduction": (
        lambda e: ao.chain(Normalized(eps=0.0), ao.SGD(1.0), engine=e),
        [0.4, -1.2],
        [-0.2, -0.4],
    ),
    "method": (lambda e: ao.chain(_lion(), engine=e), [0.75, -1.75], [0.5, -1.5]),
}


@pytest.mark.own_loops
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", OWN)
def test_stages_of_ones_own_by_hand(name: str, engine: ao.EngineName) -> None:
    """Each kind of stage in a few lines does what it says, on every engine, to some roundings of float64."""
    make, *expected = OWN[name]
    optimizer, p = make(engine), np.array([1.0, -2.0])
    x = np.array([3.0, -4.0])
    assert [share.engine for share in optimizer.explain(p, x)] == [engine]
    for wanted in expected:
        optimizer.update(p, x)
        if wanted:
            np.testing.assert_allclose(p, wanted, rtol=1e-15, atol=1e-15)


@pytest.mark.covering(1)
@pytest.mark.parametrize("dtype", ["float64", "complex128", "float16", "float32", "complex64"])
@pytest.mark.parametrize("name", OWN)
def test_bits_of_stages_of_ones_own(name: str, dtype: str) -> None:
    """And the same bits on all engines."""
    params, grads = problem(dtype, steps=7)
    _same(OWN[name][0], params, grads)


@pytest.mark.product  # five reductions, of which each has a kernel of all that stands before it; each alone is above
@pytest.mark.parametrize("dtype", ["complex64", "float32", *PRECISIONS["double"]])
def test_bits_of_stages_of_ones_own_together(dtype: str) -> None:
    """All of them in one chain, with some of the package's between them."""
    params, grads = problem(dtype, steps=7)
    _same(
        lambda e: ao.chain(
            *(Normalized(eps=1e-9), Sign(), ao.ClipGlobalNorm(1.0), _lion(), Normalized(eps=1.0)),
            *(ao.WeightDecay(0.1, matrices), Halved(), Lookahead(), Box(size=0.75), Ball(), ao.EMA(0.5)),
            ao.FlushSubnormals(),
            engine=e,
        ),
        params,
        grads,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_static_options_that_differ_in_one_step(dtype: str) -> None:
    """Parameters that are at other steps of their own have other branches of a rule, in one step and one norm."""
    params, grads = problem(dtype, steps=9)
    for k, g in enumerate(grads):
        g.update({"b": None} if k % 2 else {"s": None} if k < 4 else {})  # type: ignore[dict-item]
    for make in (CHAINS["two slots of one name"], OWN["ParameterStage with slots"][0]):
        p, _ = _same(make, params, grads)
        assert not agree(p, params)


def test_a_method_of_ones_own_alone() -> None:
    """It is an optimizer without a chain, too."""
    p, x = np.ones(5), np.arange(-2.0, 3.0)
    found = [_lion(engine).update(p.copy(), x) for engine in ENGINES]
    assert all(same_bits(a, [1.25, 1.25, 1.0, 0.75, 0.75]) for a in found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", ENGINES)
def test_flush_subnormals(engine: ao.EngineName, dtype: str) -> None:
    """What is subnormal in a slot before is 0 after it; all else, and slots of later stages, are as without it."""
    real = np.dtype(np.dtype(dtype).char.lower())
    compute = np.dtype(np.float32) if dtype == "float16" else real
    info: Any = np.finfo(compute)
    tiny, small = info.smallest_normal, info.smallest_subnormal
    specials = [
        tiny,
        -tiny,
        np.nextafter(tiny, compute.type(0)),
        small,
        -small,
        0.0,
        -0.0,
        1.0,
        np.inf,
        -np.inf,
        np.nan,
    ]
    slots = np.array(specials, compute)

    class Kept(ao.Optimizer):
        slots = ("s",)
        init_slots = staticmethod(lambda xp, p: (xp.asarray(start, copy=True),))
        rule = staticmethod(lambda xp, p, x, s, c: (x, s))

    start = slots
    optimizer = ao.chain(Kept(), ao.FlushSubnormals(), ao.EMA(0.0), engine=engine)
    p = np.full(slots.shape, 0, dtype)
    x = np.full(slots.shape, 0, dtype)
    optimizer.update(p, x)
    assert optimizer.state is not None
    found = optimizer.state.slots[0]["s"]
    expected = np.array([tiny, -tiny, 0, 0, 0, 0, 0, 1.0, np.inf, -np.inf, np.nan], compute)
    for part in (found.real, found.imag) if "complex" in dtype else (found,):
        assert same_bits(np.ascontiguousarray(part), expected)


@pytest.mark.own_loops
@pytest.mark.parametrize("dtype", DTYPES)
def test_flush_leaves_the_step_and_later_slots_alone(dtype: str) -> None:
    """The averages after it may be subnormal; the first step is the step without it."""
    small = np.finfo(np.float16).smallest_subnormal if dtype == "float16" else np.finfo(dtype).smallest_subnormal
    params = {"w": np.array([small, 3 * small, 1.0], dtype)}
    zeros = [{"w": np.zeros(3, dtype)}]
    for engine in ENGINES:
        make = [ao.chain(ao.Momentum(), *flush, ao.EMA(0.5), engine=engine) for flush in ([], [ao.FlushSubnormals()])]
        (p, s), (q, t) = (run(optimizer, _copied(params), zeros) for optimizer in make)
        assert agree(p, q)
        assert agree(p, params)
        assert agree(s[-1], t[-1])
        assert agree(t[-1]["average"]["w"].astype(dtype), params["w"])
        late = ao.chain(ao.Momentum(), ao.EMA(0.5), ao.FlushSubnormals(), engine=engine)
        _, u = run(late, _copied(params), zeros)
        kept = [0.0] * 2 if dtype != "float16" else np.array([small, 3 * small], np.float32)
        assert u[1]["average"]["w"][:2].tolist() == list(kept)


@pytest.mark.covering(1)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_of_zero_for_long(engine: ao.EngineName, dtype: str) -> None:
    """After so many that m would have left all normal numbers it is exactly 0; without the stage it would be stuck."""
    rng, steps = np.random.default_rng(33), 1100 if dtype in {"float64", "complex128"} else 160  # halved each time
    first, zero = rng.normal(size=40).astype(dtype), np.zeros(40, dtype)
    ends = []
    for flush in ([], [ao.FlushSubnormals()]):
        optimizer = ao.chain(ao.Adam(beta1=0.5), *flush, engine=engine)
        p = np.ones(40, dtype)
        optimizer.update(p, first)
        for _ in range(steps):
            optimizer.update(p, zero)
        assert optimizer.state is not None
        ends.append((p, *flat(optimizer.state.slots[0]["m"])))
    assert agree(ends[0][0], ends[1][0])
    real = ends[0][1].dtype
    assert (ends[0][1] != 0).any()
    assert (abs(ends[0][1]) < np.finfo(real).smallest_normal).all()
    assert not ends[1][1].any()
