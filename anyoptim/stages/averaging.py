"""Averages of the parameters after their steps."""

from __future__ import annotations

from typing import Any

from anyoptim._arrays import Array
from anyoptim._hyperparameters import Hyper, fraction
from anyoptim._stage import ParameterStage

__all__ = ["EMA"]


class EMA(ParameterStage):
    """An exponential moving average of the parameters after their steps, to evaluate with.

    ::

        average <- average + (1-decay)*(p - average)

    It starts as the parameter before its first step. `optimizer.eval_params(params)` gives the averages. They are a
    slot: of `optimizer = chain(Adam(), EMA(0.999))` they are `optimizer.state.slots[1]["average"]`, in a container like
    `params`, and in at least float32.

    Args:
        decay: the share of the last average that is kept, in [0, 1); a number or a schedule.

    Source: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992, with exponential weights.
    """

    hyperparameters = {"decay": fraction}
    slots = ("average",)

    evaluate = staticmethod(lambda xp, p, average, **_: average)

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
