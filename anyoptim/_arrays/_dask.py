"""Dask arrays."""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anyoptim._arrays._library import Array, Library
from anyoptim._arrays._memory import MemoryLayout
from anyoptim._arrays._numpy import by_parts
from anyoptim._arrays._quiet import quiet

__all__ = ["Dask"]


class Dask(Library):
    """Dask."""

    name = "dask"
    lazy = True

    def refusal(self, x: Array) -> str | None:
        if any(n != n for n in x.shape):
            return f"has the unknown shape {x.shape}; call compute_chunk_sizes() on it first"
        if isinstance(x._meta, np.ma.MaskedArray):
            return "has masked chunks, whose operators mean something else; wanted plain ones"
        return None

    def writable(self, x: Array) -> bool:
        # A Dask array can be assigned to, but graphs that were built from it before would not see it.
        return False

    def memory(self, x: Array) -> MemoryLayout | None:
        return None

    def join_complex(self, real: Array, imag: Array, dtype: Any) -> Array:
        return sys.modules["dask.array"].map_blocks(functools.partial(by_parts, np), real, imag, dtype, dtype=dtype)

    def fold(
        self, step: Callable[..., tuple[Array, ...]], state: tuple[Array, ...], rows: Sequence[Sequence[int]]
    ) -> tuple[Array, ...]:
        # Without this there would be two hundred tasks for each block, instead of one.
        return self.map_blocks(functools.partial(_folded, step, rows), state, state)

    def block(self, x: Array) -> Array:
        return x._meta

    def map_blocks(
        self,
        call: Callable[..., tuple[Array, ...]],
        like: Sequence[Array],
        arrays: Sequence[Array],
        numbers: Sequence[Array] = (),
    ) -> tuple[Array, ...]:
        map_blocks, blocks = sys.modules["dask.array"].map_blocks, _aligned(arrays)
        # Its blocks are tuples.
        results = map_blocks(functools.partial(_quiet, call), *blocks, *numbers, meta=like[0]._meta)
        return tuple(map_blocks(operator.itemgetter(k), results, meta=a._meta) for k, a in enumerate(like))

    def rows_of_blocks(
        self,
        call: Callable[..., Array],
        like: np.ndarray[Any, Any],
        arrays: Sequence[Array],
        numbers: Sequence[Array] = (),
    ) -> Array:
        blocks = _aligned(arrays)
        axes = blocks[0].ndim
        row = functools.partial(_row, call, (1,) * axes)
        chunks = (*((1,) * n for n in blocks[0].numblocks), like.shape[1:])
        meta = np.empty((0,) * (axes + 1), like.dtype)
        return sys.modules["dask.array"].map_blocks(row, *blocks, *numbers, new_axis=axes, chunks=chunks, meta=meta)

    def rows_to_host(
        self, rows: Sequence[Array], arrays: list[Array]
    ) -> tuple[list[np.ndarray[Any, Any]], list[Array]]:
        counts = [table.npartitions for table in rows]
        one = _in_one_task(_joined, rows, (sum(counts), rows[0].shape[-1]), rows[0].dtype)
        table, *arrays = sys.modules["dask"].persist(one, *arrays)
        return np.split(np.asarray(table), np.cumsum(counts[:-1])), arrays

    def of_rows(self, value: Callable[[Any, Sequence[Any]], Any], rows: Sequence[Array]) -> Array:
        return _in_one_task(functools.partial(_value, value), rows, (), np.float64)

    def sharded_like(self, x: Array, like: Array) -> Array:
        return x.rechunk(tuple((1,) if n == 1 else chunks for n, chunks in zip(x.shape, like.chunks, strict=True)))

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x)

    def materialize(self, arrays: list[Array]) -> list[Array]:
        # Without this the graph would grow with every step, without end.
        return list(sys.modules["dask"].persist(*arrays))


def _aligned(arrays: Sequence[Array]) -> list[Array]:
    """The arrays, in the chunks of the first."""
    return [a.rechunk(arrays[0].chunks) for a in arrays]


def _in_one_task(call: Callable[..., Array], arrays: Sequence[Array], shape: tuple[int, ...], dtype: Any) -> Array:
    """An array of one chunk: `call` of a list of the blocks of all arrays."""
    dask = sys.modules["dask"]
    name = f"reduction-{dask.base.tokenize(call, [a.name for a in arrays])}"
    keys = [key for a in arrays for key in dask.core.flatten(a.__dask_keys__())]
    layer = {(name, *(0 for _ in shape)): (call, keys)}
    graph = sys.modules["dask.highlevelgraph"].HighLevelGraph.from_collections(name, layer, dependencies=arrays)
    return sys.modules["dask.array"].Array(graph, name, tuple((n,) for n in shape), dtype=dtype)


# What follows is run in the threads that compute, where nobody else tells NumPy not to warn.


def _quiet(call: Callable[..., Any], *blocks: Array) -> Any:
    with quiet():
        return call(*blocks)


def _folded(step: Callable[..., tuple[Array, ...]], rows: Sequence[Sequence[int]], *state: Array) -> tuple[Array, ...]:
    """The parts of the state after `fold` over one block."""
    for row in rows:
        state = step(state, *(state[0].dtype.type(word) for word in row))
    return state


def _row(call: Callable[..., Array], axes: tuple[int, ...], *blocks: Array) -> Array:
    row = _quiet(call, *blocks)
    return row.reshape(axes + row.shape[1:])


def _joined(blocks: Sequence[Array]) -> Array:
    return np.concatenate([block.reshape(1, -1) for block in blocks])


def _value(value: Callable[[Any, Sequence[Any]], Any], blocks: Sequence[Array]) -> Array:
    return np.asarray(value(np, [_joined(blocks)]))
