"""Schedules that are made of other schedules, and of points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from anyoptim._trace._hyperparameters import Hyper, scheduled
from anyoptim._trace._scalars import at_least, at_most, where
from anyoptim.schedules._decay import Constant, Cosine
from anyoptim.schedules._schedule import Schedule, choice, finite, increasing, whole_number
from anyoptim.schedules._shapes import EASES, after, between, progress, through

__all__ = ["as_schedule", "join", "piecewise", "value_of", "warmup", "warmup_cosine"]


def as_schedule(name: str, value: Any) -> Any:
    """A schedule as it is, or a number as a constant schedule. Raises TypeError or ValueError with its name."""
    scheduled(name, value)
    return value if callable(value) else Constant(finite.value(name, value))


def value_of(name: str, schedule: Any, step: Any) -> Any:
    """The value of a schedule at a step, a Python float unless it is traced. Raises TypeError or ValueError."""
    return finite.value(f"{name} at its step {step}", schedule(step))


class join(Schedule):  # noqa: N801 - it is called like a function
    """Schedules, one after the other; each counts its own steps, from 1.

    ::

        schedules[i] at step t - boundaries[i - 1],    while boundaries[i - 1] < t <= boundaries[i]

    `join([Linear(0.0, 100, end=0.1), Cosine(0.1, 900)], [100])` rises for 100 steps and falls for 900. Each schedule
    is only asked for steps of its own time.

    Args:
        schedules: at least one; any functions of the step number, or numbers.
        boundaries: after how many steps, at least 1, the next one begins: one less than schedules; they increase.

    Source: torch's SequentialLR, optax's join_schedules.

    >>> schedule = ao.schedules.join([0.5, 1.0], [3])
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [0.5, 0.5, 0.5, 1.0, 1.0]
    """

    arguments: ClassVar[tuple[str, ...]] = ("schedules", "boundaries")

    def __init__(self, schedules: Iterable[Hyper], boundaries: Iterable[int]) -> None:
        if callable(schedules) or not isinstance(schedules, Iterable):
            raise TypeError(f"schedules is {schedules!r}; wanted a list of schedules")
        self.schedules: tuple[Any, ...] = tuple(as_schedule(f"schedules[{i}]", s) for i, s in enumerate(schedules))
        self.boundaries: tuple[int, ...] = increasing("boundaries", boundaries, 1)
        if len(self.boundaries) != len(self.schedules) - 1:
            raise ValueError(
                f"boundaries has {len(self.boundaries)} for {len(self.schedules)} schedules; wanted one less than these"
            )

    def _value(self, n: Any) -> Any:
        value: Any = 0.0
        for i, begin in enumerate((0, *self.boundaries)):
            m = after(n, begin)
            if i < len(self.boundaries):
                last = self.boundaries[i] - begin - 1
                m = at_most(m, last)
            value = where(at_least(n, begin), value_of(f"schedules[{i}]", self.schedules[i], m + 1), value)
        return value


class warmup(Schedule):  # noqa: N801 - it is called like a function
    """A line to where a schedule begins, and then that schedule, which counts its own steps, from 1.

    ::

        start*(1 - n/steps) + schedule(1)*n/steps    for n < steps,    n = t - 1
        schedule(t - steps)                          then

    Args:
        steps: how long the line is, in steps, at least 0. The schedule begins with step `steps + 1`.
        schedule: any function of the step number, or a number.
        start: the value at step 1, finite.

    Source: Goyal et al., Accurate, large minibatch SGD, 2017, section 2.2 (gradual warmup).

    >>> schedule = ao.schedules.warmup(2, 1.0)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [0.0, 0.5, 1.0, 1.0, 1.0]
    """

    arguments: ClassVar[tuple[str, ...]] = ("steps", "schedule", "start")

    def __init__(self, steps: int, schedule: Hyper, start: float = 0.0) -> None:
        self.steps: int = whole_number("steps", steps, 0)
        self.schedule: Any = as_schedule("schedule", schedule)
        self.start: float = finite.value("start", start)

    def _value(self, n: Any) -> Any:
        # While n < steps the target is the value of the schedule's step 1; later the line is at its end.
        target = value_of("schedule", self.schedule, after(n, self.steps) + 1)
        return between(self.start, target, progress(n, self.steps))


def warmup_cosine(peak: float, steps: int, warmup_steps: int, start: float = 0.0, end: float = 0.0) -> warmup:
    """A schedule up along a line, down along half a cosine, and then constant.

    ::

        warmup(warmup_steps, Cosine(peak, steps - warmup_steps, end), start)

    Args:
        peak: the value at step `warmup_steps + 1`, finite.
        steps: after how many steps `end` is reached, those of the warm-up among them.
        warmup_steps: at least 0, and less than `steps`.
        start: the value at step 1, finite.
        end: the value from step `steps + 1` on, finite.

    Source: Goyal et al. and Loshchilov and Hutter, as in `warmup` and `Cosine`; optax's warmup_cosine_decay_schedule,
    with its decay_steps as steps.

    >>> schedule = ao.schedules.warmup_cosine(1.0, steps=5, warmup_steps=2)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [0.0, 0.5, 1.0, 0.75, 0.25]
    """
    peak, all_steps, rising = (
        finite.value("peak", peak),
        whole_number("steps", steps),
        whole_number("warmup_steps", warmup_steps, 0),
    )
    if rising >= all_steps:
        raise ValueError(f"warmup_steps is {rising}; wanted less than steps, {all_steps}")
    return warmup(rising, Cosine(peak, all_steps - rising, end), start)


class piecewise(Schedule):  # noqa: N801 - it is called like a function
    """A schedule through points: constant from each to the next, or interpolated between them.

    ::

        between (n0, a) and (n1, b):    a + (b - a)*e(x),    x = (n - n0)/(n1 - n0),    n = t - 1

    with e(x) = 0 for "constant" (but 1 at 1), x for "linear", (1 - cos(pi*x))/2 for "cosine", sqrt(x) for "sqrt".
    Before the first point the value is the first one, after the last the last.

    Args:
        points: {after how many steps, at least 0: value}, or pairs of these; at least one, the steps increasing.
            `{0: 0.1, 100: 0.01}` is 0.1 at step 1, and 0.01 at step 101.
        ease: the way from one to the next, as above.

    Source: optax's piecewise_constant_schedule and piecewise_interpolate_schedule, with values, not factors.

    >>> schedule = ao.schedules.piecewise({0: 1.0, 2: 0.5})
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 0.75, 0.5, 0.5, 0.5]
    """

    arguments: ClassVar[tuple[str, ...]] = ("points", "ease")

    def __init__(self, points: Mapping[int, float] | Iterable[tuple[int, float]], ease: str = "linear") -> None:
        try:
            pairs = [(at, value) for at, value in (points.items() if isinstance(points, Mapping) else points)]
        except (TypeError, ValueError):
            raise TypeError(f"points is {points!r}; wanted a dict from steps to values, or pairs of these") from None
        if not pairs:
            raise ValueError("points is empty; wanted at least one")
        steps = increasing("steps of points", [at for at, _ in pairs], 0)
        values = [finite.value(f"points[{at!r}]", value) for at, value in pairs]
        self.points: tuple[tuple[int, float], ...] = tuple(zip(steps, values, strict=True))
        self.ease: str = choice("ease", ease, EASES)

    def _value(self, n: Any) -> Any:
        return through(n, self.points, self.ease)
