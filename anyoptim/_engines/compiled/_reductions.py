"""Reductions taken together, in one pass over memory: all of them of a chunk, which then is in the cache, and so on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays._quiet import quiet
from anyoptim._engines._base import NDArray
from anyoptim._machine._array_headers import FIRST
from anyoptim._machine._generated import Text
from anyoptim._machine._machine_code import Bound, Native, native
from anyoptim._machine._threads import Call, Pieces
from anyoptim._trace._coefficients import CoefficientTable
from anyoptim._trace._exact_sum import COLUMNS, of_words
from anyoptim._trace._exact_sum_text import TOTALS
from anyoptim._trace._expressions import Scalars
from anyoptim._trace._reductions import Max, Norm, Reduction, Total

__all__ = ["TOTALS_TEXT", "Asked", "NativeLoop", "Reductions", "side_by_side"]


class NativeLoop(NamedTuple):
    """A loop as machine code."""

    native: Native
    scalars: Scalars
    arrays: Sequence[int]
    """Of a reduction the arrays that it reads, by their places among p, x and the slots."""


def side_by_side(chunks: NDArray, addresses: NDArray) -> NDArray:
    """The chunks in an order in which those of one array that several leaves read come together.

    The addresses are those of the arrays that each leaf reads.
    """
    _, number, count = np.unique(addresses, return_inverse=True, return_counts=True)
    number = number.reshape(addresses.shape)
    of_leaf = np.take_along_axis(number, count[number].argmax(axis=1)[:, None], axis=1)[:, 0]
    leaf, begin = chunks[:, 0], chunks[:, 1]
    _, first, same = np.unique(of_leaf, return_index=True, return_inverse=True)
    return chunks[np.lexsort((leaf, begin, first[same][leaf]))]


class Asked(NamedTuple):
    """A reduction of the leaves that have one set of static options."""

    place: int
    """Its place among those that are taken together."""
    loop: NativeLoop
    rows: Sequence[int]
    """The numbers of the rows of coefficients that have these options."""


class Reductions:
    """Some reductions of a plan's leaves, laid ready for one choice of static options."""

    def __init__(
        self,
        reductions: Sequence[Reduction],
        asked: Iterable[Asked],
        table: NDArray,
        chunks: NDArray,
        pieces: Sequence[tuple[int, int]],
        rows: CoefficientTable,
        threads: int,
    ) -> None:
        """Lay reductions ready; where the leaves' arrays are is read from the plan's table each time anew."""
        by_loop = sorted(asked, key=lambda one: id(one.loop.native))
        groups = [[*of] for _, of in groupby(by_loop, key=lambda one: id(one.loop.native))]
        results = np.empty((len(reductions), len(chunks), COLUMNS), np.int64)
        self._tables = [of_words(of.kind, words) for of, words in zip(reductions, results, strict=True)]
        self._reductions, self._results = reductions, results
        self._alike = [_Alike(of, table, chunks, results, rows) for of in groups]
        self._pieces = [([loop.bound(*piece) for loop in self._alike],) for piece in pieces]
        self._rooms: Sequence[tuple[()]] = [()] * threads

    def rows(self, rows: CoefficientTable, dtype: np.dtype[Any]) -> list[NDArray]:
        """For each reduction the rows of all chunks."""
        for alike in self._alike:
            alike.set(rows, dtype)
        if len(self._rooms) > 1:
            Pieces(_calls_of, self._pieces, self._rooms)()
        else:
            for (loops,) in self._pieces:
                for loop in loops:
                    loop.run()
        return self._tables

    def values(self, rows: CoefficientTable, dtype: np.dtype[Any]) -> list[Any]:
        """The value of each reduction over all chunks."""
        self.rows(rows, dtype)
        totals, numbers = self._totals
        totals.run()
        found: list[Any] = numbers.tolist()
        for k, value in enumerate(found):
            if value != value:
                with quiet():
                    found[k] = self._reductions[k].value(np, [self._tables[k]])
        return found

    @cached_property
    def _totals(self) -> tuple[Bound, NDArray]:
        """What makes the values of reductions, once the rows are there, and where it puts them: NaN for others."""
        wanted = [next((n for n, kind in _TOTALS.items() if isinstance(of, kind)), 0) for of in self._reductions]
        numbers = np.empty(len(wanted))
        arrays = self._results, np.array(wanted, np.int64), np.empty(COLUMNS - 1, np.int64), numbers
        return native(TOTALS_TEXT).bind(*arrays), numbers


_TOTALS = {1: Total, 2: Max, 3: Norm}
"""What there is machine code for, by the number that it is told."""

TOTALS_TEXT = Text("totals", TOTALS, "void(int64[:, :, ::1], int64[::1], int64[::1], float64[::1])")
"""The module with the function that makes the values of sums, maxima and norms."""


class _Alike:
    """Reductions by one loop, to which a leaf is another one for each of them, of the arrays that this one reads."""

    def __init__(
        self, asked: Sequence[Asked], table: NDArray, chunks: NDArray, results: NDArray, rows: CoefficientTable
    ) -> None:
        self._asked, self._table = asked, table.reshape(-1)
        number, (leaves, width), distinct = len(asked), table.shape, len(rows.distinct)
        arrays = np.array([one.loop.arrays for one in asked])
        columns = np.zeros((number, FIRST + arrays.shape[1]), np.int64)  # before FIRST nothing is read
        columns[:, FIRST:] = FIRST + arrays
        self._from = (width * np.arange(leaves)[:, None] + columns[:, None]).reshape(number * leaves, -1)
        self._addresses = np.zeros(self._from.shape, np.uint64)
        self._coefficients = np.zeros((number, distinct, len(asked[0].loop.scalars)))
        which = np.array(rows.row_of_leaf, np.int64)
        has = np.zeros((number, distinct), bool)
        for of_one, one in zip(has, asked, strict=True):
            of_one[one.rows] = True
        taken = has[:, which[chunks[:, 0]]]
        self._chunks, of = taken.T.nonzero()  # chunk by chunk
        theirs = chunks[self._chunks]
        theirs[:, 0] += leaves * of
        theirs[:, 3] += len(chunks) * np.array([one.place for one in asked])[of]
        self._arguments = (
            self._addresses,
            theirs,
            (distinct * np.arange(number)[:, None] + which).reshape(-1),
            self._coefficients.reshape(number * distinct, -1),
            results.reshape(-1, COLUMNS),
        )

    def bound(self, first: int, last: int) -> Bound:
        """The loop with its arrays for a run of the plan's chunks."""
        begin, end = self._chunks.searchsorted((first, last)).tolist()
        return self._asked[0].loop.native.bind(*self._arguments, first=begin, last=end)

    def set(self, rows: CoefficientTable, dtype: np.dtype[Any]) -> None:
        """Lay ready where arrays are now, and the coefficients."""
        self._table.take(self._from, out=self._addresses, mode="clip")  # the mode that takes no copy
        if self._asked[0].loop.scalars:
            for table, one in zip(self._coefficients, self._asked, strict=True):
                for i in one.rows:  # the other rows keep the numbering, and are not read
                    table[i] = one.loop.scalars.values(rows.distinct[i], dtype)


def _calls_of(loops: Sequence[Bound]) -> Iterator[Call]:
    return (loop.run for loop in loops)
