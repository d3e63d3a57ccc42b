"""Updates that are captured in CUDA graphs: step counts and hyperparameters advance on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from anyoptim._arrays import Array
from anyoptim._bound import Bound
from anyoptim._engines import Cells, Crew, recording
from anyoptim._hyperparameters import Hyper
from anyoptim._pipeline import Pipeline
from anyoptim._stage import Stage, watch
from anyoptim._state import Flat
from anyoptim._tree import Tree

__all__ = ["Recorder", "recordable"]


class Recorder:
    """What all graphs that captured updates of one optimizer have in common.

    A parameter's count of steps is what it was when the first graph was captured, and the device's count of steps since
    then more: so all the same parameters move at each of them.
    """

    def __init__(self, pipeline: Pipeline, stages: Sequence[Stage], flat: Flat, crew: Crew, moving: list[int]) -> None:
        self._pipeline, self._flat, self._moving = pipeline, flat, moving
        self._counted = 0
        self._names = [(k, name) for k, stage in enumerate(stages) for name in stage.hyperparameters]
        values = [_known(stages[k], name, getattr(stages[k], name)) for k, name in self._names]
        ((library, number),) = crew.devices
        self._cells = Cells(library, number, len(pipeline.program.parts), values)
        for k, stage in enumerate(stages):
            watch(stage, partial(self._set, stage, k))

    def record(self, bound: Bound, flat: Flat, crew: Crew, xs: Sequence[Array | None]) -> None:
        """Have the graph that is being captured take the step, each time that it is replayed."""
        some = [xs[i] for i in self._moving]
        leaves = [bound.leaf(i, flat.slots[i]) for i in self._moving]
        recorded = Crew(crew.engine, self._pipeline.program, leaves, some, recording(self._cells))
        gathered = recorded.gather(some)
        self._cells.tick()
        try:
            rows, _ = self._pipeline.rows(recorded, gathered, self._flat, self._moving, bound.groups, self)
            recorded.prepare(gathered, rows)()
        except TypeError as error:
            raise TypeError(
                f"an update that branches on t or on hyperparameters can't be captured in a CUDA graph: {error}"
            ) from error

    def same(self, moving: Sequence[int], tree: Tree) -> None:
        """Raise ValueError, unless these are the parameters that move in all graphs."""
        other = sorted({*moving} ^ {*self._moving})
        if other:
            raise ValueError(
                f"{tree.name(other[0])} {'has a' if other[0] in moving else 'has no'} gradient, otherwise than when an "
                "update was captured in a CUDA graph, whose replays count the steps of all; wanted the same parameters"
            )

    def step(self) -> None:
        """Count a step that no graph took."""
        self._cells.tick()
        self._counted += 1

    def catch_up(self, flat: Flat) -> Flat:
        """With the steps counted that were replayed. Waits for the device."""
        new = self._cells.counted() - self._counted
        self._counted += new
        t = list(flat.t)
        for i in self._moving:
            t[i] += new
        return Flat(flat.step + new, t, flat.slots)

    def count(self, n: int) -> Any:
        """What stands for a parameter's count of steps, `n` in the step after which recording began."""
        return self._cells.count + float(n - 1)

    def values(self, k: int, values: Mapping[str, Any], own: Mapping[str, Hyper]) -> dict[str, Any]:
        """What stands for the hyperparameters of a stage; those that are a group's own stay as they are."""
        return {
            name: value if name in own else self._cells.value(self._names.index((k, name)))
            for name, value in values.items()
        }

    def _set(self, stage: Stage, k: int, name: str, value: Any) -> None:
        self._cells.set(self._names.index((k, name)), _known(stage, name, value))


def _known(stage: Stage, name: str, value: Any) -> float:
    if callable(value):
        raise ValueError(
            f"{name} of {stage!r} is a schedule, which replays of a CUDA graph can't call; wanted a number, "
            "to be set between replays"
        )
    return float(value)


def recordable(tree: Tree, crew: Crew, moving: Sequence[int], first: bool) -> None:
    """Raise RuntimeError for a step whose replays would be wrong."""
    if first:
        raise RuntimeError(
            "the first update of these parameters is being captured in a CUDA graph, whose replays would start the "
            "optimizer's state anew; wanted an update before it"
        )
    for i, choice in zip(moving, crew.choices, strict=True):
        if choice.engine != "cuda":
            raise RuntimeError(
                f"{tree.name(i)} can't be updated in a CUDA graph: {choice.engine} takes it, because {choice.reason}; "
                "wanted what the cuda engine takes"
            )
    if len(crew.devices) > 1:
        raise RuntimeError("parameters on several devices can't be updated in one CUDA graph")
