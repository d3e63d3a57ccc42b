"""Stages that bring the parameters back to where they may be."""

from __future__ import annotations

from typing import Any

from anyoptim._arrays import Array
from anyoptim._stage._elements import check_order
from anyoptim._stage._stage import ParameterStage
from anyoptim._trace._hyperparameters import Nonnegative, Number

__all__ = ["Box", "NonNegative", "Support"]


class Box(ParameterStage):
    """Keep every element between two bounds: after each step it is set to the nearest number that is allowed.

    ::

        p <- min(max(p, lo), hi)

    A NaN stays. A zero at a bound of 0 takes the sign of that bound. Complex elements are kept in both parts. The
    bounds are rounded to the dtype of the arithmetic and, with p, to that of the parameter.

    Args:
        lo: the least, any number but NaN (-inf for none); or an array, or a tree of both.
        hi: the largest, at least lo (inf for none); or an array, or a tree of both.

    Raises ValueError for lo above hi: numbers when it is made and at every step, arrays when it is made; where replays
    of a CUDA graph read them, or where arrays are changed later, hi prevails.

    Source: Goldstein, Convex programming in Hilbert space, 1964: gradient projection.

    >>> optimizer = ao.chain(ao.SGD(lr=1.0), ao.Box(-1.0, 1.0))
    >>> optimizer.update(np.zeros(3), np.array([-5.0, 0.5, 5.0]))
    array([ 1. , -0.5, -1. ])
    >>> optimizer = ao.chain(ao.SGD(lr=1.0), ao.Box(lo=np.array([-1.0, -2.0, -3.0]), hi=0.0))
    >>> optimizer.update(np.zeros(3), np.array([-5.0, 0.5, 5.0]))
    array([ 0. , -0.5, -3. ])
    """

    lo: Number
    hi: Number

    def __post_init__(self) -> None:
        check_order("lo", self.lo, "hi", self.hi)
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


class Support(ParameterStage):
    """Keep the parameters 0 outside of a support: after each step they are multiplied by a mask.

    ::

        p <- p*mask        where the mask is not 0; else 0

    Where the mask is 0, what was infinite or NaN becomes 0, too. Slots, such as a momentum, go on there as elsewhere.
    The parts of a complex element are multiplied alike.

    Args:
        mask: an array of bools or of numbers, finite and at least 0, or a tree of these and of numbers: 1 for all of a
            parameter.

    Source: Fienup, Phase retrieval algorithms: a comparison, 1982: the constraint of an object's support.

    >>> optimizer = ao.chain(ao.SGD(lr=1.0), ao.Support(np.array([True, False, True])))
    >>> optimizer.update(np.zeros(3), np.array([-5.0, 0.5, 5.0]))
    array([ 5.,  0., -5.])
    """

    mask: Nonnegative

    @staticmethod
    def rule(xp: Any, p: Array, c: Any) -> Array:
        return xp.where(c.mask != 0, p * c.mask, 0.0)


def _in_order(lo: Any, hi: Any) -> None:
    if isinstance(lo, int | float) and isinstance(hi, int | float) and lo > hi:
        raise ValueError(f"lo is {lo} and hi is {hi}; wanted lo at most hi")
