"""L-BFGS beside the recursion of two loops in NumPy, which reads vectors where the package knows their products."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.valleys import START, rosenbrock

Vector = np.ndarray[Any, Any]

LONG = np.tile(START, 10)
"""With more elements than the largest memory has pairs."""


def _iterates(memory: int, steps: int, M: Vector | None) -> list[Vector]:
    """Those of Nocedal and Wright's algorithms 7.4 and 7.5; the line search is that of the package."""
    search, x, found, pairs = ao.solvers.MoreThuente(), LONG.copy(), [], list[tuple[Vector, Vector]]()
    value, g = rosenbrock(x)
    for _ in range(steps):
        q, a = g.copy(), []
        for s, y in reversed(pairs):
            a.append(s @ q / (s @ y))
            q -= a[-1] * y
        z = (
            M * q
            if M is not None
            else (pairs[-1][0] @ pairs[-1][1] / (pairs[-1][1] @ pairs[-1][1])) * q
            if pairs
            else q
        )
        for (s, y), of in zip(pairs, reversed(a), strict=True):
            z = z + (of - y @ z / (s @ y)) * s
        slope = float(-z @ g)
        trial = search.steps(value, slope, 1.0 if pairs or M is not None else 1 / math.sqrt(-slope))
        t = next(trial)
        with contextlib.suppress(StopIteration):
            while True:
                new_value, new = rosenbrock(x - t * z)
                t = trial.send((new_value, float(-new @ z)))
        pairs = [*pairs, (-t * z, new - g)][-memory:]
        x, value, g = x - t * z, new_value, new
        found.append(x)
    return found


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("memory_size", [1, 3, 20])
def test_iterates_are_those_of_two_loops(memory_size: int, preconditioned: bool) -> None:
    """To 1e-7: roundings of 1e-16 grow with each step, along the valley."""
    M = np.linspace(1.0, 3.0, len(LONG)) / 100 if preconditioned else None
    solver, x = ao.LBFGS(memory_size, preconditioner=None if M is None else M.__mul__), LONG.copy()
    for expected in _iterates(memory_size, 24, M):
        solver.update(x, rosenbrock)
        np.testing.assert_allclose(x, expected, rtol=1e-7, atol=1e-7)
