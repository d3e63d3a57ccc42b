"""The schedules of keras.optimizers.schedules, called with the count of updates so far, from 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from anyoptim._trace._scalars import at_least, at_most, cos, floating, power, quotient, remainder, where
from anyoptim.compat._counts import CountedSchedule
from anyoptim.schedules._schedule import finite, positive
from anyoptim.schedules._schedule import whole_number as integer
from anyoptim.schedules._shapes import after

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
]


def _passed(n: Any, steps: float, staircase: bool) -> Any:
    """The number of periods of so many steps in n steps, with their fractions or without."""
    return quotient(n, steps) if staircase else floating(n) / float(steps)


class ExponentialDecay(CountedSchedule):
    """`initial_learning_rate * decay_rate**(n / decay_steps)`, in stairs with `staircase`.

    >>> schedule = ao.compat.keras.schedules.ExponentialDecay(1.0, 2, 0.5)
    >>> [round(schedule(n), 3) for n in range(5)]
    [1.0, 0.707, 0.5, 0.354, 0.25]
    """

    arguments: ClassVar[tuple[str, ...]] = ("initial_learning_rate", "decay_steps", "decay_rate", "staircase", "name")

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "ExponentialDecay",
    ) -> None:
        self.initial_learning_rate: float = finite.value("initial_learning_rate", initial_learning_rate)
        self.decay_steps: float = positive.value("decay_steps", decay_steps)
        self.decay_rate: float = positive.value("decay_rate", decay_rate)
        self.staircase: bool = bool(staircase)
        self.name = name

    def _value(self, n: Any) -> Any:
        return self.initial_learning_rate * power(self.decay_rate, _passed(n, self.decay_steps, self.staircase))


class InverseTimeDecay(CountedSchedule):
    """`initial_learning_rate / (1 + decay_rate * n / decay_steps)`, in stairs with `staircase`.

    >>> schedule = ao.compat.keras.schedules.InverseTimeDecay(1.0, 2, 0.5)
    >>> [round(schedule(n), 3) for n in range(5)]
    [1.0, 0.8, 0.667, 0.571, 0.5]
    """

    arguments: ClassVar[tuple[str, ...]] = ("initial_learning_rate", "decay_steps", "decay_rate", "staircase", "name")

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "InverseTimeDecay",
    ) -> None:
        self.initial_learning_rate: float = finite.value("initial_learning_rate", initial_learning_rate)
        self.decay_steps: float = positive.value("decay_steps", decay_steps)
        self.decay_rate: float = finite.value("decay_rate", decay_rate)
        self.staircase: bool = bool(staircase)
        self.name = name

    def _value(self, n: Any) -> Any:
        return self.initial_learning_rate / (1 + self.decay_rate * _passed(n, self.decay_steps, self.staircase))


class PiecewiseConstantDecay(CountedSchedule):
    """One of `values`: the first up to and with the first of `boundaries`, and the last after the last of them.

    >>> schedule = ao.compat.keras.schedules.PiecewiseConstantDecay([2], [1.0, 0.1])
    >>> [round(schedule(n), 3) for n in range(5)]
    [1.0, 1.0, 1.0, 0.1, 0.1]
    """

    arguments: ClassVar[tuple[str, ...]] = ("boundaries", "values", "name")

    def __init__(self, boundaries: Sequence[float], values: Sequence[float], name: str = "PiecewiseConstant") -> None:
        self.boundaries: tuple[float, ...] = tuple(
            finite.value(f"boundaries[{i}]", b) for i, b in enumerate(boundaries)
        )
        self.values: tuple[float, ...] = tuple(finite.value(f"values[{i}]", v) for i, v in enumerate(values))
        self.name = name
        if not self.boundaries or len(self.boundaries) != len(self.values) - 1:
            raise ValueError(
                f"boundaries has {len(self.boundaries)} and values {len(self.values)}; wanted one more of these, of two"
            )
        if sorted(self.boundaries) != [*self.boundaries]:
            raise ValueError(f"boundaries is {self.boundaries}; wanted numbers that increase")

    def _value(self, n: Any) -> Any:
        value: Any = self.values[0]
        for boundary, later in zip(self.boundaries, self.values[1:], strict=True):
            value = where(n > boundary, later, value)
        return value


class PolynomialDecay(CountedSchedule):
    """`(initial_learning_rate - end_learning_rate) * (1 - x)**power + end_learning_rate`, x = n / decay_steps up to 1.

    With `cycle` decay_steps is doubled, trebled and so on whenever n has reached it.

    >>> schedule = ao.compat.keras.schedules.PolynomialDecay(1.0, 4)
    >>> [round(schedule(n), 3) for n in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    arguments: ClassVar[tuple[str, ...]] = (
        "initial_learning_rate",
        "decay_steps",
        "end_learning_rate",
        "power",
        "cycle",
        "name",
    )

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str = "PolynomialDecay",
    ) -> None:
        self.initial_learning_rate: float = finite.value("initial_learning_rate", initial_learning_rate)
        self.decay_steps: int = integer("decay_steps", decay_steps)
        self.end_learning_rate: float = finite.value("end_learning_rate", end_learning_rate)
        self.power: float = finite.value("power", power)
        self.cycle: bool = bool(cycle)
        self.name = name

    def _value(self, n: Any) -> Any:
        if self.cycle:
            cycles = quotient(n, self.decay_steps) + where(remainder(n, self.decay_steps) > 0, 1, 0)
            x = floating(n) / (float(self.decay_steps) * floating(where(n > 0, cycles, 1)))
        else:
            x = floating(at_most(n, self.decay_steps)) / float(self.decay_steps)
        gap = self.initial_learning_rate - self.end_learning_rate
        return gap * (1 - x) ** self.power + self.end_learning_rate


class CosineDecay(CountedSchedule):
    """A schedule along half a cosine from the first rate to `alpha` times it, or from a target that a line leads to.

    With a `warmup_target` the line takes `warmup_steps`, and the cosine `decay_steps` after these.

    >>> schedule = ao.compat.keras.schedules.CosineDecay(1.0, 4)
    >>> [round(schedule(n), 3) for n in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    arguments: ClassVar[tuple[str, ...]] = (
        "initial_learning_rate",
        "decay_steps",
        "alpha",
        "name",
        "warmup_target",
        "warmup_steps",
    )

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        name: str = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        self.initial_learning_rate: float = finite.value("initial_learning_rate", initial_learning_rate)
        self.decay_steps: float = positive.value("decay_steps", decay_steps)
        self.alpha: float = finite.value("alpha", alpha)
        self.name = name
        self.warmup_target: float | None = (
            None if warmup_target is None else finite.value("warmup_target", warmup_target)
        )
        self.warmup_steps: int = integer("warmup_steps", warmup_steps, 0)

    def _value(self, n: Any) -> Any:
        if self.warmup_target is None:
            return self._down(n, self.initial_learning_rate)
        rising = floating(n) / float(max(self.warmup_steps, 1))
        line = (self.warmup_target - self.initial_learning_rate) * rising + self.initial_learning_rate
        return where(at_least(n, self.warmup_steps), self._down(after(n, self.warmup_steps), self.warmup_target), line)

    def _down(self, n: Any, start: float) -> Any:
        x = floating(at_most(n, self.decay_steps)) / float(self.decay_steps)
        return start * ((1 - self.alpha) * (0.5 * (1 + cos(math.pi * x))) + self.alpha)


class CosineDecayRestarts(CountedSchedule):
    """Cycles along half a cosine, each `t_mul` times as long and `m_mul` times as high as the one before.

    >>> schedule = ao.compat.keras.schedules.CosineDecayRestarts(1.0, 2)
    >>> [round(schedule(n), 3) for n in range(5)]
    [1.0, 0.5, 1.0, 0.854, 0.5]
    """

    arguments: ClassVar[tuple[str, ...]] = (
        "initial_learning_rate",
        "first_decay_steps",
        "t_mul",
        "m_mul",
        "alpha",
        "name",
    )

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: int,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
        name: str = "SGDRDecay",
    ) -> None:
        self.initial_learning_rate: float = finite.value("initial_learning_rate", initial_learning_rate)
        self.first_decay_steps: float = positive.value("first_decay_steps", first_decay_steps)
        self.t_mul: float = positive.value("t_mul", t_mul)
        self.m_mul: float = finite.value("m_mul", m_mul)
        self.alpha: float = finite.value("alpha", alpha)
        self.name = name
        if self.t_mul < 1:
            raise ValueError(f"t_mul is {self.t_mul}; wanted at least 1")

    def _value(self, n: Any) -> Any:
        # The cycles are counted, because logarithms would round a restart to the step before or after.
        begin, length, height = 0.0, self.first_decay_steps, 1.0
        x, factor = floating(n) / float(length), height
        if self.t_mul == 1:
            cycle = quotient(n, length)
            return self._at(floating(n) / float(length) - cycle, power(self.m_mul, cycle))
        while begin + length < _LAST_STEP:
            begin, length, height = begin + length, length * self.t_mul, height * self.m_mul
            later = n >= begin
            x, factor = where(later, (floating(n) - begin) / float(length), x), where(later, height, factor)
            if isinstance(later, bool) and not later:
                break
        return self._at(x, factor)

    def _at(self, x: Any, factor: Any) -> Any:
        """The value at the share x of a cycle of this height."""
        cosine = 0.5 * factor * (1 + cos(math.pi * x))
        return self.initial_learning_rate * ((1 - self.alpha) * cosine + self.alpha)


_LAST_STEP = 2.0**31
