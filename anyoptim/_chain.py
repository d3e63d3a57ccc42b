"""The chain: stages composed as one optimizer."""

from __future__ import annotations

from anyoptim._optimizer import Optimizer
from anyoptim._stage import ParameterStage, SlotStage, Stage

__all__ = ["chain"]


class chain(Optimizer):  # noqa: N801 - it is called like a function
    """Stages, one after the other, as one optimizer that runs them as one pass.

    ::

        optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam(lr=1e-3), ao.EMA(0.999))

    A value flows through: it starts as the gradient; the stages before the method change it; the method makes the step
    of it; the stages after it change the step; then p <- p - x, and stages such as `EMA` see the new p. A stage
    with a measure, such as `ClipGlobalNorm`, adds one pass that only reads.

    The stages are `optimizer.stages`, their hyperparameters live: `optimizer.stages[1].lr = 1e-4`. A chain in a chain
    is its stages.

    Args:
        stages: one method, such as `Adam`, and any other stages; those that see the parameter after its step come
            after the method and after all that change the step.
        engine: the machine that runs the chain; None chooses.

    Raises TypeError for what is no stage, ValueError for no method, or two, another order, an engine of a stage, or a
    method that has taken steps.
    """

    _stages: tuple[Stage, ...]
    _nested = True

    def __init__(self, *stages: Stage, engine: str | None = None) -> None:
        flat: list[Stage] = []
        for stage in stages:
            if not isinstance(stage, Stage):
                raise TypeError(f"chain was given {stage!r}; wanted stages, such as ao.Adam()")
            if isinstance(stage, Optimizer) and stage.engine is not None:
                raise ValueError(f"{stage!r} has engine={stage.engine!r}; wanted it on the chain")
            if isinstance(stage, Optimizer) and stage.state is not None:
                raise ValueError(f"{stage!r} has taken steps, which the chain would forget; wanted a new one")
            flat += stage.stages if isinstance(stage, Optimizer) else [stage]
        methods = [i for i, stage in enumerate(flat) if isinstance(stage, Optimizer)]
        if len(methods) != 1:
            raise ValueError(f"chain was given {len(methods)} methods among {flat}; wanted one, such as ao.Adam()")
        early = [stage for stage in flat[: methods[0]] if isinstance(stage, ParameterStage)]
        if early:
            raise ValueError(f"{early[0]!r} sees the parameter after its step; wanted it after {flat[methods[0]]!r}")
        after = next((i for i, stage in enumerate(flat) if isinstance(stage, ParameterStage)), len(flat))
        late = [stage for stage in flat[after:] if not isinstance(stage, ParameterStage | SlotStage)]
        if late:
            raise ValueError(f"{late[0]!r} changes the step, which was taken; wanted it before {flat[after]!r}")
        for i, stage in enumerate(flat):
            if isinstance(stage, SlotStage) and not any(before.slots for before in flat[:i]):
                raise ValueError(f"{stage!r} has no slots before it; wanted it after the stages that have some")
        self._stages = tuple(flat)
        super().__init__(engine=engine)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in order."""
        return self._stages

    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.stages))})"
