"""The pure form under JAX's transformations: what `init` gives is carried through them, and compiled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim.random import philox4x32
from tests.support.chains import CHAINS
from tests.support.libraries import COMPOSED, DISCOVERED, METHODS, WHOLE, Library
from tests.support.xla import compiler, quick

MADE: dict[str, Callable[[], ao.Optimizer]] = {
    **{name: method for name, method in DISCOVERED.items() if name not in COMPOSED},
    # One has an option of the step count, which nothing traced has.
    **{name: lambda make=make: make(None) for name, make in CHAINS.items() if name != "two slots of one name"},  # type: ignore[misc]
    "gates, clip, EMA": lambda: ao.chain(
        ao.LossScale(interval=3), ao.SkipNonFinite(), ao.ClipGlobalNorm(1.0), ao.Adam(lr=0.1), ao.EMA(0.9)
    ),
    "accumulate, metrics": lambda: ao.chain(ao.Accumulate(4), ao.Metrics("all"), ao.AdamW(lr=0.1), ao.SWA(5)),
    "accumulate, gates": lambda: ao.chain(ao.Accumulate(3), ao.SkipNonFinite(), ao.NAdam(lr=0.1)),
    "groups": lambda: ao.chain(ao.AdamW(lr=0.1), ao.groups({"W": {"weight_decay": 0.0}, "V": {"lr": 0.01}, ...: {}})),
    "partition": lambda: ao.chain(
        ao.ClipGlobalNorm(1.0), ao.partition({"W": ao.Adam(lr=0.1), "V": None, ...: ao.SGD()}), ao.EMA(0.9)
    ),
    "schedule": lambda: ao.Adam(lr=ao.schedules.warmup_cosine(0.1, 500, 10)),
    "layers": lambda: ao.chain(ao.AdaptiveClip(0.1), ao.Adam(lr=1.0), ao.TrustRatio(), ao.Scale(0.01)),
}
"""Every method, and chains of all kinds of stages."""


def _problem(name: str, n: int, seed: int = 5, few: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters, and n gradients of each in a row, one of which has a NaN where that is looked for.

    Two of them, for what takes a matrix and a number has nothing else to compile, unless others are told apart.
    """
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"W": (4, 3), "V": (3, 2)}
    if name not in WHOLE:
        shapes |= {"b": (3,), "s": ()}
        if few:
            shapes = {k: shapes[k] for k in ("WVs" if name in {"groups", "partition"} else "Ws")}
    params = {k: np.asarray(rng.normal(size=shape), np.float32) for k, shape in shapes.items()}
    grads = {k: np.asarray(rng.normal(size=(n, *shape)), np.float32) for k, shape in shapes.items()}
    if "gates" in name:
        grads["W"][7 % n, 0, 0] = np.nan
    return params, grads


def _scanned(name: str, optimizer: ao.Optimizer) -> tuple[Any, list[int]]:
    """A compiled loop over gradients in a row, which gives the parameters after each step, and what counts traces."""
    import jax

    traces: list[int] = []

    def body(carry: Any, g: Any) -> Any:
        traces.append(1)
        params, state = optimizer.step(carry[0], g, carry[1])
        return (params, state), params

    return compiler(name)(lambda p, s, gs: jax.lax.scan(body, (p, s), gs)), traces


WIDE = ["Adam", *(name for name, make in MADE.items() if any(stage.scalars for stage in make().stages))]
"""With x64 only the width of counts and numbers is another: those that have such, and one that has counts alone."""
LONG = {*CHAINS, *METHODS} - {*COMPOSED, "clip, Adam, EMA", "SGD", "Adam", "Adan", "ASGD", "NAdam", "RAdam", "Rprop"}
"""What there are others of the kind of: they run among the products. engines/test_jax_engine.py compiles each rule."""


@pytest.mark.parametrize(
    ("name", "x64"),
    [
        *(pytest.param(name, False, marks=pytest.mark.product if name in LONG else ()) for name in MADE),
        *(pytest.param(name, True, marks=() if name == "Adam" else pytest.mark.product) for name in WIDE),
    ],
)
def test_a_scan_over_a_thousand_steps_compiles_once(name: str, x64: bool, need: Callable[[str], Library]) -> None:
    """What `init` gives has the types of what `step` gives, to the last number: a second scan goes on from it as it is.

    And its first twenty steps are NumPy's, to what a float32 norm and XLA's roundings make in so many.
    """
    lib = need("jax-x64" if x64 else "jax")
    import jax

    with lib.context():
        params, grads = _problem(name, 1000)
        optimizer, ours = MADE[name](), MADE[name]()
        loop, traces = _scanned(name, optimizer)
        p = {k: lib.asarray(a) for k, a in params.items()}
        state = optimizer.init(p)
        assert all(np.shape(a) == () or isinstance(a, jax.Array) for a in jax.tree.leaves(state))
        kinds = jax.tree.map(jax.typeof, (p, state))
        assert not any(a.weak_type for a in jax.tree.leaves(kinds))
        (p, state), path = loop(p, state, grads)
        assert jax.tree.map(jax.typeof, (p, state)) == kinds
        steps = int(state.step)
        (p, state), _ = loop(p, state, grads)
        assert len(traces) == 1
        assert int(state.step) == 2 * steps > 0
        for i in range(20):
            ours.update(params, {k: g[i] for k, g in grads.items()})
        for k, a in params.items():
            np.testing.assert_allclose(path[k][19], a, rtol=2e-5, atol=2e-5, err_msg=k)
            assert np.all(np.isfinite(p[k])), k


class Restarting(ao.Stage):
    """A number that is a constant from the first step on, and one that is a norm."""

    scalars = {"constant": 1.0, "norm": 0.0}
    reductions = {"length": ao.Norm(lambda xp, p, x: x)}
    update_scalars = staticmethod(lambda step, hyper: {"constant": 0.0, "norm": hyper.length})
    coefficients = staticmethod(lambda t, hyper: {"scale": 1 / (1 + hyper.norm)})
    rule = staticmethod(lambda xp, p, x, c: c.scale * x)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_keep_the_dtype_that_they_have(dtype: str, need: Callable[[str], Library]) -> None:
    """Be it not the widest, as in a state of a run without x64; a host's become the widest, and never a weak type."""
    lib = need("jax-x64")
    import jax
    import jax.numpy as jnp

    with lib.context():
        optimizer = ao.chain(Restarting(), ao.LossScale(interval=2), ao.SGD())
        p = lib.array([1.0, 2.0])
        first = optimizer.init(p)
        state = first._replace(scalars=jax.tree.map(lambda n: jnp.asarray(n, dtype), first.scalars))
        _, after = jax.jit(optimizer.step)(p, p, state)
        assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
        _, after = jax.jit(lambda p, g: optimizer.step(p, g, first))(p, p)
        assert {(str(n.dtype), n.weak_type) for n in jax.tree.leaves(after.scalars)} == {("float64", False)}
        _, eager = optimizer.step(p, p, state)
        assert {type(n) for n in jax.tree.leaves(eager.scalars)} == {np.float64}


VMAPPED = [
    "Adam",
    "Adafactor",
    "clip, Adam, EMA",
    "gates, clip, EMA",
    "SGD",
    "NAdam",
    "ASGD",
    "Prodigy",
    "accumulate, gates",
]
"""The first four each time."""


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize(
    "name", [*VMAPPED[:4], *(pytest.param(name, marks=pytest.mark.product) for name in VMAPPED[4:])]
)
def test_an_ensemble_under_vmap(name: str, need: Callable[[str], Library]) -> None:
    """Each member as if it were alone: a norm is its own, and one that skips a step is alone in it."""
    lib = need("jax")
    import jax

    members = [_problem(name, 8, seed) for seed in range(3)]
    if "gates" in name:
        members[1][1]["s"][7] = members[2][1]["W"][3, 0, 0] = np.inf
    stacked = {k: lib.asarray(np.stack([p[k] for p, _ in members])) for k in members[0][0]}
    optimizer = MADE[name]()
    state = jax.vmap(optimizer.init)(stacked)
    kinds = jax.tree.map(jax.typeof, (stacked, state))
    step, eager = quick(jax.vmap(optimizer.step)), None
    for i in range(8):
        g = {k: lib.asarray(np.stack([gs[k][i] for _, gs in members])) for k in stacked}
        # The tracers of vmap are the same without jit: a method and a chain with numbers and a gate show it.
        if i == 7 and name in {"Adam", "gates, clip, EMA"}:
            eager = jax.vmap(optimizer.step)(stacked, g, state)
        stacked, state = step(stacked, g, state)
        assert jax.tree.map(jax.typeof, (stacked, state)) == kinds
    assert step._cache_size() == 1
    for j, (params, grads) in enumerate(members):
        alone = MADE[name]()
        for i in range(8):
            alone.update(params, {k: g[i] for k, g in grads.items()})
        assert alone.state is not None
        assert int(state.step[j]) == alone.state.step
        for k, a in params.items():
            np.testing.assert_allclose(stacked[k][j], a, rtol=2e-5, atol=2e-5)
            if eager is not None:
                np.testing.assert_allclose(eager[0][k][j], a, rtol=2e-5, atol=2e-5)


@pytest.mark.usefixtures("quickly")
def test_learning_rates_under_vmap(need: Callable[[str], Library]) -> None:
    """One state for each of several learning rates, with the same parameters and gradients for all."""
    lib = need("jax")
    import jax

    params, grads = _problem("Adam", 5)
    rates = np.array([0.1, 0.01, 0.0], np.float32)
    p, gs = ({k: lib.asarray(a) for k, a in of.items()} for of in (params, grads))

    def step(lr: Any, p: Any, g: Any, s: Any) -> Any:
        return ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam(lr=lr, beta1=0.5)).step(p, g, s)

    first = ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam()).init(p)
    one, others = (quick(jax.vmap(step, in_axes=(0, of, None, of))) for of in (None, 0))
    ps, states = one(rates, p, {k: g[0] for k, g in gs.items()}, first)
    for i in range(1, 5):
        ps, states = others(rates, ps, {k: g[i] for k, g in gs.items()}, states)
    for j, lr in enumerate(rates):
        ours = {k: a.copy() for k, a in params.items()}
        alone = ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam(lr=float(lr), beta1=0.5))
        for i in range(5):
            alone.update(ours, {k: g[i] for k, g in grads.items()})
        for k, a in ours.items():
            np.testing.assert_allclose(ps[k][j], a, rtol=2e-5, atol=2e-6)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize(
    "name", ["Adam", "ASGD", "Prodigy", "clip, Adam, EMA", "gates, clip, EMA", "accumulate, metrics"]
)
def test_divided_arrays_stay_divided(name: str, need: Callable[[str], Library]) -> None:
    """Slots are divided as their parameters from `init` on, and numbers are whole on every device."""
    need("jax")
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    rows, whole = NamedSharding(mesh, PartitionSpec("d")), NamedSharding(mesh, PartitionSpec())
    wheres = {"W": rows, "V": NamedSharding(mesh, PartitionSpec(None, "d")), "b": whole, "s": whole}
    params, grads = _problem(name, 6, few=False)

    def put(arrays: Any) -> Any:
        # Copies: it may look at the memory of NumPy, which is written to below.
        return {k: jax.device_put(a.copy(), wheres[k]) for k, a in arrays.items()}

    optimizer, ours = MADE[name](), MADE[name]()
    traces = []

    def counted(*given: Any) -> Any:
        traces.append(1)
        return optimizer.step(*given)

    p = put(params)
    state, step = optimizer.init(p), quick(counted)
    for i in range(6):
        for of in state.slots if isinstance(state.slots, tuple) else (state.slots,):
            for slot in of.values():
                for k, s in slot.items():
                    assert s.sharding.is_equivalent_to(wheres[k], s.ndim), k
        p, state = step(p, put({k: g[i] for k, g in grads.items()}), state)
        ours.update(params, {k: g[i] for k, g in grads.items()})
        assert all(a.sharding.is_equivalent_to(wheres[k], a.ndim) for k, a in p.items())
        assert all(n.sharding.is_fully_replicated for n in jax.tree.leaves((state.step, state.t, state.scalars)))
    assert len(traces) == 1
    for k, a in params.items():
        np.testing.assert_allclose(p[k], a, rtol=2e-5, atol=2e-5)


@pytest.mark.usefixtures("quickly")
def test_steps_one_by_one_and_compiled_ones_in_turn(need: Callable[[str], Library]) -> None:
    """A state of `update`, of `step` and of `step` compiled is of one kind, for which nothing is traced anew."""
    lib = need("jax")

    params, grads = _problem("gates", 9)
    p: Any = {k: lib.asarray(a) for k, a in params.items()}
    optimizer, traces = MADE["gates, clip, EMA"](), []

    def counted(*given: Any) -> Any:
        traces.append(1)
        return optimizer.step(*given)

    step = quick(counted)
    gs = [{k: lib.asarray(g[i]) for k, g in grads.items()} for i in range(9)]
    p, state = step(p, gs[0], optimizer.init(p))
    p, state = optimizer.step(p, gs[1], state)
    p, state = step(p, gs[2], state)
    optimizer.load_state_dict(optimizer.state_dict(state), p)
    optimizer.update(p, gs[3])
    assert optimizer.state is not None
    p, state = step(p, gs[4], optimizer.state)
    assert len(traces) == 1
    assert type(optimizer.state_dict(state)["step"]) is int
    alone = MADE["gates, clip, EMA"]()
    for i in range(5):
        alone.update(params, {k: g[i] for k, g in grads.items()})
    for k, a in params.items():
        np.testing.assert_allclose(p[k], a, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_draws_that_differ_by_device(need: Callable[[str], Library], kind: str) -> None:
    """Under `shard_map` each shard may name a call of its own; counters may lie in different ways."""
    need("jax")
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((2,), ("i",), axis_types=(getattr(AxisType, kind),))
    apart, together = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ("i", ""))

    def draw(x: Any) -> Any:
        return ao.dropout(x, 0.5, 5, jax.lax.axis_index("i"))

    mapped = jax.shard_map(draw, mesh=mesh, in_specs=PartitionSpec("i"), out_specs=PartitionSpec("i"))
    expected = [ao.dropout(np.ones(8, np.float32), 0.5, 5, call) for call in range(2)]
    assert (
        np.asarray(jax.jit(mapped)(jax.device_put(jax.numpy.ones(16), apart))).tolist() == np.ravel(expected).tolist()
    )
    index = np.arange(16)
    words = philox4x32([jax.device_put(index.astype(np.uint32), at) for at in (apart, *[together] * 3)], (1, 2))
    assert [np.asarray(w).tolist() for w in words] == [w.tolist() for w in philox4x32([index] * 4, (1, 2))]
