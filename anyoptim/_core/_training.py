"""What an optimizer remembers between updates, and how it takes the next step."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from anyoptim._arrays import Array, traced
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Tree
from anyoptim._core._accumulate import accumulation, cleared, closed_empty, contributions, joined
from anyoptim._core._coefficients import StepCoefficients, check_skips
from anyoptim._core._pipeline import Params, Pipeline
from anyoptim._core._plan import StepPlan
from anyoptim._core._recorder import Recorder, hook
from anyoptim._engines import CoefficientTable, Dispatch
from anyoptim._engines._chunks import plans
from anyoptim._machine._completed import completed
from anyoptim._machine._ranks import Meeting, meeting
from anyoptim._stage._agreement import check_whole, note_coefficients, note_form
from anyoptim._stage._elements import by_element
from anyoptim._stage._planned_rows import PlannedRows
from anyoptim._stage._stage import watch
from anyoptim._stage._state import FlatState, LiveState, signatures, stepped
from anyoptim._trace._program import Coefficients, Static, all_floats

if TYPE_CHECKING:
    from anyoptim._core._parts import Parts

__all__ = ["Training"]

T = TypeVar("T")


class Training:
    """The state of one optimizer, the plan of its next step, and the CUDA graphs that captured some."""

    def __init__(self) -> None:
        self.state: LiveState | None = None
        """None before the first update."""
        self.plan: StepPlan | None = None
        self.recorder: Recorder | None = None
        self.begun = 0
        """The updates that were begun. One that begins within another, in a schedule, changes what that prepared."""
        self.watching = False
        """Whether hyperparameters are watched that may come to be given element by element, or have been."""
        self.writing = False
        """Whether a step is being written: who asks now is the handler of a signal, or a finalizer, in its middle."""

    def __getstate__(self) -> dict[str, Any]:
        # The parameters are the caller's to copy and to save.
        self.caught_up()
        fresh = {"plan": None, "recorder": None, "begun": 0, "watching": False, "writing": False}
        return {"state": self.state, **fresh}

    def update(self, pipeline: Pipeline, engine: str | None, comm: Any, params: Any, grads: Any) -> Any:
        """Take one step, or gather one gradient. Returns `params`."""
        if self.writing:
            raise _in_the_middle()
        self.begun += 1
        plan, state = self.plan, self.state
        if plan and state and comm is None:
            if plan.replay is not None and plan.rows is not None:
                xs = plan.gradients(params, grads)
                replayed = self._reduced if plan.rows.asks else self._replayed
                if xs is not None and replayed(pipeline, plan, plan.rows, state, xs):
                    return params
            elif pipeline.is_step(state.flat) and self._again(pipeline, plan, state, params, grads):
                return params
        with meeting(comm) as ranks:
            return self._update(pipeline, engine, ranks, Tree("params", params), grads)

    def update_parts(self, optimizer: Any, params: Any, grads: Any, at: Any) -> Any:
        """Take one step, in which some parameters move in part. Returns `params`."""
        if self.writing:
            raise _in_the_middle()
        self.begun += 1
        with meeting(optimizer.comm) as ranks:
            tree = Tree("params", params)
            return self._update(optimizer._pipeline, optimizer.engine, ranks, tree, grads, at, optimizer)

    def _replayed(
        self, pipeline: Pipeline, plan: StepPlan, planned: PlannedRows, state: LiveState, xs: Sequence[Any]
    ) -> bool:
        """Take a step like the last one with these gradients; do nothing where there is any doubt.

        Returns whether the step was taken.
        """
        step, begun = state.flat.step + state.behind + 1, self.begun
        try:
            made = planned(pipeline.stages, step)
        except FloatingPointError:  # NumPy is told to raise it, which is not so where a step is prepared
            return False
        # A schedule may have looked at the state, and counted its steps; or set another one, or begun an update.
        replay, behind = plan.replay, state.behind + 1
        commit = None if made is None or replay is None else replay(xs, made[0])
        same = self.state is state and self.plan is plan and self.begun == begun
        if commit is None or not same or state.flat.step + behind != step:
            return False

        def finish() -> bool:
            self.writing = True
            taken = commit() is not None
            if taken:
                state.behind = behind
            self.writing = False
            return taken

        try:  # as in `_written`, which would be a call more
            return completed(finish)
        finally:
            self.writing = False

    def _reduced(
        self, pipeline: Pipeline, plan: StepPlan, planned: PlannedRows, state: LiveState, xs: Sequence[Any]
    ) -> bool:
        """Take a step like the last one that asks for a reduction first; do nothing where there is any doubt.

        Returns whether the step was taken.
        """
        begun, again = self.begun, plan.gathered(xs)
        if again is None:
            return False
        engine, gathered = again
        step, before = state.flat.step + state.behind + 1, state.flat.scalars

        def value(k: int, rows: CoefficientTable) -> Any:
            return engine.value(k, gathered, rows.before(k))

        with quiet():
            made = planned(pipeline.stages, step, value, before)
            if made is None or self.state is not state or self.plan is not plan or self.begun != begun:
                return False
            rows, scalars = made
            commit = engine.prepare_known(gathered, rows)
            # A schedule may have looked at the state, which has counted its steps then.
            after, behind = state.flat, state.behind + 1
            if commit is None or after.step + behind != step:
                return False
            after = after if scalars is before else after._replace(scalars=tuple(scalars))

            def finish() -> None:
                self.writing = True
                commit()
                vars(state).update(flat=after, behind=behind)  # both, whatever signals come
                self.writing = False

            self._written(finish)
        return True

    def _written(self, action: Callable[[], T]) -> T:
        """What an action gives that writes: it says so in `writing`, and is completed."""
        try:
            return completed(action)
        finally:
            self.writing = False  # also where it has failed for good

    def _again(self, pipeline: Pipeline, plan: StepPlan, state: LiveState, params: Any, grads: Any) -> bool:
        """Take the step without the checks that would only repeat themselves; do nothing where there is any doubt.

        Returns whether the step was taken.
        """
        flat, begun = state.flat, self.begun
        if pipeline.accumulates and any(flat.pending[i] for i in plan.at_rest):
            return False
        again = plan.gather_again(params, grads, flat.slots)
        if again is None:
            return False
        dispatch, moving, gathered = again
        reports: list[Callable[[], None]] = []

        def value(k: int, rows: CoefficientTable) -> Any:
            return dispatch.assignments[0].plan.value(k, gathered[0], rows.before(k))

        with quiet():
            if plan.rows is not None:
                made = plan.rows(pipeline.stages, flat.step + 1, value, flat.scalars)
                if made is None or any(map(_traced, made[0].distinct)):
                    return False
                (rows, scalars), t = made, flat.moved_counts(plan.places)
            else:
                coefficients = pipeline.step_coefficients(dispatch, gathered, flat, moving, plan.groups)
                if any(map(_traced, coefficients.rows.distinct)) or coefficients.taken is not True:
                    return False
                rows, t, scalars = coefficients.rows, coefficients.t, coefficients.scalars
                if plan.tied:
                    t = [t[o] for o in plan.owner]
                reports.append(partial(self._report, pipeline, plan.paths, coefficients))
            if self.state is not state or self.plan is not plan or self.begun != begun:  # as in `_replayed`
                return False
            commit = dispatch.prepare(gathered, rows)

            def finish() -> None:
                self.writing = True
                _once(reports)
                results = commit()
                slots = flat.slots if dispatch.in_place else plan.placed(params, results, flat.slots)
                state.flat = FlatState(flat.step + 1, t, slots, tuple(scalars), flat.nothing_pending())
                self.writing = False

            self._written(finish)
        return True

    def _update(
        self,
        pipeline: Pipeline,
        engine: str | None,
        ranks: Meeting,
        tree: Tree,
        grads: Any,
        at: Any = None,
        optimizer: Any = None,
    ) -> Any:
        """Take one step, or gather one gradient, with every check."""
        if self.recorder is not None and not self.recorder.capturing():
            self.caught_up()
        plan, state = self.recall(pipeline, tree)
        whole = at is None
        xs = plan.groups.without_frozen(checks.gradients(tree, plan.ps, plan.owner, grads)) if whole else []
        if not whole or state.flat.by_row(xs):
            check_whole(ranks)
            if self.recorder is not None:
                raise RuntimeError("CUDA graphs count the steps of whole parameters; wanted update without at")
            from anyoptim._core._parts import KeptParts, Parts  # noqa: PLC0415 - for those who update parts

            params, plan.kept = Params(tree, plan.ps, plan.owner, plan.groups), plan.kept or KeptParts()
            parts = Parts(pipeline, params, state.flat, at, optimizer, plan.kept)
            return self._step(
                pipeline, engine, ranks, tree, plan, state, state.flat, parts.gradients(grads), None, parts
            )
        if ranks.together:
            note_form(ranks, "update", pipeline.stages, plan.form(pipeline.stages, tree), xs, state.flat)
        if not pipeline.is_step(state.flat):
            gather = accumulation(engine, plan.ps, xs, state.flat, plan.owner)
            ranks.agree()

            def add() -> None:
                self.writing = True
                self._remember(tree, plan, state.after(gather()))
                self.writing = False

            self._written(add)
            return tree.container
        return self._step(pipeline, engine, ranks, tree, plan, state, state.flat, xs, grads)

    def flush(self, pipeline: Pipeline, engine: str | None, comm: Any, params: Any) -> Any:
        """Take the step of what is gathered so far, if anything is. Returns `params`."""
        if not pipeline.accumulates:
            return params
        with meeting(comm) as ranks:
            gathered = 0 if self.state is None else int(self.state.flat.scalars[0]["gathered"])
            ranks.note(gathered, lambda: {"the gradients gathered": str(gathered)})
            if self.state is None or not gathered:
                ranks.agree()
                return params
            tree = Tree("params", params)
            plan, state = self.recall(pipeline, tree)
            before, xs = joined(state.flat), [None] * len(plan.ps)
            if ranks.together:
                note_form(ranks, "flush", pipeline.stages, plan.form(pipeline.stages, tree), xs, before)
            return self._step(pipeline, engine, ranks, tree, plan, state, before, xs, None)

    def _step(
        self,
        pipeline: Pipeline,
        engine: str | None,
        ranks: Meeting,
        tree: Tree,
        plan: StepPlan,
        state: LiveState,
        flat: FlatState,
        xs: Sequence[Array | None],
        grads: Any,
        parts: Parts | None = None,
    ) -> Any:
        """Take the step that comes after `flat`, with gradients `xs` of `grads` that passed all checks.

        With `parts` some parameters move in part. Returns the container.
        """
        ps, owner, begun = plan.ps, plan.owner, self.begun
        if pipeline.accumulates:
            xs, _ = contributions(ps, xs, flat, owner, plan.groups.resting)
        if not any(x is not None for x in xs):
            ranks.agree()
            if not pipeline.accumulates:
                return tree.container
            return self._remember(tree, plan, state.after(closed_empty(pipeline.stages[0], flat)))
        whole = partial(plan.step_leaves, engine, flat)
        leaves = whole(xs) if parts is None else parts.step_leaves(engine, xs, whole, plans(engine), write=True)
        dispatch, moving = leaves.dispatch, leaves.moving
        first = self.state is None
        self.recorder, count = hook(self.recorder, pipeline, tree, plan, flat, dispatch, moving, xs, first=first)
        if count is None:  # each replay of a CUDA graph will take it
            self.plan = plan
            return tree.container
        _check_known(tree, dispatch, moving, xs)
        with quiet():
            coefficients, prepare = leaves.coefficients(pipeline, meeting=ranks)
            if self.begun != begun:
                raise RuntimeError(
                    "an update of the same optimizer began within this one, in a schedule or the handler of a signal; "
                    "wanted one after the other"
                )
            for k, row in enumerate(coefficients.rows.distinct):
                if _traced(row):
                    raise _frozen(tree, moving[list(coefficients.rows.row_of_leaf).index(k)])
            reports: list[Callable[[], None]] = [partial(self._report, pipeline, plan.paths, coefficients)]
            note_coefficients(ranks, pipeline.stages, plan.paths, moving, coefficients.rows)
            commit = prepare() if coefficients.taken is True else None
            ranks.agree()
            if commit is None:
                self._skip(pipeline, tree, plan, state, flat._replace(scalars=coefficients.kept), moving, reports)
                check_skips(pipeline.stages, coefficients, tree)
                return tree.container

            def finish() -> None:
                self.writing = True
                _once(reports)
                results, t = leaves.put(commit(), coefficients.t)
                count()
                new = list(tree.leaves)
                for i, p in enumerate(ps):
                    if p is not None and not p.writable and owner[i] in results:
                        new[i] = p.library.rebound(p.given, results[owner[i]].p)
                        tree.replace(i, new[i])
                slots = {i: result.slots for i, result in results.items()}
                after = stepped(flat, t, coefficients.scalars, slots, owner)
                # A plan that was not rebound would keep arrays alive that were replaced.
                self.plan = plan if plan.rebound(new) else None
                if leaves.whole:
                    replayable = self.recorder is None and not ranks.together
                    plan.stepped(grads if replayable else None, coefficients, pipeline, after)
                else:
                    plan.forget()
                now = state.after(after)
                now.moving = plan.places
                self.state, self.writing = now, False

            # Nothing has failed, and nothing will: write.
            self._written(finish)
        return tree.container

    def _skip(
        self,
        pipeline: Pipeline,
        tree: Tree,
        plan: StepPlan,
        state: LiveState,
        skipped: FlatState,
        moving: Sequence[int],
        reports: list[Callable[[], None]],
    ) -> None:
        """Remember the state after a step that was called off."""

        def skip() -> None:
            _once(reports)
            after = cleared(plan.ps, moving, skipped, plan.owner) if pipeline.accumulates else skipped
            self._remember(tree, plan, state.after(after))

        self._written(skip)

    def _remember(self, tree: Tree, plan: StepPlan, state: LiveState) -> Any:
        """Remember a state after an update that changed no parameter. Returns the container."""
        self.state, self.plan = state, plan
        return tree.container

    def recall(self, pipeline: Pipeline, tree: Tree) -> tuple[StepPlan, LiveState]:
        """The parameters, checked, and what the last update left of them.

        Raises like `update`, if they can't be updated, or are not those of the first update.
        """
        plan, state = self.plan, self.state
        if state is not None:
            state.catch_up()
        if plan is not None and state is not None and tree.spec == state.spec and plan.unchanged(tree.leaves):
            return plan, state
        if not self.watching:
            self._watch(pipeline)
        ps = checks.parameters(tree)
        owner = checks.owners(ps)
        checks.rebindable(tree, ps, owner)
        checks.no_overlap(tree, ps, owner)
        groups = pipeline.groups(tree, ps, owner)
        plan = StepPlan(Params(tree, ps, owner, groups))
        now = signatures(ps, owner)
        if state is None:
            return plan, LiveState(tree.spec, now, pipeline.start(ps, groups), groups.names)
        return plan, state.matched(tree, ps, now, groups.names)

    def _watch(self, pipeline: Pipeline) -> None:
        """From now on, plan anew where a hyperparameter is set that is given element by element, or was."""
        this = weakref.ref(self)

        def replan(_: str, value: Any) -> None:
            training = this()
            if training and training.plan and (training.plan.groups.elements or by_element(value)):
                training.plan = None

        for stage in pipeline.stages:
            watch(stage, replan)
        self.watching = True

    def caught_up(self) -> LiveState | None:
        """The state with all steps counted, also those that CUDA graphs replayed; None before the first update."""
        if self.writing:
            raise _in_the_middle()
        if self.state is not None:
            self.state.catch_up()
            if self.recorder is not None:
                self.recorder.catch_up(self.state)
        return self.state

    def scalars(self, pipeline: Pipeline) -> Sequence[Mapping[str, Any]]:
        """The scalars of each stage, before the first update those that they start with."""
        return [dict(stage.scalars) for stage in pipeline.stages] if self.state is None else self.state.flat.scalars

    def _report(self, pipeline: Pipeline, paths: Sequence[str], coefficients: StepCoefficients) -> None:
        """Hand the stages what they asked for a report, and the parameter for which one called the step off."""
        stages: Sequence[Any] = pipeline.stages
        for k, stage in enumerate(stages):
            if stage.metrics:
                leaves, values = coefficients.metrics.get(k, ((), {name: [] for name in stage.metrics}))
                stage.record_metrics([paths[i] for i in leaves], values)
        if coefficients.refusal is not None:
            k, i = coefficients.refusal
            stages[k].offender = paths[i]


def _in_the_middle() -> RuntimeError:
    return RuntimeError(
        "the optimizer is in the middle of a step; wanted a handler of signals that sets a flag, or raises, so that "
        "the loop updates, saves or asks for the state after the step"
    )


def _once(calls: list[Callable[[], None]]) -> None:
    """Make calls that are not made again, whatever they raise: those of users, that is."""
    while calls:
        calls.pop()()


def _traced(row: Coefficients) -> bool:
    """Whether the value of a coefficient is not known yet."""
    others = (c for part in row if not all_floats(part) for c in part.values() if not isinstance(c, float | Static))
    return any(map(traced, others))


def _check_known(tree: Tree, dispatch: Dispatch, moving: Sequence[int], xs: Sequence[Array | None]) -> None:
    """Raise TypeError for arrays whose values are not known yet."""
    for i, leaf in zip(moving, dispatch.leaves, strict=True):
        if leaf.library.compiled_by_xla and any(map(traced, (leaf.p, xs[i], *leaf.slots, *leaf.reads))):
            raise _frozen(tree, i)


def _frozen(tree: Tree, i: int) -> TypeError:
    return TypeError(
        f"the update of {tree.name(i)} is traced, and what the optimizer remembers would be frozen into the "
        "transformed function; wanted the pure form: params, state = optimizer.step(params, grads, state)"
    )
