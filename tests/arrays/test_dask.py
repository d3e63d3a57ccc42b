"""Dask: what `update` leaves is computed, however many updates there were; `step` only adds to the graph.

Each chunk is one task, and one more where a norm is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim.random import philox4x32
from tests.support.internals import Dispatch
from tests.support.libraries import Library, same_bits

MADE: dict[str, Callable[[], ao.Optimizer]] = {
    "Adam": ao.Adam,
    "Adafactor": ao.Adafactor,
    "clip, AdamW, EMA, SWA": lambda: ao.chain(
        ao.ClipGlobalNorm(0.5), ao.AdamW(lr=0.1), ao.EMA(0.9), ao.SWA(2), ao.Lookahead(3)
    ),
    "accumulate, gates, metrics": lambda: ao.chain(
        ao.Accumulate(3), ao.LossScale(interval=4), ao.SkipNonFinite(), ao.Metrics("seen"), ao.NAdam(lr=0.1)
    ),
    "clips, trust": lambda: ao.chain(ao.ClipNorm(0.5), ao.Adam(lr=1.0), ao.TrustRatio(), ao.Scale(0.01)),
}


def _graphs(arrays: list[Any]) -> list[tuple[int, int]]:
    """The number of keys and of layers of each array's graph."""
    return [(len(dict(a.dask)), len(a.dask.layers)) for a in arrays]


def _arrays(params: Any, state: ao.State | None) -> list[Any]:
    assert state is not None
    slots = state.slots if isinstance(state.slots, tuple) else (state.slots,)
    return [*params.values(), *(a for of in slots for s in of.values() for a in s.values())]


@pytest.mark.parametrize("name", MADE)
def test_graphs_of_updates_do_not_grow(name: str, need: Callable[[str], Library]) -> None:
    """After any update parameters, slots, averages and totals have a graph of one layer, with a key for each chunk."""
    need("dask")
    import dask.array as da

    rng = np.random.default_rng(1)
    values = {"w": rng.normal(size=(4, 3)).astype(np.float32)}
    params = {k: da.from_array(a, chunks=2) for k, a in values.items()}
    optimizer, ours = MADE[name](), MADE[name]()
    for i in range(13):  # past every window, of 2, 3 and 4 steps, and the first again: what grows has grown by then
        g = rng.normal(size=(4, 3)).astype(np.float32)
        if i == 5 and "gates" in name:
            g[0, 0] = np.nan
        optimizer.update(params, {"w": da.from_array(g, chunks=4) * 1.0 + 0.0 * params["w"]})
        ours.update(values, {"w": g})
        for a, (keys, layers) in zip(
            _arrays(params, optimizer.state), _graphs(_arrays(params, optimizer.state)), strict=True
        ):
            assert (keys, layers) == (a.npartitions, 1)
    assert optimizer.state is not None
    assert ours.state is not None
    assert optimizer.state.step == ours.state.step
    np.testing.assert_allclose(params["w"].compute(), values["w"], rtol=1e-5, atol=1e-6)


def test_graphs_of_steps_grow_until_they_are_persisted(need: Callable[[str], Library]) -> None:
    """`step` computes nothing, so that its arrays carry all steps so far: `dask.persist` ends that."""
    need("dask")
    import dask
    import dask.array as da

    optimizer = ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(lr=0.1), ao.EMA(0.9))
    params = {"w": da.ones((4, 3), chunks=2)}
    state = optimizer.init(params)
    sizes = []
    for i in range(6):
        params, state = optimizer.step(params, params, state)
        sizes.append(len(dict(params["w"].dask)))
        if i == 3:
            params, state = dask.persist(params, state)
            assert len(dict(params["w"].dask)) == params["w"].npartitions
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3]
    assert sizes[4] < sizes[1]
    assert state.step == 6
    assert type(state) is ao.State


def test_counters_of_different_chunks(need: Callable[[str], Library]) -> None:
    """Counters of one shape may have different chunks."""
    need("dask")
    import dask.array as da

    words = philox4x32([da.arange(10, chunks=n, dtype=np.int64) for n in (10, 3, 5, 10)], (1, 2))
    assert [np.asarray(w).tolist() for w in words] == [w.tolist() for w in philox4x32([np.arange(10)] * 4, (1, 2))]


def _executed(compute: Callable[[], Any]) -> int:
    """The number of tasks that Dask executes meanwhile."""
    from dask.callbacks import Callback

    keys: list[Any] = []
    with Callback(pretask=lambda key, dsk, state: keys.append(key)):
        compute()
    return len(keys)


PROBLEMS: dict[str, tuple[list[tuple[int, ...]], Any]] = {
    "one array": ([(40,)], 1),
    "a matrix": ([(6, 8)], (1, 2)),
    "many arrays": ([(3,)] * 20, -1),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_tasks_of_a_chunk(name: str, need: Callable[[str], Library]) -> None:
    """A step is one task for each chunk, and one to take each result from it; a clip adds one for each chunk."""
    need("dask")
    import dask.array as da

    shapes, chunks = PROBLEMS[name]
    params = {str(i): da.ones(shape, chunks=chunks).persist() for i, shape in enumerate(shapes)}
    grads = {k: (3 * p).persist() for k, p in params.items()}
    n = sum(p.npartitions for p in params.values())
    plain = _counted(ao.Adam(), params, grads)
    clipped = _counted(ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam()), params, grads)
    assert plain[1:] == (4 * n, 4 * n)  # what gives p, m and v, and each of these
    for with_norm, without in zip(clipped, plain, strict=True):
        assert with_norm <= without + n + 10  # what makes a coefficient of the norm


def _counted(optimizer: ao.Optimizer, params: Any, grads: Any) -> tuple[int, int, int]:
    """The tasks that a step adds to a graph, those that are executed for it, and those of an update."""
    import dask

    mine, state = dict(params), dask.persist(optimizer.init(params))[0]
    new = optimizer.step(params, grads, state)
    built = {key for a in _arrays(*new) for key in a.dask.to_dict()}
    executed = _executed(lambda: dask.persist(*new))
    optimizer.update(mine, grads)
    return len(built), executed, _executed(lambda: optimizer.update(mine, grads))


def test_equal_parameters_stay_two(need: Callable[[str], Library]) -> None:
    """Dask gives equal computations of equal arrays one name, and arrays of one name are one after `persist`."""
    need("dask")
    import dask.array as da

    params = {name: da.ones(3) for name in "ab"}
    optimizer = ao.Momentum(lr=1.0, momentum=0.5)
    for _ in range(2):
        optimizer.update(params, {name: da.ones(3) for name in "ab"})
    assert params["a"].compute().tolist() == params["b"].compute().tolist() == [-1.5] * 3


CUTS: list[tuple[tuple[int, ...], Any, Any]] = [
    ((), -1, -1),
    ((13,), ((5, 0, 8),), 4),
    ((13,), 1, -1),
    ((6, 7), (2, 7), (6, 3)),
    ((2, 3, 4), (1, 3, 2), -1),
    ((0,), -1, -1),
]


@pytest.mark.parametrize(("cut", "dtype"), [*zip(CUTS, ["float32", "complex64", "float16"] * 2, strict=True)], ids=str)
def test_bits_of_any_chunks(cut: tuple[Any, ...], dtype: str, need: Callable[[str], Library]) -> None:
    """Parameters, gradients and slots in any chunks, empty ones too: NumPy's bits, by `update` and by `step`."""
    need("dask")
    import dask
    import dask.array as da

    shape, chunks, others = cut
    rng = np.random.default_rng(3)
    values, *grads = (np.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape)) for _ in range(4))
    if dtype != "complex64":
        values, *grads = (np.asarray(a.real) for a in (values, *grads))
    values, *grads = (a.astype(dtype) for a in (values, *grads))

    def made() -> ao.Optimizer:
        return ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(lr=0.1), ao.TrustRatio(), ao.EMA(0.9))

    ours, by_update, by_step = made(), made(), made()
    expected, lazy = {"w": values.copy()}, {"w": da.from_array(values, chunks=chunks)}
    pure: dict[str, Any]
    pure, state = dict(lazy), by_step.init(lazy)
    for g in grads:
        x = {"w": da.from_array(g, chunks=others)}
        ours.update(expected, {"w": g})
        by_update.update(lazy, x)
        pure, state = by_step.step(pure, x, state)
        assert lazy["w"].chunks == pure["w"].chunks == da.from_array(values, chunks=chunks).chunks
    wanted = _arrays(expected, ours.state)
    for found in (_arrays(lazy, by_update.state), _arrays(pure, state)):
        with np.errstate(divide="ignore"):  # the step divides by the norm, when it is computed
            assert all(map(same_bits, dask.compute(*found), wanted))
        assert [a.dtype for a in found] == [a.dtype for a in wanted]


def test_tasks_travel_to_other_processes(need: Callable[[str], Library]) -> None:
    """The graph of a step can be pickled, as Dask's other schedulers do it, rules that are lambdas and all."""
    need("dask")
    import cloudpickle
    import dask
    import dask.array as da

    class Halved(ao.Stage):
        rule = staticmethod(lambda xp, p, x, c: x * 0.5)

    params = {"w": da.arange(6.0, chunks=2)}
    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), Halved(), ao.SGD(lr=1.0))
    new, _ = optimizer.step(params, params, optimizer.init(params))
    copy = cloudpickle.loads(cloudpickle.dumps(new["w"]))
    assert same_bits(*dask.compute(copy, new["w"]))


def test_a_wrong_rule_is_named_before_anything_is_computed(need: Callable[[str], Library]) -> None:
    """By `step`, too, whose tasks run later."""
    lib = need("dask")

    class Clever(ao.Stage):
        rule = staticmethod(lambda xp, p, x, c: xp.exp(x))

    optimizer, params = ao.chain(Clever(), ao.SGD()), {"w": lib.array([1.0, 2.0])}
    with pytest.raises(TypeError, match=r"it uses xp\.exp"):
        optimizer.step(params, params, optimizer.init(params))


def test_a_reduction_is_given_what_it_reads(need: Callable[[str], Library]) -> None:
    """The norm of gradients waits for no parameter and for no slot."""
    need("dask")
    import dask
    import dask.array as da

    def fails(block: Any) -> Any:
        raise AssertionError("computed for a norm that does not read it")

    g = da.ones(4, chunks=2)
    bomb = g.map_blocks(fails, dtype=g.dtype, meta=np.empty(0))
    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam())
    with pytest.raises(AssertionError, match="does not read it"):
        dask.compute(optimizer.step({"w": bomb}, {"w": g}, optimizer.init({"w": g}))[0])
    norms = optimizer.step({"w": bomb}, {"w": g}, optimizer.init({"w": g}))[0]["w"].dask
    (name,) = (layer for layer in norms.layers if layer.startswith("reduction"))
    needed = norms.cull({(name,)})
    assert not [layer for layer in needed.layers if layer.startswith("fails")]


@pytest.mark.parametrize("compiled", [False, True])
def test_the_engine_of_a_chunk(compiled: bool, need: Callable[[str], Library], monkeypatch: pytest.MonkeyPatch) -> None:
    """That of NumPy's arrays, compiled where `compile` was told to, or one that was named."""
    need("dask")
    import dask.array as da

    seen: list[str] = []
    begin = Dispatch.__init__

    def noted(self: Dispatch, *arguments: Any) -> None:
        begin(self, *arguments)
        seen.extend(choice.engine for choice in self.choices)

    monkeypatch.setattr(Dispatch, "__init__", noted)
    params = {"w": da.from_array(np.ones(4), chunks=2)}
    for engine in (None, "portable"):
        optimizer = ao.chain(ao.SGD(lr=0.125 if compiled else 0.25), ao.Scale(0.5), engine=engine)
        if compiled:
            optimizer.compile(params)
        seen.clear()
        optimizer.update(params, params)
        assert seen == ["portable", *[engine or ("compiled" if compiled else "blocked")] * 2]
