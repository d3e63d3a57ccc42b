"""The pure form of a step: of parameters, gradients and a state, new ones, with nothing written or remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anyoptim._arrays import Array
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._quiet import quiet
from anyoptim._core._accumulate import accumulation, cleared, closed_empty, contributions, joined
from anyoptim._core._coefficients import check_skips
from anyoptim._core._jit_state import carried, carried_first
from anyoptim._core._pipeline import Params, Pipeline
from anyoptim._core._plan import StepLeaves
from anyoptim._engines import LAZY, Dispatch, Leaf, Result
from anyoptim._engines._chunks import plans
from anyoptim._machine._ranks import Meeting, meeting
from anyoptim._stage._agreement import Form, check_whole, note_coefficients, note_form
from anyoptim._stage._state import FlatState, State, chosen, stepped
from anyoptim._trace._scalars import where

if TYPE_CHECKING:
    from anyoptim._core._parts import Parts

__all__ = ["first_state", "flush_step", "step"]


def first_state(pipeline: Pipeline, params: Any) -> State:
    """The state before the first step."""
    checked = pipeline.checked(params)
    flat = carried_first(pipeline.start(checked.ps, checked.groups), checked.ps)
    return pipeline.pack(checked.tree.spec, flat, checked.groups.names)


def step(
    pipeline: Pipeline,
    engine: str | None,
    comm: Any,
    params: Any,
    grads: Any,
    state: State,
    at: Any = None,
    optimizer: Any = None,
) -> tuple[Any, State]:
    """The parameters and the state after an update with these gradients, of the parts that `at` names."""
    with meeting(comm) as ranks:
        found = _updated(pipeline, engine, ranks, params, grads, state, at, optimizer)
        ranks.agree()
        return found


def _updated(
    pipeline: Pipeline,
    engine: str | None,
    ranks: Meeting,
    params: Any,
    grads: Any,
    state: State,
    at: Any,
    optimizer: Any,
) -> tuple[Any, State]:
    checked = pipeline.checked(params)
    tree, ps, owner, groups = checked
    xs = groups.without_frozen(checks.gradients(tree, ps, owner, grads)) if at is None else []
    flat = pipeline.unpack(checked, state)
    if at is not None or flat.by_row(xs):
        from anyoptim._core._parts import Parts  # noqa: PLC0415 - for those who update parts: importing takes time

        check_whole(ranks)
        parts = Parts(pipeline, checked, flat, at, optimizer)
        return _stepped_if(True, pipeline, engine, ranks, checked, flat, parts.gradients(grads), flat, parts)
    if ranks.together:
        note_form(ranks, "step", pipeline.stages, Form(pipeline.stages, checked), xs, flat)
    is_step = pipeline.is_step(flat)
    waiting = flat if is_step is True else accumulation(engine, ps, xs, flat, owner, LAZY, write=False)()
    return _stepped_if(is_step, pipeline, engine, ranks, checked, flat, xs, waiting)


def flush_step(pipeline: Pipeline, engine: str | None, comm: Any, params: Any, state: State) -> tuple[Any, State]:
    """The parameters and the state after a step of what is gathered so far, if anything is."""
    with meeting(comm) as ranks:
        checked = pipeline.checked(params)
        flat, xs = pipeline.unpack(checked, state), [None] * len(checked.ps)
        if ranks.together:
            note_form(ranks, "flush_step", pipeline.stages, Form(pipeline.stages, checked), xs, flat)
        is_step = pipeline.accumulates and flat.scalars[0]["gathered"] > 0
        before = flat if is_step is False else joined(flat)
        found = _stepped_if(is_step, pipeline, engine, ranks, checked, before, xs, flat)
        ranks.agree()
        return found


def _stepped_if(
    is_step: Any,
    pipeline: Pipeline,
    engine: str | None,
    ranks: Meeting,
    params: Params,
    flat: FlatState,
    xs: Sequence[Array | None],
    waiting: FlatState,
    parts: Parts | None = None,
) -> tuple[Any, State]:
    """The result of the step after `flat` where `is_step`; otherwise the parameters as they are and `waiting`."""
    tree, ps, owner, groups = params
    leaves, after = tree.leaves, waiting
    if is_step is not False:
        unsure: dict[int, Any] = {}
        if pipeline.accumulates:
            xs, unsure = contributions(ps, xs, flat, owner, groups.resting)
        if any(x is not None for x in xs):
            leaves, after = _computed(pipeline, engine, ranks, params, flat, xs, unsure, parts)
        elif pipeline.accumulates:
            after = closed_empty(pipeline.stages[0], flat)
        if not isinstance(is_step, bool):
            leaves, after = chosen(is_step, (leaves, after), (tree.leaves, waiting))
    after = carried(after, [p.library.name for p in ps if p], waiting)
    return tree.build(leaves), pipeline.pack(tree.spec, after, groups.names)


def _computed(
    pipeline: Pipeline,
    engine: str | None,
    ranks: Meeting,
    params: Params,
    flat: FlatState,
    xs: Sequence[Array | None],
    unsure: Mapping[int, Any],
    parts: Parts | None,
) -> tuple[list[Any], FlatState]:
    """The leaves and the state after a step, or as they are where a gate calls it off."""
    tree, ps, owner, groups = params
    plans_of = plans(engine, lazily=True)

    def whole(xs: Sequence[Array | None]) -> StepLeaves:
        moving = [i for i, x in enumerate(xs) if x is not None]
        some = [xs[i] for i in moving]
        programs = [groups.branch(i).program for i in moving]
        copies = [_copied(engine, ps[i], flat.slots[i], groups.reads[i]) for i in moving]
        return StepLeaves(Dispatch(engine, programs, copies, some, plans_of), moving, some, flat, groups)

    step_leaves = whole(xs) if parts is None else parts.step_leaves(engine, xs, whole, plans_of, write=False)
    dispatch, moving = step_leaves.dispatch, step_leaves.moving
    if dispatch.capturing():
        raise RuntimeError("step is being captured in a CUDA graph, whose replays would repeat it; wanted update")
    with quiet():
        coefficients, prepare = step_leaves.coefficients(pipeline, with_metrics=False, unsure=unsure, meeting=ranks)
        note_coefficients(ranks, pipeline.stages, [tree.path(i) for i in range(len(ps))], moving, coefficients.rows)
        if parts is not None and not isinstance(coefficients.taken, bool):
            raise TypeError("whether a step of parts is taken depends on what is lazy or traced; wanted update")
        results, t = ({}, flat.t) if coefficients.taken is False else step_leaves.put(prepare()(), coefficients.t)
    check_skips(pipeline.stages, coefficients, tree)
    for i, moves in unsure.items() if results else ():
        leaf = dispatch.leaves[moving.index(i)]
        p, *slots = (where(moves, a, b) for a, b in zip(_arrays(results[i]), _arrays(leaf), strict=True))
        results[i], t[i] = Result(p, tuple(slots)), where(moves, t[i], flat.t[i])
    leaves = [
        leaf if p is None or owner[i] not in results else p.library.rebound(leaf, results[owner[i]].p)
        for i, (leaf, p) in enumerate(zip(tree.leaves, ps, strict=True))
    ]
    skipped = flat._replace(scalars=coefficients.kept)
    if pipeline.accumulates and coefficients.taken is not True:
        skipped = cleared(ps, moving, skipped, owner, write=False)
    if coefficients.taken is False:
        return leaves, skipped
    moved = {i: result.slots for i, result in results.items()}
    after = stepped(flat, t, coefficients.scalars, moved, owner)
    if coefficients.taken is True:
        return leaves, after
    return chosen(coefficients.taken, (leaves, after), (tree.leaves, skipped))


def _copied(engine: str | None, p: Parameter | None, slots: tuple[Array, ...] | None, reads: tuple[Array, ...]) -> Leaf:
    """A copy of a parameter, for engines that write in place; the parameter itself, where `portable` will take it."""
    assert p is not None  # noqa: S101 - it has a gradient
    library, slots = p.library, slots or ()
    if engine == "portable" or (library.numpy_view(p.array) is None and library.cuda(p.array) is None):
        return Leaf(library, p.array, slots, reads=reads)
    copy = library.copied(p.array)
    return Leaf(library, copy, tuple(map(library.copied, slots)), copy, reads=reads)


def _arrays(values: Leaf | Result) -> tuple[Array, ...]:
    return values.p, *values.slots
