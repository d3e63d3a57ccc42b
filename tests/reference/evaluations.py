"""How many evaluations of a function a solver needs, until the function is so small: SciPy's solvers and anybody's."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize

from tests.reference.minimization import bounded, large, more_garbow_hillstrom
from tests.reference.minimization.problem import Function, Problem, Vector

__all__ = [
    "BOUNDED",
    "LARGE",
    "MOST",
    "PUBLISHED",
    "TYPICAL",
    "Case",
    "Solver",
    "evaluations",
    "scipy_solver",
    "within",
]

Solver = Callable[[Function, Problem], object]
"""Minimises the function that it is given, which is that of the problem and counts."""

MOST = 5000
"""The evaluations after which a solver is stopped."""


class _DoneError(Exception):
    """The last target is reached, or too many evaluations were taken."""


def evaluations(problem: Problem, targets: Sequence[float], solve: Solver) -> list[float]:
    """For each of the falling targets the evaluations until the least value so far is no more; infinite if never."""
    found: list[float] = []
    count, least = 0, math.inf

    def counted(x: Vector) -> tuple[float, Vector]:
        nonlocal count, least
        value, grad = problem.value_and_grad(x)
        count, least = count + 1, min(least, value)
        while len(found) < len(targets) and least <= targets[len(found)]:
            found.append(count)
        if len(found) == len(targets) or count >= MOST:
            raise _DoneError
        return value, grad

    with contextlib.suppress(_DoneError):
        solve(counted, problem)
    return found + [math.inf] * (len(targets) - len(found))


OPTIONS = {
    "L-BFGS-B": {"maxcor": 10, "ftol": 0.0, "gtol": 0.0, "maxiter": MOST, "maxfun": MOST},
    "CG": {"gtol": 0.0, "maxiter": MOST},
}
"""Nothing but the target ends a run."""


def scipy_solver(method: str) -> Solver:
    """SciPy's, on the numbers in a row, two for a complex one."""

    def solve(function: Function, problem: Problem) -> Any:
        dtype, shape = problem.start.dtype, problem.start.shape

        def reals(x: Vector) -> tuple[float, Vector]:
            value, grad = function(x.view(dtype).reshape(shape))
            return value, grad.ravel().view(np.float64)

        start = problem.start.ravel().view(np.float64)
        bounds = None if problem.bounds is None else scipy.optimize.Bounds(*problem.bounds)
        options = OPTIONS[method]
        return scipy.optimize.minimize(reals, start, method=method, jac=True, bounds=bounds, options=options)

    return solve


class Case(NamedTuple):
    """A problem, and values that are to be reached on the way to its minimum."""

    problem: Problem
    targets: Sequence[float]


def within(problem: Problem, *shares: float) -> Case:
    """The case whose targets are these shares of the value at the start, both above the minimum."""
    x = problem.start if problem.bounds is None else np.clip(problem.start, *problem.bounds)
    above = problem.value(x) - problem.minimum
    return Case(problem, [problem.minimum + share * above for share in shares])


def _table(*cases: Case) -> dict[str, Case]:
    return {case.problem.name: case for case in cases}


def _least_squares(n: int) -> dict[str, Case]:
    return _table(
        within(large.deconvolution(2, n), 1e-2, 1e-4, 1e-6),
        within(large.deconvolution(3, n), 1e-2, 1e-4),
    )


TYPICAL: Mapping[str, Case] = {
    **_table(
        Case(large.rosenbrock(2), (1e-4, 1e-10, 1e-16)),
        Case(large.rosenbrock(100), (1e-4, 1e-10)),
        within(large.phase_retrieval(), 1e-2, 1e-4, 1e-8),
    ),
    **_least_squares(10_000),
}
"""Of the kinds that users bring. SciPy 1.17's L-BFGS-B: 41, 44, 45; 599, 611; 7, 10, 17; 13, 88, 222; 13, 114."""

LARGE: Mapping[str, Case] = _least_squares(100_000)
"""The same with 100,000 parameters: 15, 90, 224; 15, 115."""

SHARES = (1e-2, 1e-4, 1e-6, 1e-8)
PUBLISHED: Mapping[str, Case] = _table(*(within(p, *SHARES) for p in more_garbow_hillstrom.PROBLEMS.values()))
BOUNDED: Mapping[str, Case] = _table(*(within(p, *SHARES) for p in bounded.BOUNDED.values()))
