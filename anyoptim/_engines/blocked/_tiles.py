"""The rows of the reduction, by NumPy: arrays stand one behind the other and are summed together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import host_memory
from anyoptim._arrays._quiet import quiet
from anyoptim._engines._base import NDArray
from anyoptim._engines.blocked._functions import BoundFunction
from anyoptim._machine import _threads
from anyoptim._machine._scratch import Scratch, scratch
from anyoptim._trace._exact_sum import COLUMNS, FIRST, Kind
from anyoptim._trace._exact_sum_numpy import WIDTH, code_of, row_of, squares, stretches

__all__ = ["Squares", "add_up", "tiles"]

TILE = 1 << 15
"""The elements that are summed at a time."""


class _Stretch(NamedTuple):
    """Some elements of one parameter in logical C order; complex ones count as two, and so do real slots of those."""

    bound: BoundFunction
    arrays: Sequence[NDArray]
    """What the function is given."""
    begin: int
    end: int


Tile = tuple[Kind, list[_Stretch], list[int]]
"""Stretches that are summed together, and for each the number of its row in a table."""

Leaf = tuple[Sequence[BoundFunction], Sequence[NDArray]]
"""What several reductions are of, and p, x and the slots."""


def tiles(kinds: Sequence[Kind], leaves: Sequence[Leaf]) -> tuple[list[Tile], NDArray, list[int]]:
    """The work in pieces that don't depend on each other; a table for the rows of all stretches.

    What reductions, or leaves with one gradient, have in common is read by one after the other, while it is in the
    cache. In the table the rows of all reductions of a stretch are side by side; the last result says at which stretch
    each leaf begins, and where the last one ends.
    """
    sizes = [arrays[0].size * _reals(arrays[0]) for _, arrays in leaves]
    ends = [0, *itertools.accumulate(-(-n // TILE) for n in sizes)]
    groups: dict[Any, list[int]] = {}
    for i, n in enumerate(sizes):
        groups.setdefault((n, host_memory(leaves[i][1][1]).address) if n > TILE else i, []).append(i)
    pieces: list[Tile] = []
    latest: dict[Kind, Tile] = {}
    room = dict.fromkeys(kinds, 0)
    for first, *others in groups.values():
        asked = []
        for i in (first, *others):
            functions, arrays = leaves[i]
            for k, bound in enumerate(functions):
                given = [arrays[j] for j in bound.function.arrays]
                asked.append((kinds[k], bound, given, len(kinds) * ends[i] + k))
        n = sizes[first]
        for begin in range(0, n, TILE):
            end = min(begin + TILE, n)
            for kind, bound, given, row in asked:
                if end - begin > room[kind]:
                    latest[kind], room[kind] = (kind, [], []), TILE
                    pieces.append(latest[kind])
                room[kind] -= end - begin
                _, parts, rows = latest[kind]
                parts.append(_Stretch(bound, given, begin, end))
                rows.append(row + begin // TILE * len(kinds))
    return pieces, np.empty((len(kinds) * ends[-1], COLUMNS), np.int64), ends


def add_up(table: NDArray, kind: Kind, parts: list[_Stretch], rows: list[int]) -> None:
    """Write the rows of some stretches, in any thread."""
    lengths = np.array([part.end - part.begin for part in parts])
    with quiet(), scratch() as temporary:
        x, spare = temporary.arrays(np.dtype(np.float64), 2, 0, (int(lengths.sum()),), "squares")
        at = 0
        for bound, arrays, begin, end in parts:
            room = x[at : at + end - begin]
            at += end - begin
            found = elements(bound, temporary, arrays, begin, end)
            rooms, values = [room], [found]
            if bound.function.joint:  # which gives one number for an element, or two, in the place of its two reals
                rooms = [room[: len(room) // 2], room[len(room) // 2 :]]
                rooms[1][...] = -math.inf if kind == "largest" else 0.0
                values = found if bound.function.graph.parts > 1 else values
            for place, (value, *factor) in zip(rooms, values, strict=False):
                place[...] = value
                for by in factor:
                    np.multiply(place, by, out=place)
        table[rows] = stretches(kind, x, spare, lengths)


def elements(bound: BoundFunction, temporary: Scratch, arrays: Sequence[NDArray], begin: int, end: int) -> Any:
    """What a function gives for some elements of its arrays, in logical C order."""
    count = _reals(arrays[0])
    some = [_flat(a, begin // count, end // count) for a in arrays]
    views = bound.function.views(*some) if bound.function.joint else [_as_reals(a) for a in some]
    return bound(temporary, *[view.astype(bound.dtype, copy=False) for view in views])


class Squares:
    """A sum of squares of float32 over all leaves, of which nobody needs the rows; laid ready for some functions."""

    def __init__(self, functions: Sequence[BoundFunction], ps: Sequence[NDArray]) -> None:
        self.functions, self._code = functions, -FIRST  # the code of the last step, which nearly always stays
        self._tiles: list[list[tuple[int, int, int]]] = []
        room = 0
        for leaf, p in enumerate(ps):
            size = p.size * _reals(p)
            for begin in range(0, size, TILE):
                end = min(begin + TILE, size)
                if end - begin > room:
                    self._tiles.append([])
                    room = TILE
                self._tiles[-1].append((leaf, begin, end))
                room -= end - begin

    def row(self, leaves: Sequence[Sequence[NDArray]], least: int) -> NDArray | None:
        """That of all elements of p, x and the slots; None where some are not finite. Threads share out many tiles."""
        for _ in range(2):
            code, found = self._code, [(0.0, 0)] * len(self._tiles)
            _threads.spread(partial(self._add, found, code, leaves), [*enumerate(self._tiles)], least)
            if not all(math.isfinite(largest) for largest, _ in found):
                return None
            self._code = code_of(max((largest for largest, _ in found), default=0.0))
            if self._code == code:
                return row_of(code, sum(whole for _, whole in found))
        return None

    def _add(self, found: list[tuple[float, int]], code: int, leaves: Any, number: int, parts: Any) -> None:
        """Put what `squares` gives of a tile into its place, in any thread."""
        size, at = sum(end - begin for _, begin, end in parts), 0
        with scratch() as temporary:
            whole = (-(-size // WIDTH) * WIDTH,)
            x, spare, small = temporary.arrays(np.dtype(np.float32), 2, 1, whole, "magnitudes")
            h1, h2 = temporary.arrays(np.dtype(np.float64), 2, 0, whole, "squares")
            for leaf, begin, end in parts:
                bound = self.functions[leaf]
                given = [leaves[leaf][j] for j in bound.function.arrays]
                if bound.function.graph.nodes or given[0].dtype.kind == "c":
                    (value,) = elements(bound, temporary, given, begin, end)
                else:  # as it lies
                    value = _flat(given[0] if given[0].flags.c_contiguous else given[0].T, begin, end)
                np.absolute(value, out=x[at : at + end - begin])
                at += end - begin
            x[size:] = 0
            found[number] = squares(code, x, spare, small, h1, h2, size)


def _flat(a: NDArray, begin: int, stop: int) -> NDArray:
    """Some elements in logical C order."""
    return a.reshape(-1)[begin:stop] if a.flags.c_contiguous else a.flat[begin:stop]


def _as_reals(a: NDArray) -> NDArray:
    """Real elements, and of complex ones both parts."""
    return a.view(a.real.dtype) if a.dtype.kind == "c" else a


def _reals(a: NDArray) -> int:
    """The number of reals in an element."""
    return 2 if a.dtype.kind == "c" else 1
