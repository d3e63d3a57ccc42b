"""What a step measures before it is taken: norms over all parameters or over each. Equal measures are taken once."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from anyoptim._engines import CoefficientTable, Dispatch
from anyoptim._stage._stage_program import Entry, StageProgram
from anyoptim._trace._graph import Graph, trace_measure
from anyoptim._trace._program import Coefficients, static_options
from anyoptim._trace._scalars import where
from anyoptim._trace._symbols import Symbol

__all__ = ["Measures", "distinct"]

_graph = functools.lru_cache(maxsize=256)(trace_measure)


def distinct(branch: StageProgram, row: Coefficients) -> dict[int, Graph]:
    """The graphs of what a program measures with these coefficients, by their places; of equal ones the first.

    Rules of whole arrays are not traced and have no graphs.
    """
    first: dict[Graph, int] = {}
    for k in () if branch.program.array_rule else branch.program.measures:
        first.setdefault(_graph(branch.program, k, static_options(row[:k])), k)
    return {k: graph for graph, k in first.items()}


class Measures:
    """The measures of one step, each taken when it is first asked for."""

    def __init__(
        self,
        dispatch: Dispatch,
        gathered: Sequence[Any],
        rows: CoefficientTable,
        branches: Sequence[StageProgram],
        parts: Mapping[int, Any],
    ) -> None:
        """Measure the leaves of `dispatch`.

        Args:
            dispatch: the engines and the leaves that move.
            gathered: the gradients, as the engines take them.
            rows: the coefficients, which grow while the step is prepared.
            branches: for each row the stages that it is for.
            parts: for some of the leaves a traced bool that says whether they count.
        """
        self._dispatch, self._gathered, self._rows, self._branches = dispatch, gathered, rows, branches
        self._parts = parts
        self._several = sum(len(branch.program.measures) for branch in dict.fromkeys(branches)) > 1
        self._sums: dict[Any, dict[int, Any]] = {}
        self._norms: dict[Any, Any] = {}
        self._places: dict[Any, dict[int, int]] = {}

    def all(self, entry: Entry) -> Any:
        """The 2-norm over all parameters: a float, a 0-d array, or a symbol; 0.0 where none moves."""
        key = self._key(entry)
        if key not in self._norms:
            if self._dispatch.symbolic_norms and self._places[key] and key not in self._sums:
                self._norms[key] = self._dispatch.norm(self._places[key], self._gathered, self._rows)
            else:
                self._norms[key] = self._dispatch.norm_of(self._squares(key))
        return self._norms[key]

    def known(self, entry: Entry) -> Any:
        """The same norm, but never a symbol: the device is waited for."""
        norm = self.all(entry)
        if isinstance(norm, Symbol):
            key = self._key(entry)
            norm = self._norms[key] = self._dispatch.fetch_norm(self._places[key])
        return norm

    def each(self, entry: Entry) -> list[Any]:
        """The 2-norm of each parameter that moves; 0.0 for those that do not go through the stage."""
        sums = self._squares(self._key(entry))
        return [self._dispatch.norm_of({j: sums[j]}) if j in sums else 0.0 for j in range(len(self._dispatch.leaves))]

    def _squares(self, key: Any) -> dict[int, Any]:
        """The rows of the reduction of each leaf."""
        if key not in self._sums:
            sums = self._dispatch.squares(self._places[key], self._gathered, self._rows)
            sums |= {j: where(part, sums[j], 0) for j, part in self._parts.items() if j in sums}
            self._sums[key] = sums
        return self._sums[key]

    def _key(self, entry: Entry) -> Any:
        """A key that is equal for equal measures of the same parameters: what they compute for an element."""
        both = zip(self._branches, self._rows.distinct, strict=True)
        measured = [(branch, row) for branch, row in both if entry in branch.places]
        key: Any = entry
        if self._several and not any(branch.program.array_rule for branch, _ in measured):
            kinds = dict.fromkeys((branch, static_options(row[: branch.places[entry]])) for branch, row in measured)
            key = tuple((branch, _graph(branch.program, branch.places[entry], static)) for branch, static in kinds)
        self._places.setdefault(key, {id(branch.program): branch.places[entry] for branch, _ in measured})
        return key
