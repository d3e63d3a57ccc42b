"""Dask arrays."""

from __future__ import annotations

import functools
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
        first, parts = state[0], [part.rechunk(state[0].chunks) for part in state]
        call, chunks = functools.partial(_folded, step, rows), ((len(state),), *first.chunks)
        stacked = sys.modules["dask.array"].map_blocks(call, *parts, dtype=first.dtype, new_axis=0, chunks=chunks)
        return tuple(stacked[k] for k in range(len(state)))

    def sharded_like(self, x: Array, like: Array) -> Array:
        return x.rechunk(tuple((1,) if n == 1 else chunks for n, chunks in zip(x.shape, like.chunks, strict=True)))

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x)

    def materialize(self, arrays: list[Array]) -> list[Array]:
        # Without this the graph would grow with every step, without end.
        return list(sys.modules["dask"].persist(*arrays))


def _folded(step: Callable[..., tuple[Array, ...]], rows: Sequence[Sequence[int]], *state: Array) -> Array:
    """The parts of the state after `fold` over one block, stacked."""
    with quiet():  # in the thread that computes
        for row in rows:
            state = step(state, *(state[0].dtype.type(word) for word in row))
    return np.stack(state)
