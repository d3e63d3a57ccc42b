"""The coefficients of one step after another, where the same parameters move in the same groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from anyoptim._core._coefficients import FLOAT32
from anyoptim._engines import CoefficientTable
from anyoptim._stage._stage import Stage
from anyoptim._stage._stage_program import Entry, StageProgram
from anyoptim._trace._hyperparameters import Hyper
from anyoptim._trace._program import Coefficients

__all__ = ["Kind", "PlannedRows"]


class Kind(NamedTuple):
    """What parameters with equal coefficients have in common."""

    branch: StageProgram
    overrides: Sequence[Mapping[str, Hyper]]
    """For each stage what is given instead of its own hyperparameters."""
    lag: int
    """By how many steps the parameters' own counts lag behind the optimizer's."""


class _OfStage(NamedTuple):
    """What there is to do for one stage."""

    stage: int
    measures: Sequence[tuple[str, int, Sequence[Coefficients]]]
    """What is measured: its name, its place in the program, and what to fill each row with up to there."""
    keeps: bool
    """Whether the stage keeps numbers from step to step."""
    rows: Sequence[tuple[int, Coefficients, Mapping[str, Hyper], int]]
    """The rows that it is in: the row's number, what to fill it with up to the stage, overrides, and the lag."""


class PlannedRows:
    """The rows of coefficients, one for each kind of parameters, with all that stays the same laid ready.

    `CoefficientBuilder` does the same for any step.
    """

    def __init__(self, stages: Sequence[Stage], kinds: Sequence[Kind], row_of_leaf: Sequence[int]) -> None:
        self._row_of_leaf = row_of_leaf
        self.measures = False
        """Whether anything is measured or kept."""
        self._of_stages: list[_OfStage] = []
        filled = [0] * len(kinds)

        def fill(r: int, to: int) -> Coefficients:
            more, filled[r] = to - filled[r], to
            return ({},) * more

        for k, stage in enumerate(stages):
            names = [*stage.totals, *([""] if stage.measure is not None else [])]
            within = [r for r, kind in enumerate(kinds) if k in kind.branch.stages]
            measures = []
            for name in names if within else ():
                place = kinds[within[0]].branch.places[Entry(k, name)]
                measures.append((name or "norm", place, [fill(r, place) for r in range(len(kinds))]))
            rows = []
            for r in within:
                before = fill(r, kinds[r].branch.places[Entry(k, "")])
                rows.append((r, before, kinds[r].overrides[k], kinds[r].lag))
                filled[r] += 1
            self.measures |= bool(measures or stage.scalars)
            self._of_stages.append(_OfStage(k, measures, bool(stage.scalars), rows))
        self._ends = [fill(r, len(kind.branch.order)) for r, kind in enumerate(kinds)]

    def __call__(
        self,
        stages: Sequence[Stage],
        step: int,
        norm: Callable[[int, CoefficientTable], float] | None = None,
        scalars: Sequence[Mapping[str, Any]] = (),
    ) -> tuple[list[Coefficients], Sequence[Mapping[str, Any]]] | None:
        """The rows of this step, and the scalars after it; `norm` is that of what a part of the program measures.

        None for a learning rate that is larger than some dtypes can hold.
        """
        rows: list[Coefficients] = [()] * len(self._ends)
        for k, measures, keeps, of_rows in self._of_stages:
            stage = stages[k]
            more: dict[str, Any] = {}
            for name, place, before in measures:
                rows = [row + empty for row, empty in zip(rows, before, strict=True)]
                assert norm is not None  # noqa: S101 - `measures` says so
                more[name] = norm(place, CoefficientTable(rows, self._row_of_leaf))
            if keeps:
                kept = stage._updated_scalars(step, scalars[k], more)
                scalars = [*scalars[:k], kept, *scalars[k + 1 :]]
                more = {**more, **kept}
            for r, before_it, given, lag in of_rows:
                values = stage._values(step, given)
                rate = values.get("lr")
                if type(rate) is float and rate > FLOAT32.largest:
                    return None
                coefficients = stage._coefficients(step - lag, {**values, **more} if more else values)
                rows[r] += (*before_it, coefficients)
        return [row + end for row, end in zip(rows, self._ends, strict=True)], scalars
