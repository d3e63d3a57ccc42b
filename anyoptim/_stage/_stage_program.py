"""The stages that a parameter goes through, as one program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import NamedTuple

from anyoptim._stage._stage import ParameterStage, Stage
from anyoptim._trace._program import MOVE, Coefficients, Program
from anyoptim._trace._symbols import Symbol, element

__all__ = ["Entry", "StageProgram", "lenders"]


class Entry(NamedTuple):
    """What a part of a program is for: a stage itself, or one of the reductions that a stage asks for."""

    stage: int
    reduction: str
    """The name of the reduction; empty for the stage itself."""


def lenders(all_stages: Sequence[Stage], stages: Sequence[int]) -> Mapping[int, Mapping[str, int]]:
    """For each of these stages that borrows hyperparameters the place of the stage whose each is: the last before it.

    Raises ValueError where there is none.
    """
    found: dict[int, dict[str, int]] = {}
    for i, k in enumerate(stages):
        for name in all_stages[k].borrows:
            having = [j for j in stages[:i] if name in all_stages[j].hyperparameters]
            if not having:
                before = ", ".join(f"{all_stages[j]!r} has none" for j in stages[:i]) or "there is none"
                raise ValueError(
                    f"{all_stages[k]!r} borrows {name} of a stage before it, but {before}; wanted it in a chain behind "
                    f"a method that has {name}"
                )
            found.setdefault(k, {})[name] = having[-1]
    return found


class StageProgram:
    """Some of the stages of an optimizer, in their order, and among them the step itself.

    The step comes before the first stage that sees the parameter after it.
    """

    elements: Mapping[int, Mapping[str, Symbol]] = MappingProxyType({})
    """For each stage the hyperparameters that are given as arrays."""

    def __init__(self, all_stages: Sequence[Stage], stages: tuple[int, ...]) -> None:
        self.stages = stages
        """The places of the stages among all stages of the optimizer."""
        parts = {k: all_stages[k]._parts for k in stages}
        after_step = next((k for k in stages if isinstance(all_stages[k], ParameterStage)), None)
        order: list[Entry | None] = []
        for k in stages:
            order += [None] * (k == after_step) + [Entry(k, name) for name in parts[k]]
        self.order = order if after_step is not None else [*order, None]
        """What each part of the program is for; None stands for the step."""
        self.program = Program(tuple(MOVE if e is None else parts[e.stage][e.reduction] for e in self.order))
        self.places: Mapping[Entry, int] = {e: i for i, e in enumerate(self.order) if e is not None}
        """The place of each entry in the program."""
        self.lenders = lenders(all_stages, stages)
        """Whose hyperparameters some of the stages borrow."""
        self.own_rows = any(of.over == "each" for k in stages for of in all_stages[k].reductions.values())
        """Whether each parameter has coefficients of its own, because they depend on its own reductions."""
        self.names = [(k, name) for k in stages for name in all_stages[k].slots]
        """The slots of a parameter in a row: the place of the stage, and the slot's name."""

    def reading(self, arrays: Sequence[tuple[int, str]]) -> StageProgram:
        """The same, where arrays are given for these hyperparameters: the place of a stage, and the name, of each."""
        other = copy(self)
        other.program = self.program._replace(reads=tuple(name for _, name in arrays))
        other.elements = {
            k: {name: element(j, name) for j, (at, name) in enumerate(arrays) if at == k} for k, _ in arrays
        }
        return other

    def filled(self, row: Coefficients, entry: Entry) -> Coefficients:
        """The coefficients so far, up to an entry: parts that are no stage have none."""
        return *row, *({},) * (self.places[entry] - len(row))
