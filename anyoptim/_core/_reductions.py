"""What stages ask of all elements before a step is taken. Equal questions are asked once."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anyoptim._engines import CoefficientTable, Dispatch
from anyoptim._machine._ranks import Meeting
from anyoptim._stage._stage_program import Entry, StageProgram
from anyoptim._trace._exact_sum import Kind
from anyoptim._trace._graph import Graph, graph_of
from anyoptim._trace._over_ranks import rows_of_all, rows_of_each
from anyoptim._trace._program import Coefficients, static_options
from anyoptim._trace._reductions import Norm, Reduction, Size
from anyoptim._trace._scalars import where
from anyoptim._trace._symbols import Symbol

__all__ = ["Reductions", "distinct"]


_graph = functools.partial(graph_of, of_complex=True)  # of real elements two may be alike that differ in these


def distinct(branch: StageProgram, row: Coefficients) -> dict[int, Graph]:
    """The graphs of the reductions of a program with these coefficients, by their places; of equal ones the first.

    Rules of whole arrays are not traced and have no graphs.
    """
    program = branch.program
    first: dict[tuple[Kind, Graph], int] = {}
    for k in () if program.array_rule else program.reductions:
        first.setdefault((program.reduction(k).kind, _graph(program, k, static_options(row[:k]))), k)
    return {k: graph for (_, graph), k in first.items()}


class Reductions:
    """The reductions of one step, each taken when it is first asked for."""

    def __init__(
        self,
        dispatch: Dispatch,
        gathered: Sequence[Any],
        rows: CoefficientTable,
        branches: Sequence[StageProgram],
        parts: Mapping[int, Any],
        meeting: Meeting,
    ) -> None:
        """Reduce the leaves of `dispatch`.

        Args:
            dispatch: the engines and the leaves that move.
            gathered: the gradients, as the engines take them.
            rows: the coefficients, which grow while the step is prepared.
            branches: for each row the stages that it is for.
            parts: for some of the leaves a traced bool that says whether they count.
            meeting: that of the ranks which have parts of these parameters: a reduction is of the elements of all.
        """
        self._meeting = meeting
        self._dispatch, self._gathered, self._rows, self._branches = dispatch, gathered, rows, branches
        self._parts = parts
        self._several = sum(len(branch.program.reductions) for branch in dict.fromkeys(branches)) > 1
        self._reduced: dict[Any, dict[int, Any]] = {}
        self._over_ranks: dict[Any, dict[int, Any]] = {}
        self._values: dict[Any, Any] = {}
        self._places: dict[Any, dict[int, int]] = {}

    def all(self, entry: Entry, reduction: Reduction) -> Any:
        """The value over all parameters: a float, a 0-d array, or a symbol."""
        if isinstance(reduction, Size):
            sizes = enumerate(self._sizes(entry))
            own = sum((where(self._parts[j], n, 0.0) if j in self._parts else n for j, n in sizes), start=0.0)
            return functools.reduce(operator.add, self._meeting.exchange(own))
        key = self._key(entry, reduction.kind)
        of = key, type(reduction)
        if of not in self._values:
            together = self._meeting.together
            symbolic = isinstance(reduction, Norm) and self._dispatch.symbolic_norms and not together
            if symbolic and self._places[key] and key not in self._reduced:
                self._values[of] = self._dispatch.symbol(self._places[key], self._gathered, self._rows)
            elif together:
                tables = [*self._rows_of(key, reduction.kind).values()]
                self._values[of] = reduction.value(np, rows_of_all(self._meeting, reduction.kind, tables))
            else:
                self._values[of] = self._dispatch.value_of(reduction, self._rows_of(key, reduction.kind))
        return self._values[of]

    def known(self, entry: Entry, reduction: Reduction) -> Any:
        """The same value, but never a symbol: the device is waited for."""
        value = self.all(entry, reduction)
        if isinstance(value, Symbol):
            key = self._key(entry, reduction.kind)
            value = self._values[key, type(reduction)] = self._dispatch.fetch_norm(self._places[key])
        return value

    def each(self, entry: Entry, reduction: Reduction) -> list[Any]:
        """The value of each parameter that moves; 0.0 for those that do not go through the stage."""
        if isinstance(reduction, Size):
            return [*map(sum, zip(*self._meeting.exchange(self._sizes(entry)), strict=True))]
        key = self._key(entry, reduction.kind)
        rows = self._rows_of(key, reduction.kind)
        leaves = range(len(self._dispatch.leaves))
        if self._meeting.together:
            if key not in self._over_ranks:
                of = sorted(rows)  # engines, by which they are ordered, may be others elsewhere
                found = rows_of_each(self._meeting, reduction.kind, [rows[j] for j in of])
                self._over_ranks[key] = dict(zip(of, found, strict=True))
            tables = self._over_ranks[key]
            return [reduction.value(np, tables[j]) if j in tables else 0.0 for j in leaves]
        return [self._dispatch.value_of(reduction, {j: rows[j]}) if j in rows else 0.0 for j in leaves]

    def _sizes(self, entry: Entry) -> list[float]:
        """The number of elements of each parameter that goes through the stage; 0.0 for the others."""
        within = [entry.stage in branch.stages for branch in self._branches]
        both = zip(self._dispatch.sizes, self._rows.row_of_leaf, strict=True)
        return [float(size) if within[row] else 0.0 for size, row in both]

    def _rows_of(self, key: Any, kind: Kind) -> dict[int, Any]:
        """The rows of the reduction of each leaf."""
        if key not in self._reduced:
            rows = self._dispatch.reduced(kind, self._places[key], self._gathered, self._rows)
            nothing = -math.inf if kind == "largest" else 0
            rows |= {j: where(part, rows[j], nothing) for j, part in self._parts.items() if j in rows}
            self._reduced[key] = rows
        return self._reduced[key]

    def _key(self, entry: Entry, kind: Kind) -> Any:
        """A key that is equal for equal reductions of the same parameters: what they compute for an element."""
        both = zip(self._branches, self._rows.distinct, strict=True)
        asked = [(branch, row) for branch, row in both if entry in branch.places]
        key: Any = entry
        if self._several and not any(branch.program.array_rule for branch, _ in asked):
            kinds = dict.fromkeys((branch, static_options(row[: branch.places[entry]])) for branch, row in asked)
            key = kind, *((branch, _graph(branch.program, branch.places[entry], static)) for branch, static in kinds)
        self._places.setdefault(key, {id(branch.program): branch.places[entry] for branch, _ in asked})
        return key
