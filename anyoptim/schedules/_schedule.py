"""The base of all schedules, which are immutable values called with the step, and the checks of their arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from anyoptim._trace._hyperparameters import Domain
from anyoptim._trace._scalars import count, signed, whole_number

__all__ = ["Schedule", "choice", "elementwise", "finite", "increasing", "positive", "share", "whole_number"]


def elementwise(schedule: Callable[[int], float], steps: np.ndarray[Any, Any]) -> Any:
    """The values of a schedule at an array of steps, each with the bits that it has alone."""
    return np.array([schedule(t) for t in steps.ravel().tolist()], np.float64).reshape(steps.shape)


class Schedule:
    """A function of the step number that is a value: its arguments never change.

    It is no dataclass: building twenty of these would take half the time that importing anyoptim may take.
    """

    arguments: ClassVar[tuple[str, ...]] = ()
    """The names of the constructor's arguments, which are attributes of these names."""

    def __call__(self, step: int) -> float:
        """The value at a step, which counts from 1.

        A Python float; where `step` is a traced 0-d integer array, as under `jax.jit`, a 0-d floating array; of a NumPy
        array of steps, such as `np.arange(1, 1001)` for a plot, an array of the values. Raises TypeError or ValueError
        for anything else.
        """
        if isinstance(step, np.ndarray) and step.ndim:
            return elementwise(self, step)
        t: Any = signed(count("step", step))
        if isinstance(t, int) and t < 1:
            raise ValueError(f"step is {t}; wanted at least 1: steps count from 1")
        value: float = self._value(t - 1)
        return value

    def _value(self, n: Any) -> Any:
        """The value after n steps: the equation."""
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self) or name not in self.arguments:
            raise AttributeError(f"{self!r} can't be changed, nor its {name!r} set; wanted a new schedule")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))


finite = Domain(math.isfinite, "finite")
positive = Domain(lambda x: 0 < x < math.inf, "finite and above 0")
share = Domain(lambda x: 0 < x <= 1, "above 0 and at most 1")


def increasing(name: str, values: Iterable[Any], least: int) -> tuple[int, ...]:
    """`values` as integers that are at least that, and increase. Raises TypeError or ValueError with their name."""
    try:
        numbers = tuple(whole_number(f"{name}[{i}]", value, least) for i, value in enumerate(values))
    except TypeError as error:
        if name in str(error):
            raise
        raise TypeError(f"{name} is {values!r}; wanted integers that increase") from None
    if any(b <= a for a, b in pairwise(numbers)):
        raise ValueError(f"{name} is {numbers}; wanted integers that increase")
    return numbers


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """`value`, if it is one of the options. Raises ValueError with its name."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name} is {value!r}; wanted one of {', '.join(map(repr, options))}")
    return value
