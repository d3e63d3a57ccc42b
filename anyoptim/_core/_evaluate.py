"""The parameters to evaluate with, where stages keep others than those that are trained: averages, say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._quiet import quiet
from anyoptim._engines import LAZY, CoefficientTable, Dispatch, Leaf
from anyoptim._stage._param_groups import ParamGroups
from anyoptim._stage._stage import Stage
from anyoptim._stage._state import FlatState
from anyoptim._trace._elementwise import separated
from anyoptim._trace._program import Flow, Part, Program, Rule, Values
from anyoptim._trace._scalars import where

__all__ = ["evaluated"]


def _evaluate(rule: Rule, xp: Any, flow: Flow, slots: Sequence[Any], row: Mapping[str, Any]) -> Flow:
    """`p <- rule(xp, p, *slots, hyper)`; the slots stay as they are."""
    p, x, before, g = flow
    return rule(xp, p, *slots, Values(row)), x, [*before, *slots], g


def _pass(rule: Rule, xp: Any, flow: Flow, slots: Sequence[Any], row: Mapping[str, Any]) -> Flow:
    """Everything stays as it is."""
    p, x, before, g = flow
    return p, x, [*before, *slots], g


def evaluated(
    stages: Sequence[Stage], ps: Sequence[Parameter | None], groups: ParamGroups, flat: FlatState
) -> list[Any]:
    """For each leaf a new array of the user's library: what its stages make of it to evaluate with."""
    leaves: list[Any] = []
    step = where(flat.step < 1, 1, flat.step)  # schedules count from 1
    for i, p in enumerate(ps):
        if p is None:
            leaves.append(None)
            continue
        parts, row = [], []
        overrides = groups.overrides[groups.group_of[i]]
        for k in groups.branch(i).stages:
            stage = stages[k]
            rule = stage.evaluate
            act, slots, real = _pass if rule is None else _evaluate, stage.slots, stage.real_slots
            parts.append(Part(act, rule or _pass, slots, real_slots=real))
            row.append({} if rule is None else separated(stage, stage._values(step, overrides[k])))
        array = p.library.copied(p.array)
        slots = flat.slots[i] or ()
        reads = groups.reads[i]
        program = Program(tuple(parts), groups.branch(i).program.reads)
        dispatch = Dispatch("portable", [program], [Leaf(p.library, array, slots, reads=reads)], [array], LAZY)
        with quiet():
            (result,) = dispatch.prepare(dispatch.gather([array]), CoefficientTable([tuple(row)], [0]))()
        new = p.library.copied(result.p) if any(result.p is s for s in slots) else result.p
        leaves.append(p.library.rebound(p.given, p.library.materialize([new])[0]))
    return leaves
