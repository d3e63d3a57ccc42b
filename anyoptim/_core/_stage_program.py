"""Tracks: the stages that a parameter goes through, as one program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from anyoptim._core._stage import ParameterStage, Stage
from anyoptim._trace._program import MOVE, Coefficients, Program

__all__ = ["Entry", "StageProgram"]


class Entry(NamedTuple):
    """A part of a program: one of the norms of a stage, or under no name the stage itself."""

    stage: int
    norm: str


class StageProgram:
    """Some of the stages of an optimizer, in their order, and among them the step itself.

    It comes before the first stage that sees the parameter after it.
    """

    def __init__(self, stages: Sequence[Stage], of: tuple[int, ...]) -> None:
        self.of = of
        """Which of the stages."""
        parts = {k: stages[k]._parts for k in of}
        at = next((k for k in of if isinstance(stages[k], ParameterStage)), None)
        order: list[Entry | None] = []
        for k in of:
            order += [None] * (k == at) + [Entry(k, name) for name in parts[k]]
        self.order = order if at is not None else [*order, None]
        """The parts of the program; the step is None."""
        self.program = Program(tuple(MOVE if e is None else parts[e.stage][e.norm] for e in self.order))
        self.places: Mapping[Entry, int] = {e: i for i, e in enumerate(self.order) if e is not None}
        """Where in the program an entry stands."""
        self.each = any(stages[k].norms for k in of)
        """Whether parameters have rows of their own, for norms of their own."""
        self.names = [(k, name) for k in of for name in stages[k].slots]
        """The slots in a row: of which stage, its name."""

    def filled(self, row: Coefficients, entry: Entry) -> Coefficients:
        """The row so far up to an entry: what is no stage has no coefficients."""
        return row + ({},) * (self.places[entry] - len(row))
