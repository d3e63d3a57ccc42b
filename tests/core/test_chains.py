"""Chains: their equations, the norm, coefficients of one's own, the pure form, copies and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anyoptim as ao
from tests.support.chains import ALIKE, APART, CHAINS, COPIES, KINDS, PLAIN, Seen, Smoothed, agree, plain, problem, run
from tests.support.engines import Watch, blocks_of
from tests.support.libraries import COMPOSED, ENGINES, Library, allowed, same_bits
from tests.support.xla import quick


def _norm(xs: Any, engine: ao.EngineName | None = "portable", params: Any = None) -> float:
    norms: list[float] = []
    params = [np.zeros_like(x) for x in xs] if params is None else params
    ao.chain(Seen(norms), ao.SGD(), engine=engine).update(params, xs)
    assert len({*norms}) <= 1
    return norms[0]


def _nested(state: ao.State) -> Any:
    """The slots by stage, of a method, too."""
    return state.slots if isinstance(state.slots, tuple) else (state.slots,)


def test_every_method_that_measures_is_a_row() -> None:
    """One that is not would go untested here, and in the tests of other files that run over these."""
    assert set(COMPOSED) <= set(CHAINS)


def test_every_stage_is_in_a_chain() -> None:
    """Or is named with the reason why in none: one that was forgotten would be tested on no engine."""
    used = {type(stage).__name__ for make in CHAINS.values() for stage in make(None).stages}
    public = {*ao.stages.__all__, *ao.prox.__all__} - {"prox"}
    assert public - used == {*APART}, "wanted a chain in CHAINS and PLAIN of tests/support/chains.py"


@pytest.mark.telling
@pytest.mark.parametrize(
    ("name", "engine"),
    [
        pytest.param(name, engine, marks=pytest.mark.product if engine == "compiled" and name in ALIKE else ())
        for name in CHAINS
        for engine in ENGINES
    ],
)
def test_equations(name: str, engine: ao.EngineName) -> None:
    """50 steps agree with plain NumPy, written down another way, to 1e-12: 50 steps of some 50 roundings of 1e-16."""
    assert list(PLAIN) == list(CHAINS)
    params, grads = problem()
    expected, averages = plain(name, params, grads)
    optimizer = CHAINS[name](engine)
    params, slots = run(optimizer, params, grads)
    for key in params:
        np.testing.assert_allclose(params[key], expected[key], rtol=1e-12, atol=1e-12)
    for stage, of in zip(optimizer.stages, slots, strict=True):
        if isinstance(stage, ao.ParameterStage):
            for slot in stage.slots:
                for key in params:
                    np.testing.assert_allclose(of[slot][key], averages[key], rtol=1e-12, atol=1e-12)


OPTAX: dict[str, tuple[Callable[[Any], Any], Callable[[], ao.Optimizer]]] = {
    "clip, sgd": (
        lambda optax: optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1)),
        lambda: ao.chain(ao.ClipGlobalNorm(0.5), ao.SGD(0.1), ao.EMA(0.9)),
    ),
    "clip, heavy ball": (
        lambda optax: optax.chain(optax.clip_by_global_norm(4.0), optax.sgd(0.1, momentum=0.9)),
        lambda: ao.chain(ao.ClipGlobalNorm(4.0), ao.Momentum(0.1), ao.EMA(0.9)),
    ),
    "clip, adam": (
        lambda optax: optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1, eps=0.0)),
        lambda: ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(0.1, eps=0.0), ao.EMA(0.9)),
    ),
    "sgd, clip": (
        lambda optax: optax.chain(optax.sgd(0.1, momentum=0.9), optax.clip_by_global_norm(0.1)),
        lambda: ao.chain(ao.Momentum(0.1), ao.ClipGlobalNorm(0.1), ao.EMA(0.9)),
    ),
    "decay, sgd": (
        lambda optax: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
        lambda: ao.chain(ao.WeightDecay(0.1), ao.SGD(0.1), ao.EMA(0.9)),
    ),
    "adamw": (
        lambda optax: optax.adamw(0.1, eps=0.0, weight_decay=0.1),
        lambda: ao.chain(ao.Adam(0.1, eps=0.0), ao.WeightDecay(0.01), ao.EMA(0.9)),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_optax(name: str, need: Callable[[str], Library]) -> None:
    """50 steps agree with optax in float64, to 1e-12 as above; eps is 0, because it stands elsewhere there."""
    optax = pytest.importorskip("optax")
    lib = need("jax-x64")

    theirs, ours = OPTAX[name]
    params, grads = problem()
    with lib.context():
        their = {k: lib.asarray(a) for k, a in params.items()}
        average, transform = their, theirs(optax)
        state, update = transform.init(their), quick(transform.update)
        for g in grads:
            updates, state = update({k: lib.asarray(a) for k, a in g.items()}, state, their)
            their = optax.apply_updates(their, updates)
            average = optax.incremental_update(their, average, 0.1)
    params, slots = run(ours(), params, grads)
    for key in params:
        np.testing.assert_allclose(params[key], their[key], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(slots[-1]["average"][key], average[key], rtol=1e-12, atol=1e-12)


def test_torch_adamw(need: Callable[[str], Library]) -> None:
    """Decoupled decay is torch's AdamW, whose `lr*weight_decay` is ours, to 1e-12; eps is too small to matter."""
    need("torch")
    import torch

    params, grads = problem()
    theirs = {k: torch.nn.Parameter(torch.tensor(a)) for k, a in params.items()}
    peer = torch.optim.AdamW(theirs.values(), lr=0.1, eps=1e-300, weight_decay=0.1)
    for g in grads:
        for k, p in theirs.items():
            p.grad = torch.tensor(g[k])
        peer.step()
    run(ao.chain(ao.Adam(0.1, eps=1e-300), ao.WeightDecay(0.01)), params, grads)
    for k, p in theirs.items():
        np.testing.assert_allclose(params[k], p.detach().numpy(), rtol=1e-12, atol=1e-12)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.sampled_from([0, 1, 2, 3, 700, 1023, 1024, 1025, 2048, 5000]), min_size=1, max_size=4),
    dtype=st.sampled_from(["float32", "float64", "complex64", "complex128"]),
    scale=st.integers(-120, 120),
    spread=st.integers(0, 30),
    seed=st.integers(0, 2**32),
)
def test_the_norm_is_exact_but_for_rounding(lengths: list[int], dtype: str, scale: int, spread: int, seed: int) -> None:
    """To 1e-15 it is the root of the exact sum of squares: 15 additions deep at most, whose error the root halves."""
    rng = np.random.default_rng(seed)
    single = dtype in {"float32", "complex64"}
    low, high = (scale // 4 - spread / 6, scale // 4) if single else (scale - spread, scale)
    real = "float32" if single else "float64"
    xs = []
    for n in lengths:
        parts = rng.normal(size=2 * n) * 10.0 ** rng.uniform(low, high, size=2 * n)
        xs.append(parts.astype(real).view(dtype) if "complex" in dtype else parts[:n].astype(real))
    values = [v for x in xs for v in x.view(real).tolist()]
    # Squares of float32 numbers are exact in float64; of others, fractions are.
    exact = math.fsum(v * v for v in values) if single else float(sum((Fraction(v) ** 2 for v in values), Fraction()))
    for engine in ENGINES:
        assert _norm(xs, engine) == pytest.approx(math.sqrt(exact), rel=1e-15, abs=0)


@settings(max_examples=100)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=40))
def test_the_norm_of_any_finite_float32(values: list[float]) -> None:
    """Subnormals and the largest numbers too, in float64; on all engines the same bits."""
    x = np.array(values, np.float32)
    expected = math.sqrt(math.fsum(v * v for v in x.tolist()))
    norms = {_norm([x], engine) for engine in ENGINES}
    assert len(norms) == 1
    assert norms.pop() == pytest.approx(expected, rel=1e-15, abs=0)


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0, np.inf, -np.inf], np.inf), ([np.nan, np.inf], np.nan), ([-0.0], 0.0)]
)
def test_norms_that_are_no_numbers(values: list[float], expected: float) -> None:
    """An infinite norm makes finite elements 0, a NaN changes nothing but itself."""
    for engine in ENGINES:
        assert same_bits(np.float64(_norm([np.array(values)], engine)), np.float64(expected))
        p = ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(1.0), engine=engine).update(np.ones(3), np.array([1.0, np.inf, 2]))
        assert same_bits(p, [1.0, np.nan, 1.0])
        p = ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(1.0), engine=engine).update(np.ones(2), np.array([3.0, np.nan]))
        assert same_bits(p, [-2.0, np.nan])


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "complex128",
        *(pytest.param(of, marks=pytest.mark.product) for of in ("float16", "float64", "complex64")),
    ],
)
def test_the_norm_is_independent_of_blocks_layouts_and_engines(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other blocks, chunks and memory orders; and three engines in one step: the same bits."""
    rng = np.random.default_rng(7)
    values = rng.normal(size=(8, 3, 1800)) + 0j  # of four, the last bit of some shows another order of additions
    if "complex" in dtype:
        values = values + 1j * rng.normal(size=values.shape)
    pairs = [
        *zip(*[(a if "complex" in dtype else a.real).astype(dtype) for a in (values[::2], values[1::2])], strict=True)
    ]
    expected = [_norm(xs) for xs in pairs]
    assert {*map(type, expected)} == {float}
    orders: list[Callable[[Any], Any]] = [
        np.ascontiguousarray,
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: a[::-1].copy()[::-1],
        lambda a: a.astype(a.dtype.newbyteorder(">")),
    ]
    for block in (1024, 3 * 1024, 1 << 16):
        blocks_of(block, monkeypatch)
        for engine in ENGINES:
            for order in orders:
                given = [[order(x) for x in xs] for xs in pairs]
                assert [_norm(xs, engine) for xs in given] == expected
                assert [_norm(xs, engine, [order(np.zeros_like(x)) for x in xs]) for xs in given] == expected


def test_three_engines_in_one_step() -> None:
    """One parameter compiled, one blocked, one portable: the norm, the steps and the slots of one engine alone."""
    rng = np.random.default_rng(8)
    results = []
    for engine in ("compiled", "portable"):
        base = np.arange(30.0)
        params = {"a": base[:9].copy(), "b": base[9:27:2], "c": np.ones(5)}
        params["c"].flags.writeable = False
        optimizer = ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(lr=0.1), ao.EMA(0.9), engine=engine)
        grads = [{k: np.random.default_rng(i).normal(size=v.shape) for k, v in params.items()} for i in range(5)]
        engines = {name: share.engine for share in optimizer.explain(params, grads[0]) for name in share.parameters}
        if engine == "compiled":
            assert engines == {"a": "compiled", "b": "blocked", "c": "portable"}
        results.append((run(optimizer, params, grads), base))
    assert agree(*results)
    xs = [rng.normal(size=9) for _ in range(3)]
    locked = np.ones(9)
    locked.flags.writeable = False
    assert _norm(xs, "compiled", [np.ones(9), np.ones(18)[::2], locked]) == _norm(xs)


PASSES: dict[int, Callable[[ao.EngineName], ao.Optimizer]] = {
    0: lambda e: ao.chain(ao.WeightDecay(0.1), ao.Momentum(), ao.EMA(), ao.FlushSubnormals(), engine=e),
    1: lambda e: ao.chain(ao.ClipGlobalNorm(1.0), ao.Momentum(), ao.EMA(), engine=e),
    2: lambda e: ao.chain(ao.ClipGlobalNorm(1.0), ao.Momentum(), ao.ClipGlobalNorm(1.0), ao.EMA(), engine=e),
}


@pytest.mark.parametrize("reductions", PASSES)
@pytest.mark.parametrize("engine", ENGINES)
def test_one_pass_for_each_reduction(engine: ao.EngineName, reductions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each measure is one pass over the elements, and the step is one more, whatever the number of stages."""
    watch = Watch(engine, monkeypatch)
    optimizer, p = PASSES[reductions](engine), np.ones(5000)
    for step in range(1, 5):
        optimizer.update(p, np.ones(5000))
        assert len(watch.passes) == step * (reductions + 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_parameters_without_a_gradient(engine: ao.EngineName) -> None:
    """They rest, with their slots and counts, and the norm is that of the others; where all rest, nothing happens."""
    make = CHAINS["clip, Adam, EMA"]
    optimizer, alone, full = make(engine), make(engine), make(engine)
    params, twin = {"a": np.ones(3), "b": np.full(2, 5.0)}, np.ones(3)
    x, y = np.array([3.0, 4.0, 12.0]), np.array([1.0, -2.0])
    for _ in range(3):
        optimizer.update(params, {"a": x, "b": None})
        alone.update(twin, x)
    assert same_bits(params["a"], twin)
    assert params["b"].tolist() == [5.0, 5.0]
    assert optimizer.state is not None
    assert optimizer.state[:2] == (3, {"a": 3, "b": 0})
    assert optimizer.state.slots[1]["m"]["b"].tolist() == [0.0, 0.0]
    assert optimizer.state.slots[2]["average"]["b"].tolist() == [5.0, 5.0]
    optimizer.update(params, {"a": None, "b": None})
    assert optimizer.state[:2] == (3, {"a": 3, "b": 0})
    # Its first step is a first step: Adam's rate counts it as one.
    optimizer.update(params, {"a": None, "b": y})
    late = full.update(np.full(2, 5.0), y)
    assert same_bits(params["b"], late)
    assert optimizer.state[:2] == (4, {"a": 3, "b": 1})


class Scaled(ao.Stage):
    """Multiplies by a factor, which some parameters have of their own."""

    factor: ao.Nonnegative
    own: ClassVar[Any] = {"b": {"factor": 3.0}, "c.0": {"factor": float}}
    rule = staticmethod(lambda xp, p, x, c: c.factor * x)

    def overrides(self, path: str, p: Any) -> Any:
        return self.own.get(path, {})


@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_hyperparameters_of_some_parameters(engine: ao.EngineName | None) -> None:
    """Numbers and schedules for single paths; the others follow the stage, live."""
    optimizer = ao.chain(Scaled(factor=1.0), ao.SGD(1.0), engine=engine)
    params: Any = {"a": np.zeros(2), "b": np.zeros(2), "c": [np.zeros(2), np.zeros(2)]}
    ones = {"a": np.ones(2), "b": np.ones(2), "c": [np.ones(2), np.ones(2)]}
    for _ in range(3):
        optimizer.update(params, ones)
    optimizer.stages[0].factor = 10.0
    optimizer.update(params, ones)
    found = [a[0] for a in [params["a"], params["b"], *params["c"]]]
    assert found == [-13.0, -12.0, -10.0, -13.0]


@pytest.mark.parametrize(
    ("own", "error", "match"),
    [
        ({"speed": 1.0}, ValueError, r"Scaled\(factor=1.0\) overrides \['speed'\]; it has \['factor'\]"),
        ({"factor": -1.0}, ValueError, "factor is -1.0; wanted finite and at least 0"),
        ({"factor": "much"}, TypeError, "factor is 'much'; wanted a real number"),
        ({"factor": lambda t: math.nan}, ValueError, "factor, from its schedule at step 1, is nan"),
    ],
)
def test_wrong_overrides(own: Any, error: type[Exception], match: str) -> None:
    """They are refused with nothing written, in both forms."""
    stage = type("Scaled", (Scaled,), {"own": {"b": own}})(factor=1.0)
    optimizer, params = ao.chain(stage, ao.SGD(1.0)), {"a": np.zeros(2), "b": np.zeros(2)}
    with pytest.raises(error, match=match):
        optimizer.update(params, {"a": np.ones(2), "b": np.ones(2)})
    with pytest.raises(error, match=match):
        optimizer.step(params, params, optimizer.init(params))
    assert optimizer.state is None
    assert [a.tolist() for a in params.values()] == [[0.0, 0.0]] * 2


def test_where_is_asked_with_the_path_and_an_array() -> None:
    """Once for a parameter that stays; dots join the keys; a Python float has dimensions, too."""
    asked = []

    def where(path: str, p: Any) -> bool:
        asked.append((path, p.ndim))
        return bool(p.ndim > 1)

    optimizer = ao.chain(ao.WeightDecay(0.5, where=where), ao.SGD(1.0))
    params = {"l": [{"W": np.ones((1, 1)), "b": np.ones(1)}]}
    for _ in range(3):
        optimizer.update(params, {"l": [{"W": np.zeros((1, 1)), "b": np.zeros(1)}]})
    assert asked == [("l.0.W", 2), ("l.0.b", 1)]
    assert [a.ravel().tolist() for a in params["l"][0].values()] == [[0.125], [1.0]]
    numbers = {"x": 1.0}
    ao.chain(ao.WeightDecay(0.5, where=where), ao.SGD(1.0)).update(numbers, {"x": 0.0})
    assert numbers == {"x": 1.0}


def test_schedules_and_live_changes() -> None:
    """A stage's schedule is called with the step number; a change of its attributes holds from the next step on."""
    optimizer = ao.chain(ao.ClipGlobalNorm(lambda t: 2.0**-t), ao.SGD(1.0))
    p = np.zeros(1)
    path = [optimizer.update(p, np.ones(1))[0] for _ in range(3)]
    optimizer.stages[0].max_norm = 0.25
    path.append(optimizer.update(p, np.ones(1))[0])
    optimizer.stages[1].lr = 0.5
    path.append(optimizer.update(p, np.ones(1))[0])
    optimizer.stages[0].max_norm = math.inf
    path.append(optimizer.update(p, np.ones(1))[0])
    assert path == [-0.5, -0.75, -0.875, -1.125, -1.25, -1.75]
    optimizer.stages[0].max_norm = lambda t: -1.0
    with pytest.raises(ValueError, match=r"max_norm, from its schedule at step 7, is -1.0; wanted above 0"):
        optimizer.update(p, np.ones(1))
    assert p.tolist() == [-1.75]


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("engine", [None, *ENGINES])
@pytest.mark.parametrize("chain", CHAINS)
def test_step_equals_update(
    chain: str, engine: ao.EngineName | None, name: str, need: Callable[[str], Library]
) -> None:
    """The pure form gives the same bits, writes nothing, and has slots for each stage."""
    lib = need(name)
    params, grads = problem(steps=5)  # of the dtype of which test_equations has compiled all chains
    params = {k: lib.asarray(a) for k, a in params.items()}
    grads = [{k: lib.asarray(a) for k, a in g.items()} for g in grads]
    optimizer = CHAINS[chain](engine)
    before = {k: np.array(lib.tonumpy(a)) for k, a in params.items()}
    new, state = params, optimizer.init(params)
    assert isinstance(state.slots, tuple) == (type(optimizer).stages is not ao.Optimizer.stages)
    assert [tuple(of) for of in _nested(state)] == [stage.slots for stage in optimizer.stages]
    for g in grads:
        new, state = optimizer.step(new, g, state)
    assert agree(before, {k: lib.tonumpy(a) for k, a in params.items()})
    assert optimizer.state is None
    params, slots = run(optimizer, params, grads)
    one, two = ([*(lib.tonumpy(a) for a in p.values())] for p in (params, new))
    assert agree(one, two)
    assert optimizer.state is not None
    assert optimizer.state.scalars == state.scalars
    for a, b in zip(slots, _nested(state), strict=True):
        for slot in a:
            assert agree([lib.tonumpy(v) for v in a[slot].values()], [lib.tonumpy(v) for v in b[slot].values()])


@pytest.mark.parametrize("chain", ["clip, Momentum, clip", "LAMB"])
def test_jit_compiles_once(chain: str, need: Callable[[str], Library]) -> None:
    """Under `jax.jit` a chain is traced once for each reduction and the step; test_jax.py has all chains.

    And agrees with NumPy to 1e-5: XLA contracts, and adds in float32.
    """
    lib = need("jax")

    traced = []

    class Counted(ao.Stage):
        @staticmethod
        def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
            if hasattr(x, "shape"):  # not where equal reductions are looked for
                traced.append(x)
            return x

    params, grads = problem("float32", steps=20)
    optimizer = ao.chain(Counted(), CHAINS[chain](None))
    step = quick(optimizer.step)
    new: Any = {k: lib.asarray(a) for k, a in params.items()}
    state = optimizer.init(new)
    for g in grads:
        new, state = step(new, {k: lib.asarray(a) for k, a in g.items()}, state)
    passes = 1 + len(optimizer._pipeline.branch.program.reductions)
    assert len(traced) == passes * len(params)
    expected, _ = run(CHAINS[chain](None), params, grads)
    for k in params:
        np.testing.assert_allclose(new[k], expected[k], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("chain", ["two slots of one name", "clip, Adam, EMA"])
def test_jax_outside_jit(chain: str, need: Callable[[str], Library]) -> None:
    """Static options of the step count included: `update` agrees with NumPy to 1e-5, the norm being float32 there.

    Of all chains test_jax.py shows the compiled steps, and engines/test_jax_engine.py two engines with the same bits.
    """
    lib = need("jax")
    params, grads = problem("float32", steps=20)
    theirs = [{k: lib.asarray(a) for k, a in g.items()} for g in grads]
    new, _ = run(CHAINS[chain](None), {k: lib.asarray(a) for k, a in params.items()}, theirs)
    expected, _ = run(CHAINS[chain](None), params, grads)
    for k in params:
        np.testing.assert_allclose(new[k], expected[k], rtol=1e-5, atol=1e-5)


def test_lazy_steps_compute_nothing(need: Callable[[str], Library]) -> None:
    """On Dask, `step` of a chain with two reductions is a graph; asked for, it gives NumPy's bits."""
    lib = need("dask")
    import dask

    params, grads = problem("float32", steps=3)
    optimizer = CHAINS["clip, Momentum, clip"](None)

    def fails(block: Any) -> Any:
        raise AssertionError("computed too early")

    new: Any = {k: lib.asarray(a) for k, a in params.items()}
    state = optimizer.init(new)
    bombs = {k: a.map_blocks(fails, dtype=a.dtype, meta=np.empty((0,) * a.ndim, a.dtype)) for k, a in new.items()}
    lost, _ = optimizer.step(new, bombs, state)
    with pytest.raises(AssertionError, match="computed too early"):
        dask.compute(lost["b"])
    for g in grads:
        new, state = optimizer.step(new, {k: lib.asarray(a) for k, a in g.items()}, state)
    expected = run(optimizer, params, grads)
    assert agree(dask.compute(new, state.slots), expected)


@pytest.mark.parametrize(
    ("slots", "match"),
    [
        (lambda s: s[:2], "state.slots is not a tuple of 3, one for each stage"),
        (lambda s: {"m": s[1]["m"]}, "state.slots is not a tuple of 3"),
        (lambda s: (s[1], s[0], s[2]), r"state.slots\[0\] has \['m', 'v'\]; wanted \[\]"),
        (lambda s: (s[0], {"m": s[1]["m"]}, s[2]), r"state.slots\[1\] has \['m'\]; wanted \['m', 'v'\]"),
        (lambda s: (s[0], s[1], {"average": {"W": s[2]["average"]["W"]}}), r"state.slots\[2\]\['average'\]"),
        (lambda s: (s[0], s[1], {"average": {**s[2]["average"], "b": np.zeros(9)}}), r"state.slots\[2\].*'b'"),
        (lambda s: (s[0], None, s[2]), r"state.slots\[1\]"),
    ],
)
def test_wrong_states(slots: Callable[[Any], Any], match: str) -> None:
    """A state of another form is refused by name, with nothing written."""
    params, (x,) = problem(steps=1)
    before = {k: a.copy() for k, a in params.items()}
    optimizer = CHAINS["clip, Adam, EMA"](None)
    state = optimizer.init(params)
    with pytest.raises((ValueError, TypeError), match=match):
        optimizer.step(params, x, state._replace(slots=slots(state.slots)))
    assert agree(params, before)


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("chain", KINDS)
@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_copies_go_on_alone(chain: str, engine: ao.EngineName | None, copied: Callable[[Any], Any]) -> None:
    """A copy in mid-training, a pickled one too, gives the same bits, and shares neither slots nor stages."""
    params, grads = problem(steps=8)
    optimizer = CHAINS[chain](engine)
    run(optimizer, params, grads[:4])
    twin, other = {k: a.copy() for k, a in params.items()}, copied(optimizer)
    assert repr(other) == repr(optimizer)
    assert other.engine == engine
    assert all(a is not b for a, b in zip(other.stages, optimizer.stages, strict=True))
    assert agree(run(optimizer, params, grads[4:]), run(other, twin, grads[4:]))
    for stage in other.stages:
        for name in stage.hyperparameters:
            setattr(stage, name, allowed(stage, name, 0.125))
    assert repr(other) != repr(optimizer)


def test_chains_in_chains() -> None:
    """They are their stages, in order, and live; what is printed builds the same again."""
    inner = ao.chain(ao.ClipGlobalNorm(1.0), ao.Momentum(0.5))
    outer = ao.chain(ao.WeightDecay(0.25), inner, ao.EMA(0.5), engine="blocked")
    assert [type(stage) for stage in outer.stages] == [ao.WeightDecay, ao.ClipGlobalNorm, ao.Momentum, ao.EMA]
    assert outer.stages[1:3] == inner.stages
    text = (
        "chain(WeightDecay(decay=0.25), ClipGlobalNorm(max_norm=1.0), Momentum(lr=0.5, momentum=0.9), EMA(decay=0.5))"
    )
    assert repr(outer) == text
    assert repr(eval(text, dict(vars(ao)))) == text  # noqa: S307
    assert len(ao.chain(ao.chain(ao.chain(ao.SGD()))).stages) == 1
    p = np.ones(3)
    assert same_bits(ao.chain(ao.Adam()).update(p.copy(), p), ao.Adam().update(p.copy(), p))


FAST: Any = "fast"
WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no stage": (lambda: ao.chain(ao.SGD(), 3), TypeError, "chain was given 3; wanted stages"),  # type: ignore[arg-type]
    "a class": (lambda: ao.chain(ao.SGD), TypeError, "wanted stages, such as ao.Adam()"),  # type: ignore[arg-type]
    "nothing": (ao.chain, ValueError, r"chain was given 0 methods among \[\]; wanted one"),
    "no method": (lambda: ao.chain(ao.EMA()), ValueError, r"0 methods among \[EMA\(decay=0.999\)\]"),
    "two methods": (lambda: ao.chain(ao.SGD(), ao.chain(ao.SGD())), ValueError, "chain was given 2 methods"),
    "early": (lambda: ao.chain(ao.EMA(), ao.SGD()), ValueError, r"EMA.*sees the parameter after its step; wanted it"),
    "late": (lambda: ao.chain(ao.SGD(), ao.EMA(), ao.WeightDecay(0.1)), ValueError, r"WeightDecay\(decay=0.1\)"),
    "inner engine": (lambda: ao.chain(ao.SGD(engine="blocked")), ValueError, "engine='blocked'; wanted it on the"),
    "no engine": (
        lambda: ao.chain(ao.SGD(), engine=FAST),
        ValueError,
        "engine is 'fast'; wanted one of",
    ),
    "max_norm 0": (lambda: ao.ClipGlobalNorm(0), ValueError, "max_norm is 0.0; wanted above 0"),
    "max_norm < 0": (lambda: ao.ClipGlobalNorm(-1.0), ValueError, "max_norm is -1.0; wanted above 0"),
    "max_norm NaN": (lambda: ao.ClipGlobalNorm(math.nan), ValueError, "max_norm is nan; wanted above 0"),
    "max_norm None": (lambda: ao.ClipGlobalNorm(None), TypeError, "max_norm is None; wanted a real number"),  # type: ignore[arg-type]
    "decay < 0": (lambda: ao.WeightDecay(-1.0), ValueError, "decay is -1.0; wanted finite and at least 0"),
    "decay inf": (lambda: ao.WeightDecay(math.inf), ValueError, "decay is inf; wanted finite and at least 0"),
    "EMA 1": (lambda: ao.EMA(1.0), ValueError, "decay is 1.0; wanted at least 0 and below 1"),
    "misspelt": (lambda: setattr(ao.EMA(), "deacy", 0.5), AttributeError, "EMA has no 'deacy'"),
    "of the chain": (lambda: setattr(ao.chain(ao.SGD()), "lr", 0.5), AttributeError, "chain has no 'lr'"),
    "missing": (partial(Smoothed), TypeError, "Smoothed was not given share"),
}


@pytest.mark.parametrize("name", WRONG)
def test_refusals(name: str) -> None:
    """What is no chain, and no hyperparameter, is refused when it is made."""
    make, error, match = WRONG[name]
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_floats_ties_and_rebound_containers(engine: ao.EngineName | None) -> None:
    """In chains as without: Python floats are replaced, a tied array counts and moves once, new arrays are found."""
    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.Momentum(lr=1.0), ao.EMA(0.5), engine=engine)
    w = np.zeros(1)
    params: Any = {"x": 0.0, "in": w, "out": w}
    optimizer.update(params, {"x": 3.0, "in": np.array([4.0]), "out": None})
    assert params["x"] == pytest.approx(-0.6, rel=1e-15)
    assert type(params["x"]) is float
    assert params["in"] is params["out"] is w
    assert w[0] == pytest.approx(-0.8, rel=1e-15)
    assert optimizer.state is not None
    assert optimizer.state.slots[2]["average"]["out"][0] == pytest.approx(-0.4, rel=1e-15)
    with pytest.raises(ValueError, match="out"):
        optimizer.update({"x": 0.0, "in": w, "out": w.copy()}, {"x": 3.0, "in": w, "out": None})
    other = w.copy()
    optimizer.update({"x": params["x"], "in": other, "out": other}, {"x": 0.0, "in": np.zeros(1), "out": None})
    assert other[0] == pytest.approx(-0.8 - 0.9 * 0.8, rel=1e-15)
    assert w[0] == pytest.approx(-0.8, rel=1e-15)


def test_what_a_chain_would_ignore_or_forget() -> None:
    """A stage with nothing to act on, a method that has taken steps, and a predicate that is none."""
    with pytest.raises(ValueError, match=r"FlushSubnormals\(\) has no slots before it"):
        ao.chain(ao.FlushSubnormals(), ao.Adam())
    adam = ao.Adam()
    adam.update(np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match="has taken steps, which the chain would forget"):
        ao.chain(adam, ao.EMA())
    with pytest.raises(TypeError, match="where is True; wanted a function"):
        ao.WeightDecay(0.1, where=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="engine is \\['blocked'\\]; wanted one of"):
        ao.Adam(engine=["blocked"])  # type: ignore[arg-type]


def test_where_cannot_be_set_again() -> None:
    """What was found out by it about parameters would go on."""
    stage = ao.WeightDecay(0.5, where=lambda path, _: path == "a")
    with pytest.raises(AttributeError, match="'where'"):
        stage.where = None  # type: ignore[misc] # that is what is tried
    assert repr(stage) == "WeightDecay(decay=0.5)"
    assert ao.chain(stage, ao.SGD()).state_dict()["stages"][0]["constants"] == {}


def test_a_loss_scale_behind_a_method_is_refused() -> None:
    """It would divide the step, which the method may have freed of the scale."""
    with pytest.raises(ValueError, match=r"LossScale\(.*\) divides the gradient by a scale; wanted it before Adam\("):
        ao.chain(ao.Adam(), ao.LossScale())
    with pytest.raises(ValueError, match="wanted it before SGD"):
        ao.partition({"a": ao.chain(ao.SGD(), ao.LossScale()), ...: ao.Adam()})
    assert ao.chain(ao.LossScale(), ao.Adam()).loss_scale > 1
