"""Problems with bounds on the variables: Hock and Schittkowski's, L-BFGS-B's own example, and a bar under torsion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.reference.minimization.more_garbow_hillstrom import rosenbrock, wood
from tests.reference.minimization.problem import Columns, Problem, Vector, analytic

__all__ = ["BOUNDED", "torsion"]

_found: dict[str, Problem] = {}
_Limit = float | Sequence[float]


def _problem(
    name: str, start: Sequence[float] | Vector, lower: _Limit, upper: _Limit, minimum: float
) -> Callable[[Columns], Columns]:
    """Enter this function into the table. The numbers are those of Hock and Schittkowski, Test examples, 1981."""
    x = np.array(start, np.float64)
    bounds = np.array(np.broadcast_to(lower, x.shape), float), np.array(np.broadcast_to(upper, x.shape), float)

    def enter(f: Columns) -> Columns:
        _found[name] = Problem(name, x, analytic(f), minimum, bounds)
        return f

    return enter


@_problem("HS1", [-2, 1], [-np.inf, -1.5], np.inf, 0)
def hs1(x: Vector) -> Any:
    return (rosenbrock(x) ** 2).sum(axis=0)


@_problem("HS2", [-2, 1], [-np.inf, 1.5], np.inf, 4.941229318)
def hs2(x: Vector) -> Any:
    """Rosenbrock's valley with its end cut off: the least value, 0.0504, is beyond the hill from the start."""
    return hs1(x)


@_problem("HS3", [10, 1], [-np.inf, 0], np.inf, 0)
def hs3(x: Vector) -> Any:
    return x[1] + 1e-5 * (x[1] - x[0]) ** 2


@_problem("HS4", [1.125, 0.125], [1, 0], np.inf, 8 / 3)
def hs4(x: Vector) -> Any:
    return (x[0] + 1) ** 3 / 3 + x[1]


@_problem("HS5", [0, 0], [-1.5, -3], [4, 3], -(3**0.5) / 2 - np.pi / 3)
def hs5(x: Vector) -> Any:
    return np.sin(x[0] + x[1]) + (x[0] - x[1]) ** 2 - 1.5 * x[0] + 2.5 * x[1] + 1


@_problem("HS38", [-3, -1, -3, -1], -10, 10, 0)
def hs38(x: Vector) -> Any:
    return (wood(x) ** 2).sum(axis=0)


@_problem("HS45", [2, 2, 2, 2, 2], 0, [1, 2, 3, 4, 5], 1)
def hs45(x: Vector) -> Any:
    """Its start is outside of the bounds, as published: a method begins at the nearest point inside."""
    return 2 - x.prod(axis=0) / 120


@_problem("HS110", np.full(10, 9), 2.001, 9.999, -45.77846971)
def hs110(x: Vector) -> Any:
    return (np.log(x - 2) ** 2 + np.log(10 - x) ** 2).sum(axis=0) - x.prod(axis=0) ** 0.2


@_problem("L-BFGS-B, driver 1", np.full(25, 3), [1, -100] * 12 + [1], 100, 0)
def driver1(x: Vector) -> Any:
    """Zhu, Byrd, Lu and Nocedal, Algorithm 778, 1997: the example that comes with it."""
    return 4 * ((x[0] - 1) ** 2 / 4 + ((x[1:] - x[:-1] ** 2) ** 2).sum(axis=0))


def torsion(n: int = 20, c: float = 5.0) -> Problem:
    """A bar that is twisted until parts of it flow: a quadratic function, with most variables at a bound.

    Half of the integral of |grad v|**2 - 2*c*v over the unit square, v = 0 at its edge, |v| no more than the distance
    to it, on a grid of n by n points. Source: More and Toraldo, On the solution of large quadratic programming problems
    with bound constraints, 1991, section 7.1.
    """
    h = 1 / (n + 1)
    i = np.arange(1, n + 1)
    side = np.minimum(i, n + 1 - i) * h
    distance = np.minimum.outer(side, side).ravel()

    def value_and_grad(x: Vector) -> tuple[float, Vector]:
        v = np.pad(x.reshape(n, n), 1)
        Av = (4 * v[1:-1, 1:-1] - v[:-2, 1:-1] - v[2:, 1:-1] - v[1:-1, :-2] - v[1:-1, 2:]).ravel()
        return float(x @ Av / 2 - c * h**2 * x.sum()), Av - c * h**2

    return Problem(f"torsion, {n} x {n}", np.zeros(n * n), value_and_grad, TORSION, (-distance, distance))


TORSION = -0.41611287179
"""The least value for n = 20 and c = 5, by 3,000 sweeps of projected successive over-relaxation."""

BOUNDED: Mapping[str, Problem] = {**_found, "torsion": torsion()}
