"""What composes with a method: clipping, decay, averaging; and the chain that composes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from anyoptim._arrays import Array
from anyoptim._hyperparameters import Domain, Hyper, fraction, nonnegative
from anyoptim._optimizer import Optimizer
from anyoptim._scalars import ratio_up_to_one
from anyoptim._stage import ParameterStage, SlotStage, Stage

__all__ = ["EMA", "ClipGlobalNorm", "ClipValue", "FlushSubnormals", "Scale", "Trace", "WeightDecay", "chain"]

_positive = Domain(lambda x: x > 0, "above 0")
_number = Domain(lambda x: x == x, "a number and not NaN")


class ClipGlobalNorm(Stage):
    """Shorten the gradient of all parameters together, where it is longer than `max_norm`.

    ::

        norm = sqrt(sum of x*x over all elements of all parameters)
        x <- x * min(max_norm / norm, 1)

    The norm is that of the parameters that move at this step, in float64, with its additions in one order, so that its
    bits are the same on all engines (JAX without x64 adds in float32). Complex elements count with both parts. An
    infinite norm makes every finite element 0; a NaN changes nothing but what it is in.

    Args:
        max_norm: the length that is allowed, above 0 (infinite for none); a number or a schedule.

    Source: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, 2013, algorithm 1.
    """

    hyperparameters = {"max_norm": _positive}

    def __init__(self, max_norm: Hyper) -> None:
        super().__init__(max_norm=max_norm)

    @staticmethod
    def measure(xp: Any, p: Array, x: Array) -> Array:
        return x

    @staticmethod
    def coefficients(t: Any, *, max_norm: float, norm: Any) -> dict[str, Any]:
        return {"scale": ratio_up_to_one(max_norm, norm)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, *, scale: float) -> Array:
        return x * scale


class ClipValue(Stage):
    """Cut off what is longer than `limit`, element by element.

    ::

        x <- min(max(x, -limit), limit)

    A NaN stays. Complex elements are cut in both parts.

    Args:
        limit: finite and at least 0; a number or a schedule.
    """

    hyperparameters = {"limit": nonnegative}

    def __init__(self, limit: Hyper) -> None:
        super().__init__(limit=limit)

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, *, limit: float) -> Array:
        return xp.minimum(xp.maximum(x, -limit), limit)


class Scale(Stage):
    """Multiply by a number: a learning rate behind stages that have none.

    ::

        x <- factor*x

    Args:
        factor: any number but NaN; a number or a schedule.
    """

    hyperparameters = {"factor": _number}

    def __init__(self, factor: Hyper) -> None:
        super().__init__(factor=factor)

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, *, factor: float) -> Array:
        return factor * x


class Trace(Stage):
    """Momentum as a stage: a sum of what flows through, in which the past fades.

    ::

        b <- momentum*b + x
        x <- b

    `chain(SGD(lr), Trace(0.9))` is `Momentum(lr, 0.9)`, `chain(Trace(0.9), SGD(lr))` is `HeavyBall(lr, 0.9)`.

    Args:
        momentum: the share of the sum that is kept, in [0, 1); a number or a schedule.

    Source: Polyak, Some methods of speeding up the convergence of iteration methods, 1964, equation 9.
    """

    hyperparameters = {"momentum": fraction}
    slots = ("b",)

    def __init__(self, momentum: Hyper = 0.9) -> None:
        super().__init__(momentum=momentum)

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, b: Array, *, momentum: float) -> tuple[Array, ...]:
        b = momentum * b + x
        return b, b


class WeightDecay(Stage):
    """Add a share of the parameter: before a method L2 regularisation, after it decay that is no part of the gradient.

    ::

        x <- x + decay*p

    `chain(WeightDecay(1e-4), SGD(0.1))` moves by `0.1*(g + 1e-4*p)`, the gradient of the loss plus `1e-4/2 * p*p`.
    `chain(Adam(1e-3), WeightDecay(1e-5))` moves by Adam's step and `1e-5*p`: decoupled decay, as in AdamW, whose
    `lr*weight_decay` is the decay here.

    Args:
        decay: finite and at least 0; a number or a schedule.
        where: which parameters decay, `where(path, p)`, whenever it is asked; None for all. `path` is their
            keys, joined by dots: `lambda path, p: p.ndim > 1` spares biases, as `not path.endswith("bias")` does.

    Source: Loshchilov and Hutter, Decoupled weight decay regularization, 2019, algorithms 1 and 2.
    """

    hyperparameters = {"decay": nonnegative}

    def __init__(self, decay: Hyper, where: Callable[[str, Array], bool] | None = None) -> None:
        super().__init__(decay=decay)
        if where is not None and not callable(where):
            raise TypeError(f"where is {where!r}; wanted a function of the path and the parameter, or None")
        self._where = where

    def overrides(self, path: str, p: Array) -> Mapping[str, Hyper]:
        """No decay for parameters that `where` leaves out."""
        return {} if self._where is None or self._where(path, p) else {"decay": 0.0}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, *, decay: float) -> Array:
        return x + decay * p


class EMA(ParameterStage):
    """An exponential moving average of the parameters after their steps, to evaluate with.

    ::

        average <- average + (1-decay)*(p - average)

    It starts as the parameter before its first step. It is a slot: of `optimizer = chain(Adam(), EMA(0.999))`
    the averages are `optimizer.state.slots[1]["average"]`, in a container like `params`, and in at least float32.

    Args:
        decay: the share of the last average that is kept, in [0, 1); a number or a schedule.

    Source: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992, with exponential weights.
    """

    hyperparameters = {"decay": fraction}
    slots = ("average",)

    def __init__(self, decay: Hyper = 0.999) -> None:
        super().__init__(decay=decay)

    def init_slots(self, xp: Any, p: Array) -> tuple[Array, ...]:
        """The parameter as it is."""
        return (xp.asarray(p, copy=True),)

    @staticmethod
    def coefficients(t: Any, *, decay: float) -> dict[str, Any]:
        return {"new": 1 - decay}

    @staticmethod
    def rule(xp: Any, p: Array, average: Array, *, new: float) -> tuple[Array, ...]:
        return p, average + new * (p - average)


class FlushSubnormals(SlotStage):
    """Set what is subnormal in the slots of the stages before to 0.

    ::

        s <- 0 where |s| < the smallest normal number, else s

    Where gradients are 0 for long (embeddings that are not used, dead units), momenta decay until they are
    subnormal, and stay so: rounding keeps them from 0. Many processors are slower with such numbers, some many
    times. This stage takes them away, at the price of three operations for each slot, with the same bits on all
    engines; docs/benchmarks.md has figures. What is lost is below 1.2e-38 in float32, 2.2e-308 in float64.
    """

    @staticmethod
    def rule(xp: Any, s: Array) -> Array:
        return xp.where(xp.abs(s) < xp.smallest_normal(s), 0.0, s)


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
