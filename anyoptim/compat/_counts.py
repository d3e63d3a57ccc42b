"""Schedules that count from 0, as optax and Keras call theirs, among those here, which count from 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from anyoptim._trace._hyperparameters import Hyper
from anyoptim._trace._scalars import count, signed, times
from anyoptim.schedules._schedule import Schedule

__all__ = ["CountedSchedule", "FromOne", "OfNext", "Product", "rate"]


class CountedSchedule(Schedule):
    """A schedule that is called with the number of steps taken so far: the first step's is 0."""

    from_zero = True
    """Which other schedules and hyperparameters refuse."""

    def __call__(self, step: Any) -> Any:
        """The value after so many steps: a Python float, or where `step` is a traced array another."""
        return self._value(signed(count("count", step)))


@dataclass(frozen=True)
class FromOne:
    """A schedule of the count of steps so far, as one of the step number.

    It is called with `every*t - 1`: a framework that counts updates has counted so many before step t.
    """

    schedule: Any
    every: int = 1

    def __call__(self, t: Any) -> Any:
        """The value at step t."""
        return self.schedule(times(t, self.every) - 1)


@dataclass(frozen=True)
class OfNext:
    """A schedule of the count of steps so far, as one that gives at each step what is the next one's."""

    schedule: Any

    def __call__(self, t: Any) -> Any:
        """The value after step t."""
        return self.schedule(t)


@dataclass(frozen=True)
class Product:
    """A schedule that is the product of two hyperparameters, either or both of them schedules of the step number."""

    a: Any
    b: Any

    def __call__(self, t: Any) -> Any:
        """The value at step t."""
        return _at(self.a, t) * _at(self.b, t)


def _at(value: Any, t: Any) -> Any:
    return value(t) if callable(value) else value


def rate(value: Any) -> Hyper:
    """A number as it is; a schedule, which counts from 0, as one that counts from 1."""
    return FromOne(value) if callable(value) else value
