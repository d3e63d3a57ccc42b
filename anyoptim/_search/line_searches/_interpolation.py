"""Where an interpolating polynomial has its minimum: NaN where it has none, and no exception."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["Trial", "cubic", "over", "root", "secant", "theta"]


class Trial(NamedTuple):
    """A step length that was tried, with what was found there.

    >>> ao.solvers.Trial(t=0.5, value=0.25, slope=-1.0).slope
    -1.0
    """

    t: float
    value: float
    slope: float


def over(a: float, b: float) -> float:
    """`a / b`, as IEEE 754 has it for b = 0, too."""
    if b:
        return a / b
    return math.copysign(math.inf, a) * math.copysign(1.0, b) if a else math.nan


def root(x: float) -> float:
    """The square root; NaN for numbers below 0."""
    return math.sqrt(x) if x >= 0 else math.nan


def theta(end: Trial, trial: Trial) -> float:
    """What the cubic through the values and slopes at two points is told by; Moré and Thuente's theta."""
    return over(3.0 * (end.value - trial.value), trial.t - end.t) + end.slope + trial.slope


def cubic(a: Trial, b: Trial, theta: float) -> float:
    """Where the cubic through the values and slopes of both has its minimum."""
    s = max(abs(theta), abs(a.slope), abs(b.slope))  # against overflow
    gamma = s * root(over(theta, s) ** 2 - over(a.slope, s) * over(b.slope, s))
    gamma = -gamma if b.t < a.t else gamma
    r = over((gamma - a.slope) + theta, ((gamma - a.slope) + gamma) + b.slope)
    return a.t + r * (b.t - a.t)


def secant(a: Trial, b: Trial) -> float:
    """Where the straight line through both slopes is 0."""
    return b.t + over(b.slope, b.slope - a.slope) * (a.t - b.t)
