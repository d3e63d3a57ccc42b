"""What a test problem of minimization is, and gradients by complex steps, as exact as a derivative by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bounds", "Function", "Problem", "Vector", "analytic", "least_squares"]

Vector = NDArray[Any]
Function = Callable[[Vector], tuple[float, Vector]]
Bounds = tuple[Vector, Vector]
Columns = Callable[[Vector], Any]
"""A function of points that are the columns of x: x[0] has the first variable of each."""

STEP = 1e-40
"""So small that its square is lost to the real part, and so large that products with it are no subnormal numbers."""


class Problem(NamedTuple):
    """A function of float64 or complex128 arrays to be minimised, from a start, with the least value that is known."""

    name: str
    start: Vector
    value_and_grad: Function
    minimum: float
    """The value at the minimum to which a descent from the start leads."""
    bounds: Bounds | None = None
    """The least and the largest value of each variable, infinite where there is none."""

    def value(self, x: Vector) -> float:
        """The function alone."""
        return self.value_and_grad(x)[0]


def analytic(f: Columns) -> Function:
    """The function and its gradient Im f(x + i*h*e_j) / h, in which no difference is taken: exact but for rounding.

    `f` takes an array whose columns are points, gives a number for each, and may use what is analytic and no more: no
    absolute values, no maxima. Source: Squire and Trapp, Using complex variables to estimate derivatives, 1998.
    """

    def value_and_grad(x: Vector) -> tuple[float, Vector]:
        with np.errstate(all="ignore"):  # a line search asks far away, too, where exponentials overflow
            value, grad = f(x[:, None])[0], f(x[:, None] + STEP * 1j * np.eye(len(x))).imag / STEP
        return float(value), grad

    return value_and_grad


def least_squares(residuals: Columns) -> Function:
    """The sum of the squares of what `residuals` gives: a column for each point."""
    return analytic(lambda x: (residuals(x) ** 2).sum(axis=0))
