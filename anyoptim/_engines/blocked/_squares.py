"""The sum of squares of float32 over all leaves: one number, for which nobody needs the rows of each leaf."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from anyoptim._engines._base import NDArray
from anyoptim._engines.blocked import _tiles
from anyoptim._engines.blocked._functions import BoundFunction
from anyoptim._engines.blocked._tiles import elements, flat, reals
from anyoptim._machine import _threads
from anyoptim._machine._scratch import scratch
from anyoptim._trace._exact_sum import FIRST
from anyoptim._trace._exact_sum_numpy import WIDTH, code_of, row_of, squares

__all__ = ["Squares"]

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


class _Part(NamedTuple):
    """Some elements of one leaf, in logical C order, and where their magnitudes are put."""

    leaf: int
    begin: int
    end: int
    place: slice


class Squares:
    """The tiles of a sum of squares, laid ready for as long as the functions of the leaves stay the same."""

    def __init__(self, functions: Sequence[BoundFunction], ps: Sequence[NDArray]) -> None:
        self.functions = functions
        # Of what is squared as it lies, the place; it needs no call.
        self._given = [
            bound.function.arrays[0] if not bound.function.graph.nodes and p.dtype.kind == "f" else None
            for bound, p in zip(functions, ps, strict=True)
        ]
        tiles: list[list[_Part]] = []
        at = _tiles.TILE
        for leaf, p in enumerate(ps):
            size = p.size * reals(p)
            for begin in range(0, size, _tiles.TILE):
                end = min(begin + _tiles.TILE, size)
                if at + end - begin > _tiles.TILE:
                    tiles.append([])
                    at = 0
                tiles[-1].append(_Part(leaf, begin, end, slice(at, at + end - begin)))
                at += end - begin
        self._pieces = list(enumerate(tiles))
        self._code = -FIRST
        """The code at the last step, which nearly always is that of the next one."""

    @staticmethod
    def possible(functions: Sequence[BoundFunction]) -> bool:
        """Whether what is squared is of float32, and one number for each real."""
        return all(bound.dtype == FLOAT32 and not bound.function.joint for bound in functions)

    def rows(self, leaves: Sequence[Sequence[NDArray]], threaded: int) -> NDArray | None:
        """A row for all elements, given p, x and the slots of each leaf; None where some are not finite.

        Threads share out so many tiles, or more.
        """
        for _ in range(2):
            code, found = self._code, [(0.0, 0)] * len(self._pieces)
            if len(self._pieces) < threaded:
                self._add(found, code, leaves, self._pieces)
            else:
                pieces = [([piece],) for piece in self._pieces]
                _threads.spread(partial(self._add, found, code, leaves), pieces)
            largest = [one for one, _ in found]
            if not all(map(math.isfinite, largest)):
                return None
            self._code = code_of(max(largest, default=0.0))
            if self._code == code:
                return row_of(code, sum(whole for _, whole in found))
        return None

    def _add(
        self,
        found: list[tuple[float, int]],
        code: int,
        leaves: Sequence[Sequence[NDArray]],
        pieces: Sequence[tuple[int, Sequence[_Part]]],
    ) -> None:
        """Put what `squares` gives of some tiles into their places, in any thread."""
        with scratch() as temporary:
            for number, parts in pieces:
                size = parts[-1].place.stop
                whole = -(-size // WIDTH) * WIDTH
                x, spare, small = temporary.arrays(FLOAT32, 2, 1, (whole,), "magnitudes")
                h1, h2 = temporary.arrays(FLOAT64, 2, 0, (whole,), "squares")
                for leaf, begin, end, place in parts:
                    given = self._given[leaf]
                    if given is None:
                        bound, arrays = self.functions[leaf], leaves[leaf]
                        (value,) = elements(bound, temporary, [arrays[j] for j in bound.function.arrays], begin, end)
                    else:
                        a = leaves[leaf][given]
                        value = flat(a if a.flags.c_contiguous else a.T, begin, end)  # in any order
                    np.absolute(value, out=x[place])
                x[size:] = 0
                found[number] = squares(code, x, spare, small, h1, h2, size)
