"""Updates that are captured in CUDA graphs: step counts and hyperparameters advance on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from anyoptim._arrays import Array
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Tree
from anyoptim._core._pipeline import Pipeline
from anyoptim._engines import Dispatch, Leaf
from anyoptim._machine._completed import exhaust
from anyoptim._stage._elements import by_element
from anyoptim._stage._param_groups import ParamGroups
from anyoptim._stage._stage import Stage, watch
from anyoptim._stage._state import FlatState, LiveState
from anyoptim._trace._hyperparameters import Hyper
from anyoptim._trace._symbols import Symbol

if TYPE_CHECKING:
    from anyoptim._core._plan import StepPlan

__all__ = ["Recorder", "hook"]


class Recorder:
    """What all graphs that captured updates of one optimizer have in common.

    A parameter's count of steps is its count when the first graph was captured, and the steps that the device has
    counted since then. So the same parameters move at each of these steps.
    """

    def __init__(
        self, pipeline: Pipeline, flat: FlatState, dispatch: Dispatch, moving: list[int], owner: list[int]
    ) -> None:
        self._pipeline, self._flat, self._moving = pipeline, flat, moving
        self._counting = [i for i, o in enumerate(owner) if o in moving]
        self.counted = 0
        """The steps that no graph took, and those of graphs that the state has counted."""
        self._stages = stages = pipeline.stages
        self._names = [(k, name) for k, stage in enumerate(stages) for name in stage.hyperparameters]
        values = [_constant(stages[k], name, getattr(stages[k], name)) for k, name in self._names]
        ((self._library, self._number),) = dispatch.devices
        from anyoptim._engines.cuda._recorded import Cells  # noqa: PLC0415 - for those who have a device

        self._cells = Cells(self._library, self._number, len(dispatch.programs[0].parts), values)

    def watch(self) -> None:
        """From now on, have replays read what hyperparameters are set to, and refuse to set those of groups."""
        for k, stage in enumerate(self._stages):
            watch(stage, partial(self._set, k))
        for group in (self._pipeline.group_spec.groups or {}).values():
            if group is not None:
                watch(group, _refuse)

    def capturing(self) -> bool:
        """Whether a graph is being captured now."""
        return self._library.capturing(self._number)

    def record(self, groups: ParamGroups, dispatch: Dispatch, leaves: Sequence[Leaf], xs: Sequence[Array]) -> None:
        """Have the graph that is being captured take the step, each time that it is replayed."""
        for overrides in groups.overrides:
            for stage, own in zip(self._stages, overrides, strict=True):
                for name, value in own.items():
                    _constant(stage, name, value)
        recorded = Dispatch(dispatch.engine, dispatch.programs, leaves, xs, self._cells.plans)
        gathered = recorded.gather(xs)
        self._cells.tick(1)
        try:
            coefficients = self._pipeline.step_coefficients(recorded, gathered, self._flat, self._moving, groups, self)
            commit = recorded.prepare(gathered, coefficients.rows)
        except BaseException as error:
            self._cells.tick(-1)  # should the graph be finished nevertheless
            if isinstance(error, TypeError):
                raise TypeError(
                    f"an update that branches on t or on hyperparameters can't be captured in a CUDA graph: {error}"
                ) from error
            raise
        commit()

    def check_same(self, moving: Sequence[int], tree: Tree) -> None:
        """Raise ValueError unless these are the parameters that move in all graphs."""
        other = sorted({*moving} ^ {*self._moving})
        if other:
            raise ValueError(
                f"{tree.name(other[0])} {'has a' if other[0] in moving else 'has no'} gradient, otherwise than when an "
                "update was captured in a CUDA graph, whose replays count the steps of all; wanted the same parameters"
            )

    def count_step(self, number: int) -> None:
        """Count a step that no graph took, of this number among them, if it has not been counted."""
        if self.counted < number:
            self._cells.tick(1, partial(setattr, self, "counted", number))

    def catch_up(self, live: LiveState) -> None:
        """Count the steps that were replayed. Waits for the device."""
        if self.capturing():
            raise RuntimeError(
                "the optimizer's state is asked for while a CUDA graph is being captured; wanted before or after"
            )
        new = self._cells.counted() - self.counted
        flat = live.catch_up()
        after = flat._replace(step=flat.step + new, t=flat.moved_counts(self._counting, new))
        # Both, whatever signals come.
        exhaust(map(setattr, (self, live), ("counted", "flat"), (self.counted + new, after)))

    def count(self, n: int) -> Any:
        """The stand-in for a parameter's count of steps, `n` in the step after which recording began."""
        return self._cells.count + float(n - 1)

    def values(self, k: int, values: Mapping[str, Any], own: Mapping[str, Hyper]) -> dict[str, Any]:
        """The stand-ins for the hyperparameters of a stage; those that are a group's own stay as they are."""
        return {
            name: value if name in own else self._cells.value(self._names.index((k, name)))
            for name, value in values.items()
        }

    def _set(self, k: int, name: str, value: Any) -> None:
        stage = self._stages[k]
        if self.capturing():
            raise RuntimeError(
                f"{name} of {stage!r} is being set while a CUDA graph is captured; wanted before or after: replays "
                "read it as it was last set"
            )
        self._cells.set(self._names.index((k, name)), _constant(stage, name, value))


def _refuse(name: str, _: Any) -> None:
    raise RuntimeError(
        f"{name} of a group is part of a CUDA graph, whose replays would go on with the old value; wanted it set before"
    )


def _constant(stage: Stage, name: str, value: Any) -> float:
    """The hyperparameter as a number. Raises ValueError for a schedule, or what is given element by element."""
    if isinstance(value, Symbol) or by_element(value):
        raise ValueError(
            f"{name} of {stage!r} is given element by element, which can't be captured in a CUDA graph; wanted a number"
        )
    if callable(value):
        raise ValueError(
            f"{name} of {stage!r} is a schedule, which replays of a CUDA graph can't call; wanted a number, "
            "to be set between replays"
        )
    return float(value)


def hook(
    recorder: Recorder | None,
    pipeline: Pipeline,
    tree: Tree,
    plan: StepPlan,
    flat: FlatState,
    dispatch: Dispatch,
    moving: list[int],
    xs: Sequence[Array | None],
    *,
    first: bool,
) -> tuple[Recorder | None, Callable[[], object] | None]:
    """What CUDA graphs have to do with a step: the recorder, if there is one, and what counts the step for it.

    That is None where the step is being captured: then a graph takes it at each replay, and the update does nothing.
    Raises RuntimeError, ValueError or TypeError for a step that graphs, or this one beside them, would get wrong.
    """
    if not dispatch.capturing():
        if recorder is None:
            return None, int  # a call that does nothing
        _check_recordable(tree, dispatch, moving, first=False)
        recorder.check_same(moving, tree)
        return recorder, partial(recorder.count_step, recorder.counted + 1)
    if plan.groups.elements:  # which may be several methods
        for stage in pipeline.stages:
            for name in stage.hyperparameters:
                _constant(stage, name, getattr(stage, name))
    _check_recordable(tree, dispatch, moving, first=first)
    with quiet():
        new = recorder or Recorder(pipeline, flat, dispatch, moving, plan.owner)
        new.check_same(moving, tree)
        leaves = [plan.leaf(i, flat.slots[i]) for i in moving]
        new.record(plan.groups, dispatch, leaves, [xs[i] for i in moving])
        if recorder is None:
            plan.forget()
            new.watch()
    return new, None


def _check_recordable(tree: Tree, dispatch: Dispatch, moving: Sequence[int], *, first: bool) -> None:
    """Raise RuntimeError for a step whose replays would be wrong."""
    if first:
        raise RuntimeError(
            "the first update of these parameters is being captured in a CUDA graph, whose replays would start the "
            "optimizer's state anew; wanted an update before it"
        )
    for i, choice in zip(moving, dispatch.choices, strict=True):
        if choice.engine != "cuda":
            raise RuntimeError(
                f"{tree.name(i)} can't be updated in a CUDA graph, nor beside one that has the optimizer's state: "
                f"{choice.engine} takes it, because {choice.reason}; wanted what the cuda engine takes"
            )
    if len(set(map(id, dispatch.programs))) > 1:
        raise RuntimeError("parameters with several methods can't be updated in one CUDA graph")
    if len(dispatch.devices) > 1:
        raise RuntimeError("parameters on several devices can't be updated in one CUDA graph")
