"""Stages in a row: the program that engines run, and its coefficients at each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from anyoptim._bound import Groups
from anyoptim._checks import Parameter
from anyoptim._engines import Crew, Rows, start
from anyoptim._hyperparameters import Hyper
from anyoptim._program import MOVE, Program, Row
from anyoptim._stage import ParameterStage, Stage
from anyoptim._state import Flat
from anyoptim._trace import LOGICAL, Symbol

__all__ = ["Pipeline"]

_NONE: Mapping[str, Hyper] = {}


class Live(Protocol):
    """What stands for counts and hyperparameters whose values are on a device."""

    def count(self, n: int) -> Any: ...
    def values(self, k: int, values: Mapping[str, Any], own: Mapping[str, Hyper]) -> dict[str, Any]: ...


class Pipeline:
    """The stages of an optimizer."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = stages
        at = next((i for i, stage in enumerate(stages) if isinstance(stage, ParameterStage)), len(stages))
        self.order: list[Stage | None] = [*stages[:at], None, *stages[at:]]
        """The stages and, as None, the step itself: after it come only stages that see the parameter."""
        self.program = Program(tuple(MOVE if stage is None else stage._part for stage in self.order))

    def start(self, ps: Sequence[Parameter | None]) -> Flat:
        """No steps taken, slots as the stages start them."""
        slots = [
            None
            if p is None
            else tuple(
                slot for stage in self.stages for slot in start(stage.init_slots, stage.slots, p.library, p.array)
            )
            for p in ps
        ]
        return Flat(0, [None if p is None else 0 for p in ps], slots)

    def row(self, step: int, t: int) -> Row:
        """The coefficients of all parameters, where no stage measures anything or has overrides for some."""
        return tuple(
            [{} if stage is None else stage._coefficients(t, stage._values(step, _NONE)) for stage in self.order]
        )

    def rows(
        self,
        crew: Crew,
        gathered: Sequence[Any],
        flat: Flat,
        moving: Sequence[int],
        groups: Groups,
        live: Live | None = None,
    ) -> tuple[Rows, list[Any]]:
        """The coefficients of this step, for each parameter that moves, and the step counts after it.

        `live` has other values of counts and hyperparameters: those that stand on a device.
        """
        step = flat.step + 1
        t = list(flat.t)
        for i in moving:
            t[i] = t[i] + 1
        counts = [t[i] for i in moving]
        if counts and type(counts[0]) is int and len(groups.overrides) == 1 and counts.count(counts[0]) == len(counts):
            numbers: dict[Any, int] = {(counts[0], 0): 0}  # nearly always: all in one row
            which = [0] * len(counts)
        else:
            keys = [
                (n if isinstance(n, int) else _Unknown(n), groups.of[i]) for n, i in zip(counts, moving, strict=True)
            ]
            numbers = {key: k for k, key in enumerate(dict.fromkeys(keys))}
            which = [numbers[key] for key in keys]
        rows: list[Row] = [() for _ in numbers]
        values = [self._values_of(step, own, live) for own in groups.overrides]
        for k, stage in enumerate(self.order):
            norm = None if stage is None or stage.measure is None else crew.norm(k, gathered, Rows(rows, which))
            for r, (at, group) in enumerate(numbers):
                if stage is None:
                    rows[r] += ({},)
                    continue
                given = values[group][k]
                if norm is not None:
                    given = {**given, "norm": norm}
                count = at.t if isinstance(at, _Unknown) else at if live is None else live.count(at)
                found = _on_device(stage, count, given) if live is None and isinstance(norm, Symbol) else None
                if found is None and live is None and isinstance(norm, Symbol):
                    norm = crew.known(k)  # its equation needs to see it: the device is waited for
                    given = {**given, "norm": norm}
                rows[r] += (stage._coefficients(count, given) if found is None else found,)
        return Rows(rows, which), t

    def _values_of(
        self, step: Any, overrides: Sequence[Mapping[str, Hyper]], live: Live | None
    ) -> list[dict[str, Any]]:
        """The hyperparameters of each stage at this step, in the order of the parts."""
        found = [stage._values(step, own) for stage, own in zip(self.stages, overrides, strict=True)]
        if live is not None:
            found = [live.values(k, v, own) for k, (v, own) in enumerate(zip(found, overrides, strict=True))]
        each = iter(found)
        return [{} if stage is None else next(each) for stage in self.order]

    def first_row(self) -> Row:
        """The coefficients of a first step, for their names and static options."""
        row: list[dict[str, Any]] = []
        for stage in self.order:
            more = {} if stage is None or stage.measure is None else {"norm": 1.0}
            row.append({} if stage is None else stage._coefficients(1, {**stage._values(1, {}), **more}))
        return tuple(row)


def _on_device(stage: Stage, count: Any, given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The coefficients with a norm that stays on the device, if they are no more than arithmetic; else None."""
    try:
        found = stage._coefficients(count, given)
    except TypeError:
        return None
    # A comparison would be a static option of the kernel.
    truths = [c for c in found.values() if isinstance(c, Symbol) and c.scalar.op in LOGICAL]
    return None if truths else found


class _Unknown:
    """A step count under `jax.jit`, which equals no other."""

    def __init__(self, t: Any) -> None:
        self.t = t
