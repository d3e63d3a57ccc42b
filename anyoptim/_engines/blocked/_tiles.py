"""The sums of squares of the reduction, by NumPy: blocks stand one below the other and are halved together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays._quiet import quiet
from anyoptim._engines._base import NDArray
from anyoptim._engines.blocked._functions import BoundFunction
from anyoptim._machine._scratch import scratch
from anyoptim._trace._reduction import BLOCK

__all__ = ["add_up", "tiles"]

TILE = 1 << 15
"""The elements that are summed at a time, in whole blocks."""

Tile = list["_Stretch"]


def tiles(leaves: Iterable[tuple[BoundFunction, Sequence[NDArray]]]) -> tuple[list[Tile], list[NDArray]]:
    """The work in pieces that don't depend on each other; and for each leaf the array that will hold its block sums.

    A leaf is a function that measures, and p, x and the slots.
    """
    pieces: list[Tile] = []
    sums = []
    room = 0
    for bound, arrays in leaves:
        n = arrays[0].size * _reals(arrays[0])
        sums.append(np.empty(-(-n // BLOCK)))
        for begin in range(0, n, TILE):
            stretch = _Stretch(bound, arrays, begin, min(begin + TILE, n), sums[-1])
            if stretch.blocks > room:
                pieces.append([])
                room = TILE // BLOCK
            pieces[-1].append(stretch)
            room -= stretch.blocks
    return pieces, sums


class _Stretch(NamedTuple):
    """Some elements of one parameter in logical C order, whose block sums are wanted; complex ones count as two."""

    bound: BoundFunction
    arrays: Sequence[NDArray]
    """p, x and the slots."""
    begin: int
    end: int
    sums: NDArray
    """The block sums of all elements of the parameter."""

    @property
    def blocks(self) -> int:
        return -(-(self.end - self.begin) // BLOCK)


def add_up(stretches: Tile) -> None:
    """Sum some stretches, in any thread. They stand one below the other, and each begins a row of 1,024 elements."""
    with quiet(), scratch() as temporary:
        rows = sum(stretch.blocks for stretch in stretches)
        (wide,) = temporary.arrays(np.dtype(np.float64), 1, 0, (rows * BLOCK,), "squares")
        at = 0
        for bound, arrays, begin, end, _ in stretches:
            parts = _reals(arrays[0])
            flat = [_flat(a, begin // parts, end // parts, bound.dtype) for a in arrays]
            stop = at + end - begin
            wide[at:stop] = bound(temporary, *flat)
            at = -(-stop // BLOCK) * BLOCK
            wide[stop:at] = 0
        np.multiply(wide, wide, out=wide)
        sums = wide.reshape(rows, BLOCK)
        while sums.shape[1] > 1:  # `halved`, in place
            half = sums.shape[1] // 2
            sums = np.add(sums[:, :half], sums[:, half:], out=sums[:, :half])
        row = 0
        for stretch in stretches:
            first = stretch.begin // BLOCK
            stretch.sums[first : first + stretch.blocks] = sums[row : row + stretch.blocks, 0]
            row += stretch.blocks


def _flat(a: NDArray, begin: int, stop: int, dtype: np.dtype[Any]) -> NDArray:
    """Some elements in logical C order, cast to `dtype`; of complex ones both parts."""
    some = a.reshape(-1)[begin:stop] if a.flags.c_contiguous else a.flat[begin:stop]
    return (some.view(some.real.dtype) if some.dtype.kind == "c" else some).astype(dtype, copy=False)


def _reals(a: NDArray) -> int:
    """The number of reals in an element."""
    return 2 if a.dtype.kind == "c" else 1
