"""Schedules that go one way: in stairs, along powers and half a cosine, or nowhere at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from anyoptim._trace._scalars import at_least, floating, power, quotient, sqrt, where
from anyoptim.schedules._schedule import Schedule, finite, increasing, positive, whole_number
from anyoptim.schedules._shapes import between, cosine, left, progress

__all__ = ["Constant", "Cosine", "Exponential", "InverseSqrt", "Linear", "MultiStep", "Polynomial", "StepDecay"]


class Constant(Schedule):
    """A schedule with the same value at every step, for which a plain number does as well, but for comparisons.

    ::

        value

    Args:
        value: finite.

    >>> schedule = ao.schedules.Constant(0.1)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [0.1, 0.1, 0.1, 0.1, 0.1]
    """

    arguments: ClassVar[tuple[str, ...]] = ("value",)

    def __init__(self, value: float) -> None:
        self.value: float = finite.value("value", value)

    def _value(self, n: Any) -> Any:
        return self.value


class StepDecay(Schedule):
    """A staircase, multiplied by a factor whenever so many steps have passed.

    ::

        start * factor**floor(n / steps),    n = t - 1

    Args:
        start: the value at step 1, finite.
        steps: how long each stair is, in steps, at least 1.
        factor: from one stair to the next, above 0.

    Source: as in He et al., Deep residual learning for image recognition, 2016, section 3.4;
    torch's StepLR, with its gamma as factor.

    >>> schedule = ao.schedules.StepDecay(1.0, steps=2)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 1.0, 0.1, 0.1, 0.01]
    """

    arguments: ClassVar[tuple[str, ...]] = ("start", "steps", "factor")

    def __init__(self, start: float, steps: int, factor: float = 0.1) -> None:
        self.start: float = finite.value("start", start)
        self.steps: int = whole_number("steps", steps)
        self.factor: float = positive.value("factor", factor)

    def _value(self, n: Any) -> Any:
        return self.start * power(self.factor, quotient(n, self.steps))


class MultiStep(Schedule):
    """A staircase whose stairs end where you say.

    ::

        start * factor**(how many boundaries are <= n),    n = t - 1

    Args:
        start: the value at step 1, finite.
        boundaries: after how many steps, at least 1, it is multiplied by the factor; they increase. The value at step
            `boundary + 1` is the first lower one.
        factor: from one stair to the next, above 0.

    Source: as in He et al., Deep residual learning for image recognition, 2016, section 4.2;
    torch's MultiStepLR, with its milestones as boundaries and its gamma as factor.

    >>> schedule = ao.schedules.MultiStep(1.0, [2, 4])
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 1.0, 0.1, 0.1, 0.01]
    """

    arguments: ClassVar[tuple[str, ...]] = ("start", "boundaries", "factor")

    def __init__(self, start: float, boundaries: Iterable[int], factor: float = 0.1) -> None:
        self.start: float = finite.value("start", start)
        self.boundaries: tuple[int, ...] = increasing("boundaries", boundaries, 1)
        self.factor: float = positive.value("factor", factor)

    def _value(self, n: Any) -> Any:
        return self.start * power(self.factor, sum(where(at_least(n, boundary), 1, 0) for boundary in self.boundaries))


class Exponential(Schedule):
    """A schedule that is multiplied by a factor in every so many steps, and evenly in between.

    ::

        start * factor**(n / steps),    n = t - 1

    With a factor above 1 it grows, as in a search for the largest learning rate that still trains.

    Args:
        start: the value at step 1, finite.
        factor: above 0.
        steps: in how many steps the value is multiplied by the factor, at least 1.

    Source: torch's ExponentialLR (with its gamma as factor and 1 step), optax's exponential_decay.

    >>> schedule = ao.schedules.Exponential(1.0, factor=0.5)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 0.5, 0.25, 0.125, 0.062]
    """

    arguments: ClassVar[tuple[str, ...]] = ("start", "factor", "steps")

    def __init__(self, start: float, factor: float, steps: int = 1) -> None:
        self.start: float = finite.value("start", start)
        self.factor: float = positive.value("factor", factor)
        self.steps: int = whole_number("steps", steps)

    def _value(self, n: Any) -> Any:
        return self.start * power(self.factor, floating(n) / float(self.steps))


class _Descent(Schedule):
    """A schedule from one value to another in so many steps.

    Each subclass has a constructor of its own, whose name Python shows where arguments are wrong.
    """

    arguments: ClassVar[tuple[str, ...]] = ("start", "steps", "end")

    def __init__(self, start: float, steps: int, end: float = 0.0) -> None:
        self.start: float = finite.value("start", start)
        self.steps: int = whole_number("steps", steps)
        self.end: float = finite.value("end", end)


class Polynomial(_Descent):
    """A schedule from one value to another, along a power of the steps that are left, and then constant.

    ::

        x = min(n, steps) / steps,    n = t - 1
        end + (start - end)*(1 - x)**power

    Args:
        start: the value at step 1, finite.
        steps: after how many steps `end` is reached, at least 1.
        end: the value from step `steps + 1` on, finite.
        power: above 0; 1 is `Linear`.

    Source: Chen et al., DeepLab, 2017, section 4.1.2 (the "poly" policy, with power 0.9); torch's PolynomialLR.

    >>> schedule = ao.schedules.Polynomial(1.0, steps=4, power=2.0)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 0.562, 0.25, 0.062, 0.0]
    """

    arguments: ClassVar[tuple[str, ...]] = ("start", "steps", "end", "power")

    def __init__(self, start: float, steps: int, end: float = 0.0, power: float = 1.0) -> None:
        super().__init__(start, steps, end)
        self.power: float = positive.value("power", power)

    def _value(self, n: Any) -> Any:
        return between(self.end, self.start, left(n, self.steps) ** self.power)


class Linear(_Descent):
    """A schedule from one value to another along a line, and then constant.

    ::

        x = min(n, steps) / steps,    n = t - 1
        start*(1 - x) + end*x

    Args:
        start: the value at step 1, finite.
        steps: after how many steps `end` is reached, at least 1.
        end: the value from step `steps + 1` on, finite.

    Source: torch's LinearLR, optax's linear_schedule.

    >>> schedule = ao.schedules.Linear(1.0, steps=4)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    def __init__(self, start: float, steps: int, end: float = 0.0) -> None:
        super().__init__(start, steps, end)

    def _value(self, n: Any) -> Any:
        return between(self.start, self.end, progress(n, self.steps))


class Cosine(_Descent):
    """A schedule from one value to another along half a period of a cosine, and then constant.

    ::

        x = min(n, steps) / steps,    n = t - 1
        end + (start - end)*(1 + cos(pi*x))/2

    torch's CosineAnnealingLR goes up again after its T_max; this does not.

    Args:
        start: the value at step 1, finite.
        steps: after how many steps `end` is reached, at least 1.
        end: the value from step `steps + 1` on, finite.

    Source: Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017, equation 5,
    without restarts.

    >>> schedule = ao.schedules.Cosine(1.0, steps=4)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    def __init__(self, start: float, steps: int, end: float = 0.0) -> None:
        super().__init__(start, steps, end)

    def _value(self, n: Any) -> Any:
        return between(self.start, self.end, cosine(progress(n, self.steps)))


class InverseSqrt(Schedule):
    """A schedule that falls with the root of the number of steps, for ever.

    ::

        start / sqrt(1 + n/steps),    n = t - 1

    With 1 step this is start/sqrt(t). After a warm-up of the same number of steps, `warmup(w, InverseSqrt(peak, w))`,
    it is the schedule of the Transformer: peak*min(n/w, sqrt(w/n)).

    Args:
        start: the value at step 1, finite.
        steps: the time scale: after 3 times as many steps half is left; at least 1.

    Source: Zinkevich, Online convex programming and generalized infinitesimal gradient ascent, 2003, theorem 1;
    Vaswani et al., Attention is all you need, 2017, equation 3.

    >>> schedule = ao.schedules.InverseSqrt(1.0)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 0.707, 0.577, 0.5, 0.447]
    """

    arguments: ClassVar[tuple[str, ...]] = ("start", "steps")

    def __init__(self, start: float, steps: int = 1) -> None:
        self.start: float = finite.value("start", start)
        self.steps: int = whole_number("steps", steps)

    def _value(self, n: Any) -> Any:
        return self.start / sqrt(1 + floating(n) / float(self.steps))
