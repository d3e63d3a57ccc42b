"""Optax's schedules, with its names and parameters: they are called with the count of steps so far, from 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from operator import mul
from typing import Any

from anyoptim._trace._scalars import at_least, floating, power, quotient, where
from anyoptim.compat._counts import CountedSchedule
from anyoptim.schedules import Constant
from anyoptim.schedules._schedule import choice, finite, share, whole_number
from anyoptim.schedules._shapes import after, cosine, left, through

__all__ = [
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "exponential_decay",
    "join_schedules",
    "linear_onecycle_schedule",
    "linear_schedule",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "sgdr_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
]


class _Constant(CountedSchedule, Constant):
    pass


class _Polynomial(CountedSchedule):
    arguments = ("init_value", "end_value", "power", "transition_steps", "transition_begin")

    def __init__(
        self, init_value: float, end_value: float, power: float, transition_steps: int, transition_begin: int
    ) -> None:
        self.init_value = finite.value("init_value", init_value)
        self.end_value = finite.value("end_value", end_value)
        self.power = finite.value("power", power)
        self.transition_steps = whole_number("transition_steps", transition_steps)
        self.transition_begin = whole_number("transition_begin", transition_begin, 0)

    def _value(self, n: Any) -> Any:
        x = left(after(n, self.transition_begin), self.transition_steps)
        return (self.init_value - self.end_value) * x**self.power + self.end_value


class _Exponential(CountedSchedule):
    arguments = ("init_value", "transition_steps", "decay_rate", "transition_begin", "staircase", "end_value")

    def __init__(
        self,
        init_value: float,
        transition_steps: int,
        decay_rate: float,
        transition_begin: int,
        staircase: bool,
        end_value: float | None,
    ) -> None:
        self.init_value = finite.value("init_value", init_value)
        self.transition_steps = whole_number("transition_steps", transition_steps)
        self.decay_rate = finite.value("decay_rate", decay_rate)
        self.transition_begin = whole_number("transition_begin", transition_begin, 0)
        self.staircase = bool(staircase)
        self.end_value = None if end_value is None else finite.value("end_value", end_value)

    def _value(self, n: Any) -> Any:
        n = after(n, self.transition_begin)
        stairs = quotient(n, self.transition_steps) if self.staircase else floating(n) / float(self.transition_steps)
        value = self.init_value * power(self.decay_rate, stairs)
        if self.end_value is None:
            return value
        beyond = value < self.end_value if self.decay_rate < 1 else value > self.end_value
        return where(beyond, self.end_value, value)


class _Cosine(CountedSchedule):
    arguments = ("init_value", "decay_steps", "alpha", "exponent")

    def __init__(self, init_value: float, decay_steps: int, alpha: float, exponent: float) -> None:
        self.init_value = finite.value("init_value", init_value)
        self.decay_steps = whole_number("decay_steps", decay_steps)
        self.alpha = finite.value("alpha", alpha)
        self.exponent = finite.value("exponent", exponent)

    def _value(self, n: Any) -> Any:
        return self.init_value * ((1 - self.alpha) * cosine(left(n, self.decay_steps)) ** self.exponent + self.alpha)


class _Stairs(CountedSchedule):
    arguments = ("init_value", "boundaries_and_scales")

    def __init__(self, init_value: float, boundaries_and_scales: Mapping[int, float] | None) -> None:
        self.init_value = finite.value("init_value", init_value)
        self.boundaries_and_scales = _scales(boundaries_and_scales)

    def _value(self, n: Any) -> Any:
        value: Any = self.init_value
        for boundary, scale in self.boundaries_and_scales:
            value = value * where(at_least(n, boundary), scale, 1.0)
        return value


class _Interpolated(CountedSchedule):
    arguments = ("interpolate_type", "init_value", "boundaries_and_scales")

    def __init__(
        self, interpolate_type: str, init_value: float, boundaries_and_scales: Mapping[int, float] | None
    ) -> None:
        self.interpolate_type = choice("interpolate_type", interpolate_type, ("linear", "cosine"))
        self.init_value = finite.value("init_value", init_value)
        self.boundaries_and_scales = _scales(boundaries_and_scales)

    def _value(self, n: Any) -> Any:
        values = accumulate([self.init_value, *(scale for _, scale in self.boundaries_and_scales)], mul)
        boundaries = [0, *(boundary for boundary, _ in self.boundaries_and_scales)]
        return through(n, list(zip(boundaries, values, strict=True)), self.interpolate_type)


def _scales(boundaries_and_scales: Mapping[int, float] | None) -> tuple[tuple[int, float], ...]:
    """The boundaries in their order with their scales. Raises TypeError or ValueError."""
    pairs = []
    for boundary, scale in sorted((boundaries_and_scales or {}).items()):
        number = finite.value(f"boundaries_and_scales[{boundary!r}]", scale)
        if number < 0:
            raise ValueError(f"boundaries_and_scales[{boundary!r}] is {number}; wanted at least 0")
        pairs.append((whole_number("a key of boundaries_and_scales", boundary, 0), number))
    return tuple(pairs)


class _Joined(CountedSchedule):
    arguments = ("schedules", "boundaries")

    def __init__(self, schedules: Sequence[Any], boundaries: Sequence[int]) -> None:
        self.schedules = tuple(schedules)
        self.boundaries = tuple(whole_number(f"boundaries[{i}]", b, 0) for i, b in enumerate(boundaries))
        for i, schedule in enumerate(self.schedules):
            if not callable(schedule):
                raise TypeError(f"schedules[{i}] is {schedule!r}; wanted a function of the count of steps")
        if not self.schedules:
            raise ValueError("schedules is empty; wanted at least one")

    def _value(self, n: Any) -> Any:
        value = self.schedules[0](n)
        for boundary, schedule in zip(self.boundaries, self.schedules[1:], strict=False):
            value = where(at_least(n, boundary), schedule(after(n, boundary)), value)
        return value


def constant_schedule(value: float) -> CountedSchedule:
    """Always `value`.

    >>> schedule = ao.compat.optax.constant_schedule(1.0)
    >>> [round(schedule(n), 3) for n in range(5)]
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    return _Constant(value)


def polynomial_schedule(
    init_value: float, end_value: float, power: float, transition_steps: int, transition_begin: int = 0
) -> CountedSchedule:
    """`(init_value - end_value) * (1 - x)**power + end_value`, x going from 0 to 1 in `transition_steps`.

    >>> schedule = ao.compat.optax.polynomial_schedule(1.0, 0.0, 2.0, 4)
    >>> [round(schedule(n), 3) for n in range(5)]
    [1.0, 0.562, 0.25, 0.062, 0.0]
    """
    if transition_steps <= 0:
        return _Constant(init_value)
    return _Polynomial(init_value, end_value, power, transition_steps, max(transition_begin, 0))


def linear_schedule(
    init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0
) -> CountedSchedule:
    """A line from `init_value` to `end_value`: `polynomial_schedule` with a power of 1.

    >>> schedule = ao.compat.optax.linear_schedule(1.0, 0.0, 4)
    >>> [round(schedule(n), 3) for n in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)


def piecewise_constant_schedule(
    init_value: float, boundaries_and_scales: Mapping[int, float] | None = None
) -> CountedSchedule:
    """`init_value` times the scale of each boundary that has been reached.

    >>> schedule = ao.compat.optax.piecewise_constant_schedule(1.0, {2: 0.1})
    >>> [round(schedule(n), 3) for n in range(5)]
    [1.0, 1.0, 0.1, 0.1, 0.1]
    """
    return _Stairs(init_value, boundaries_and_scales)


def exponential_decay(
    init_value: float,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> CountedSchedule:
    """`init_value * decay_rate**(n / transition_steps)`, down to `end_value`, or up to it if it grows.

    >>> schedule = ao.compat.optax.exponential_decay(1.0, 2, 0.5)
    >>> [round(schedule(n), 3) for n in range(5)]
    [1.0, 0.707, 0.5, 0.354, 0.25]
    """
    if transition_steps <= 0 or decay_rate == 0:
        return _Constant(init_value)
    factor = decay_rate if decay_rate > 1 else share.value("decay_rate", decay_rate)
    return _Exponential(init_value, transition_steps, factor, max(transition_begin, 0), staircase, end_value)


def cosine_decay_schedule(
    init_value: float, decay_steps: int, alpha: float = 0.0, exponent: float = 1.0
) -> CountedSchedule:
    """`init_value * ((1 - alpha) * ((1 + cos(pi*x))/2)**exponent + alpha)`, x going from 0 to 1 in `decay_steps`.

    >>> schedule = ao.compat.optax.cosine_decay_schedule(1.0, 4)
    >>> [round(schedule(n), 3) for n in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    return _Cosine(init_value, decay_steps, alpha, exponent)


def piecewise_interpolate_schedule(
    interpolate_type: str, init_value: float, boundaries_and_scales: Mapping[int, float] | None = None
) -> CountedSchedule:
    """Through `init_value` and its products with the scales, along lines ("linear") or half cosines ("cosine").

    >>> schedule = ao.compat.optax.piecewise_interpolate_schedule("linear", 1.0, {2: 0.5})
    >>> [round(schedule(n), 3) for n in range(5)]
    [1.0, 0.75, 0.5, 0.5, 0.5]
    """
    return _Interpolated(interpolate_type, init_value, boundaries_and_scales)


def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> CountedSchedule:
    """Up to the peak, back down, and further down, along lines.

    >>> schedule = ao.compat.optax.linear_onecycle_schedule(4, 1.0)
    >>> [round(schedule(n), 3) for n in range(5)]
    [0.04, 1.0, 0.52, 0.04, 0.0]
    """
    steps = whole_number("transition_steps", transition_steps)
    scales = {int(pct_start * steps): div_factor, int(pct_final * steps): 1 / div_factor, steps: 1 / final_div_factor}
    return _Interpolated("linear", peak_value / div_factor, scales)


def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> CountedSchedule:
    """Up to the peak, and far down, along half cosines.

    >>> schedule = ao.compat.optax.cosine_onecycle_schedule(4, 1.0)
    >>> [round(schedule(n), 3) for n in range(5)]
    [0.04, 1.0, 0.75, 0.25, 0.0]
    """
    steps = whole_number("transition_steps", transition_steps)
    scales = {int(pct_start * steps): div_factor, steps: 1 / (div_factor * final_div_factor)}
    return _Interpolated("cosine", peak_value / div_factor, scales)


def warmup_constant_schedule(init_value: float, peak_value: float, warmup_steps: int) -> CountedSchedule:
    """A line up, and then the peak.

    >>> schedule = ao.compat.optax.warmup_constant_schedule(0.0, 1.0, 2)
    >>> [round(schedule(n), 3) for n in range(5)]
    [0.0, 0.5, 1.0, 1.0, 1.0]
    """
    return linear_schedule(init_value, peak_value, warmup_steps)


def warmup_cosine_decay_schedule(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    decay_steps: int,
    end_value: float = 0.0,
    exponent: float = 1.0,
) -> CountedSchedule:
    """A line up, and half a cosine down; `decay_steps` counts both.

    >>> schedule = ao.compat.optax.warmup_cosine_decay_schedule(0.0, 1.0, 2, 4)
    >>> [round(schedule(n), 3) for n in range(5)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    alpha = 0.0 if peak_value == 0.0 else end_value / peak_value
    down = cosine_decay_schedule(peak_value, decay_steps - warmup_steps, alpha, exponent)
    return join_schedules([linear_schedule(init_value, peak_value, warmup_steps), down], [warmup_steps])


def warmup_exponential_decay_schedule(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> CountedSchedule:
    """A line up, and `exponential_decay`.

    >>> schedule = ao.compat.optax.warmup_exponential_decay_schedule(0.0, 1.0, 2, 2, 0.5)
    >>> [round(schedule(n), 3) for n in range(5)]
    [0.0, 0.5, 1.0, 0.707, 0.5]
    """
    down = exponential_decay(peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value)
    return join_schedules([linear_schedule(init_value, peak_value, warmup_steps), down], [warmup_steps])


def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Any]]) -> CountedSchedule:
    """One `warmup_cosine_decay_schedule` after the other.

    >>> cycle = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 1, "decay_steps": 2}
    >>> schedule = ao.compat.optax.sgdr_schedule([cycle, cycle])
    >>> [round(schedule(n), 3) for n in range(5)]
    [0.0, 1.0, 0.0, 1.0, 0.0]
    """
    cycles = list(cosine_kwargs)
    boundaries = list(accumulate(kwargs["decay_steps"] for kwargs in cycles))
    return join_schedules([warmup_cosine_decay_schedule(**kwargs) for kwargs in cycles], boundaries[:-1])


def join_schedules(schedules: Sequence[Any], boundaries: Sequence[int]) -> CountedSchedule:
    """Schedules, one after the other, each counting its own steps from 0.

    >>> from anyoptim.compat import optax
    >>> schedule = optax.join_schedules([optax.constant_schedule(1.0), optax.exponential_decay(1.0, 2, 0.5)], [2])
    >>> [round(schedule(n), 3) for n in range(5)]
    [1.0, 1.0, 1.0, 0.707, 0.5]
    """
    return _Joined(schedules, boundaries)
