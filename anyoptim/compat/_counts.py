"""Schedules that count steps from 0, as those of optax and Keras do, for optimizers, which count from 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from anyoptim._trace._hyperparameters import Hyper
from anyoptim._trace._scalars import count, signed, times
from anyoptim.schedules._schedule import Schedule, elementwise

__all__ = ["CountedSchedule", "NextValue", "Product", "ZeroBased", "rate"]


class CountedSchedule(Schedule):
    """A schedule that is called with the number of steps taken so far, which is 0 at the first step."""

    from_zero = True
    """A mark by which hyperparameters and schedules that count from 1 refuse this one."""

    def __call__(self, step: Any) -> Any:
        """The value after so many steps: a Python float, or an array where `step` is traced or a NumPy array."""
        if isinstance(step, np.ndarray) and step.ndim:
            return elementwise(self, step)
        return self._value(signed(count("count", step)))


@dataclass(frozen=True)
class ZeroBased:
    """A schedule that counts from 0, to be called with a step number t, which counts from 1.

    It is called with `every*t - 1`: a framework that counts updates has counted so many before step t.
    """

    schedule: Any
    every: int = 1

    def __call__(self, t: Any) -> Any:
        """The value at step t."""
        return self.schedule(times(t, self.every) - 1)


@dataclass(frozen=True)
class NextValue:
    """A schedule that counts from 0, to be called with a step number t for the value of step t + 1."""

    schedule: Any

    def __call__(self, t: Any) -> Any:
        """The value after step t."""
        return self.schedule(t)


@dataclass(frozen=True)
class Product:
    """The product of two hyperparameters, of which at least one is a schedule of the step number."""

    a: Any
    b: Any

    def __call__(self, t: Any) -> Any:
        """The value at step t."""
        return _at(self.a, t) * _at(self.b, t)


def _at(value: Any, t: Any) -> Any:
    return value(t) if callable(value) else value


def rate(value: Any) -> Hyper:
    """A number as it is; a schedule, which counts from 0, as one that counts from 1."""
    return ZeroBased(value) if callable(value) else value
