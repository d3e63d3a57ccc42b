"""The coefficients of one step after another, where the same parameters move in the same groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from anyoptim._stage._stage import Stage
from anyoptim._stage._stage_program import Entry, StageProgram
from anyoptim._trace._coefficients import CoefficientTable
from anyoptim._trace._expressions import range_of
from anyoptim._trace._hyperparameters import Hyper
from anyoptim._trace._reductions import Size

__all__ = ["FLOAT32", "Kind", "PlannedRows"]

FLOAT32 = range_of("float32")
"""The range of learning rates that all dtypes hold."""


class Kind(NamedTuple):
    """What parameters with equal coefficients have in common."""

    branch: StageProgram
    overrides: Sequence[Mapping[str, Hyper]]
    """For each stage what is given instead of its own hyperparameters."""
    lag: int
    """By how many steps the parameters' own counts lag behind the optimizer's."""

    def lent(self, k: int) -> Sequence[tuple[str, int, Mapping[str, Hyper]]]:
        """What stage `k` borrows: the name, the place of the stage that has it, and the overrides of that."""
        return [(name, j, self.overrides[j]) for name, j in self.branch.lenders.get(k, {}).items()]


class _Part(NamedTuple):
    """Where the coefficients of a stage stand, and of what they are."""

    row: list[Mapping[str, Any]]
    place: int
    overrides: Mapping[str, Hyper]
    lag: int
    lent: Sequence[tuple[str, int, Mapping[str, Hyper]]]
    """The hyperparameters of other stages that it borrows: the name, the place of the stage, and its overrides."""


class _OfStage(NamedTuple):
    """What there is to do for one stage."""

    stage: int
    reductions: Sequence[tuple[str, int]]
    """What it asks for: the name, and the place in the program."""
    sizes: Mapping[str, float]
    """And what is known already, by name."""
    keeps: bool
    """Whether the stage keeps numbers from step to step."""
    parts: Sequence[_Part]


class PlannedRows:
    """The rows of coefficients, one for each kind of parameters, with all that stays the same laid ready.

    `CoefficientBuilder` does the same for any step.
    """

    def __init__(
        self, stages: Sequence[Stage], kinds: Sequence[Kind], row_of_leaf: Sequence[int], sizes: Sequence[int]
    ) -> None:
        self._rows: list[list[Mapping[str, Any]]] = [[{}] * len(kind.branch.order) for kind in kinds]
        self._table = CoefficientTable([*self._rows], row_of_leaf)
        self._of_stages: list[_OfStage] = []
        for k, stage in enumerate(stages):
            within = [(r, kind) for r, kind in enumerate(kinds) if k in kind.branch.stages]
            # A reduction of several kinds has the same place in all of their programs.
            size = float(sum(n for n, r in zip(sizes, row_of_leaf, strict=True) if k in kinds[r].branch.stages))
            known = {name: size for name, of in stage.reductions.items() if isinstance(of, Size)}
            names = [name for name in stage.reductions if within and name not in known]
            asked = [(name, within[0][1].branch.places[Entry(k, name)]) for name in names]
            parts = [
                _Part(self._rows[r], kind.branch.places[Entry(k, "")], kind.overrides[k], kind.lag, kind.lent(k))
                for r, kind in within
            ]
            self._of_stages.append(_OfStage(k, asked, known, bool(stage.scalars), parts))
        self.asks = any(of.reductions or of.keeps for of in self._of_stages)
        """Whether any reduction is asked for, or anything kept."""

    def __call__(
        self,
        stages: Sequence[Stage],
        step: int,
        value: Callable[[int, CoefficientTable], float] | None = None,
        scalars: Sequence[Mapping[str, Any]] = (),
    ) -> tuple[CoefficientTable, Sequence[Mapping[str, Any]]] | None:
        """The rows of this step, and the scalars after it; `value` is that of a reduction, by its place in the program.

        The table is the same each time, for the step that is taken at once. None for a learning rate that is larger
        than some dtypes can hold.
        """
        for k, asked, sizes, keeps, parts in self._of_stages:
            stage = stages[k]
            more: dict[str, Any] = {**sizes} if sizes else {}
            for name, place in asked:
                assert value is not None  # noqa: S101 - `asks` says so
                more[name] = value(place, self._table)
            if keeps:
                kept = stage._updated_scalars(step, scalars[k], more)
                scalars = [*scalars[:k], kept, *scalars[k + 1 :]]
                more = {**more, **kept}
            for row, place, given, lag, lent in parts:
                values = stage._values(step, given)
                if lent:
                    values = {**values, **{name: stages[j]._values(step, own)[name] for name, j, own in lent}}
                rate = values.get("lr")
                if type(rate) is float and rate > FLOAT32.largest:
                    return None
                row[place] = stage._coefficients(step - lag, {**values, **more} if more else values)
        return self._table, scalars
