"""Stages that bring the parameters back to where they may be."""

from __future__ import annotations

from typing import Any

from anyoptim._arrays import Array
from anyoptim._stage._stage import ParameterStage
from anyoptim._trace._hyperparameters import Number

__all__ = ["Box", "NonNegative"]


class Box(ParameterStage):
    """Keep every element between two bounds: after each step it is set to the nearest number that is allowed.

    ::

        p <- min(max(p, lo), hi)

    A NaN stays. A zero at a bound of 0 takes the sign of that bound. Complex elements are kept in both parts. The
    bounds are rounded to the dtype of the arithmetic and, with p, to that of the parameter.

    Args:
        lo: the least, any number but NaN (-inf for none).
        hi: the largest, at least lo (inf for none).

    Raises ValueError for lo above hi, when it is made and at every step; where replays of a CUDA graph read them, hi
    prevails.

    Source: Goldstein, Convex programming in Hilbert space, 1964: gradient projection.

    >>> optimizer = ao.chain(ao.SGD(lr=1.0), ao.Box(-1.0, 1.0))
    >>> optimizer.update(np.zeros(3), np.array([-5.0, 0.5, 5.0]))
    array([ 1. , -0.5, -1. ])
    """

    lo: Number
    hi: Number

    def __post_init__(self) -> None:
        _in_order(self.lo, self.hi)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        _in_order(hyper.lo, hyper.hi)
        return {"lo": hyper.lo, "hi": hyper.hi}

    @staticmethod
    def rule(xp: Any, p: Array, c: Any) -> Array:
        return xp.minimum(xp.maximum(p, c.lo), c.hi)


class NonNegative(ParameterStage):
    """Set what is negative to 0 after each step.

    ::

        p <- max(p, 0)

    A NaN stays, and -0.0 becomes 0.0. Complex elements are cut in both parts.

    Source: as for `Box`.

    >>> optimizer = ao.chain(ao.SGD(lr=1.0), ao.NonNegative())
    >>> optimizer.update(np.zeros(3), np.array([-5.0, 0.5, 5.0]))
    array([5., 0., 0.])
    """

    @staticmethod
    def rule(xp: Any, p: Array, c: Any) -> Array:
        return xp.maximum(p, 0.0)


def _in_order(lo: Any, hi: Any) -> None:
    if isinstance(lo, int | float) and isinstance(hi, int | float) and lo > hi:
        raise ValueError(f"lo is {lo} and hi is {hi}; wanted lo at most hi")
