"""The parameters to evaluate with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._quiet import quiet
from anyoptim._core._param_groups import ParamGroups
from anyoptim._core._stage import Stage
from anyoptim._core._state import FlatState
from anyoptim._engines import LAZY, CoefficientTable, Dispatch, Leaf
from anyoptim._trace._program import Flow, Part, Program, Rule, Values
from anyoptim._trace._scalars import where

__all__ = ["evaluated"]


def _look(rule: Rule, xp: Any, flow: Flow, own: Sequence[Any], row: Mapping[str, Any]) -> Flow:
    """`p <- rule(xp, p, *slots, hyper)`, and the slots as they are."""
    p, x, before, g = flow
    return rule(xp, p, *own, Values(row)), x, [*before, *own], g


def _pass(rule: Rule, xp: Any, flow: Flow, own: Sequence[Any], row: Mapping[str, Any]) -> Flow:
    p, x, before, g = flow
    return p, x, [*before, *own], g


def evaluated(
    stages: Sequence[Stage], ps: Sequence[Parameter | None], param_groups: ParamGroups, flat: FlatState
) -> list[Any]:
    """For each leaf what its stages give to evaluate with, as arrays of the user's library: new ones."""
    found: list[Any] = []
    step = where(flat.step < 1, 1, flat.step)  # schedules count from 1
    for i, p in enumerate(ps):
        if p is None:
            found.append(None)
            continue
        parts, row = [], []
        overrides = param_groups.overrides[param_groups.of[i]]
        for k in param_groups.branch(i).of:
            stage = stages[k]
            rule = stage.evaluate
            parts.append(Part(_pass if rule is None else _look, rule or _pass, stage.slots))
            row.append({} if rule is None else stage._values(step, overrides[k]))
        array = p.library.copied(p.array)
        slots = flat.slots[i] or ()
        dispatch = Dispatch("portable", [Program(tuple(parts))], [Leaf(p.library, array, slots)], [array], LAZY)
        with quiet():
            (result,) = dispatch.prepare(dispatch.gather([array]), CoefficientTable([tuple(row)], [0]))()
        new = p.library.copied(result.p) if any(result.p is s for s in slots) else result.p
        found.append(p.library.rebound(p.given, p.library.materialize([new])[0]))
    return found
