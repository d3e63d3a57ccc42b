"""Schedules that torch's schedulers need beside the public ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from anyoptim._trace._hyperparameters import Hyper
from anyoptim._trace._scalars import cos, floating, quotient, remainder, where
from anyoptim.schedules import Plateau
from anyoptim.schedules._combined import as_schedule, value_of
from anyoptim.schedules._schedule import Schedule, finite, whole_number
from anyoptim.schedules._shapes import between, cosine

__all__ = ["Epochs", "Factors", "Later", "Periodic", "Phases", "Products", "Reduced", "Scaled", "WithMomentum"]


class Epochs(Schedule):
    """A schedule of epochs, that of epoch e at all its steps: where torch's `scheduler.step()` ends each epoch.

    ::

        schedule(1 + floor(n / steps)),    n = t - 1

    >>> from anyoptim.compat.torch import lr_scheduler
    >>> schedule = lr_scheduler.Epochs(lr_scheduler.ExponentialLR(1.0, 0.5), steps=2)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    arguments: ClassVar[tuple[str, ...]] = ("schedule", "steps")

    def __init__(self, schedule: Hyper, steps: int) -> None:
        self.schedule: Any = as_schedule("schedule", schedule)
        self.steps: int = whole_number("steps", steps)

    def _value(self, n: Any) -> Any:
        return value_of("schedule", self.schedule, quotient(n, self.steps) + 1)


class Later(Schedule):
    """A schedule that begins as if so many steps had been taken before."""

    arguments: ClassVar[tuple[str, ...]] = ("schedule", "steps")

    def __init__(self, schedule: Hyper, steps: int) -> None:
        self.schedule = as_schedule("schedule", schedule)
        self.steps = whole_number("steps", steps, 0)

    def _value(self, n: Any) -> Any:
        return value_of("schedule", self.schedule, n + self.steps + 1)


class Scaled(Schedule):
    """A learning rate times what a function gives for n, the number of steps before this one."""

    arguments: ClassVar[tuple[str, ...]] = ("lr", "function")

    def __init__(self, lr: float, function: Callable[[int], float]) -> None:
        self.lr = finite.value("lr", lr)
        self.function = function

    def _value(self, n: Any) -> Any:
        return self.lr * self.function(n)


_PRODUCTS: WeakKeyDictionary[Any, list[float]] = WeakKeyDictionary()
"""For each function the products of its first values, as far as they were needed."""


class Products(Scaled):
    """A learning rate times all that a function gives for 1, 2, ..., n, in this order."""

    def _value(self, n: Any) -> Any:
        products = _PRODUCTS.setdefault(self.function, [1.0])
        while len(products) <= n:
            products.append(products[-1] * self.function(len(products)))
        return self.lr * products[n]


class Periodic(Schedule):
    """A schedule that goes down and up again along cosines, for ever: `end + (start - end)*(1 + cos(pi*n/steps))/2`."""

    arguments: ClassVar[tuple[str, ...]] = ("start", "steps", "end")

    def __init__(self, start: float, steps: int, end: float) -> None:
        self.start = finite.value("start", start)
        self.steps = whole_number("steps", steps)
        self.end = finite.value("end", end)

    def _value(self, n: Any) -> Any:
        x = floating(remainder(n, 2 * self.steps)) / float(self.steps)
        return self.end + (self.start - self.end) * (1 + cos(math.pi * x)) / 2


class Phases(Schedule):
    """A schedule from value to value, each reached after so many steps, which need not be whole; then constant."""

    arguments: ClassVar[tuple[str, ...]] = ("start", "ends", "values", "ease")

    def __init__(self, start: float, ends: Sequence[float], values: Sequence[float], ease: str) -> None:
        self.start = finite.value("start", start)
        self.ends = tuple(finite.value("ends", end) for end in ends)
        self.values = tuple(finite.value("values", value) for value in values)
        self.ease = ease

    def _value(self, n: Any) -> Any:
        value: Any = self.start
        before, begin = self.start, 0.0
        for end, target in zip(self.ends, self.values, strict=True):
            x = (floating(n) - begin) / (end - begin or 1.0)
            x = where(x < 1, x, 1.0)
            value = where(floating(n) > begin, between(before, target, cosine(x) if self.ease == "cos" else x), value)
            before, begin = target, end
        return value


class Factors(Schedule):
    """A learning rate times the factors of some schedules, each of which begins at that rate."""

    arguments: ClassVar[tuple[str, ...]] = ("lr", "schedules")

    def __init__(self, lr: float, schedules: Sequence[Hyper]) -> None:
        self.lr = finite.value("lr", lr)
        self.schedules = tuple(schedules)

    def _value(self, n: Any) -> Any:
        value: Any = self.lr
        for i, schedule in enumerate(self.schedules):
            value = value * (value_of(f"schedules[{i}]", schedule, n + 1) / self.lr)
        return value


class WithMomentum(Schedule):
    """A schedule of the learning rate with a second one, `momentum`, for the momentum or beta1 that goes with it."""

    arguments: ClassVar[tuple[str, ...]] = ("schedule", "momentum")

    def __init__(self, schedule: Hyper, momentum: Hyper) -> None:
        self.schedule = as_schedule("schedule", schedule)
        self.momentum = as_schedule("momentum", momentum)

    def _value(self, n: Any) -> Any:
        return value_of("schedule", self.schedule, n + 1)


class Reduced(Plateau):
    """`Plateau` with torch's eps, the least reduction that is made, and its "rel", which is for positive losses."""

    arguments: ClassVar[tuple[str, ...]] = (*Plateau.arguments, "eps")

    def __init__(self, schedule: Hyper, *, eps: float, **options: Any) -> None:
        super().__init__(schedule, **options)
        self.eps: float = finite.value("eps", eps)

    def step(self, metrics: float) -> None:
        """`tell`, under torch's name."""
        self.tell(metrics)

    def _reduced(self, multiplier: float) -> float:
        lower = super()._reduced(multiplier)
        return lower if self.schedule(1) * (multiplier - lower) > self.eps else multiplier

    def _improves(self, value: float) -> bool:
        best = self.state["best"]
        if best is None or not math.isfinite(value) or self.threshold_mode == "abs":
            return super()._improves(value)
        down = self.mode == "min"
        bar: float = best * (1 - self.threshold if down else 1 + self.threshold)
        return value < bar if down else value > bar
