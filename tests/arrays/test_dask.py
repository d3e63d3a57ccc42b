"""Dask: what `update` leaves is computed, however many updates there were; `step` only adds to the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim.random import philox4x32
from tests.support.libraries import Library

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


def _arrays(optimizer: ao.Optimizer, params: Any) -> list[Any]:
    assert optimizer.state is not None
    slots = optimizer.state.slots
    own = [a for of in (slots if isinstance(slots, tuple) else (slots,)) for s in of.values() for a in s.values()]
    return [*params.values(), *own]


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
        for a, (keys, layers) in zip(_arrays(optimizer, params), _graphs(_arrays(optimizer, params)), strict=True):
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
