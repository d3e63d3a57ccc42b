"""The problems on which solvers are compared: their gradients are right, and their minima the published ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

import anyoptim as ao
from tests.reference.evaluations import evaluations, scipy_solver
from tests.reference.minimization.bounded import BOUNDED
from tests.reference.minimization.large import deconvolution, phase_retrieval, rosenbrock
from tests.reference.minimization.more_garbow_hillstrom import PROBLEMS
from tests.reference.minimization.problem import Problem

SMALL = {**PROBLEMS, **BOUNDED}
LARGE = (rosenbrock(10), deconvolution(2, 100), phase_retrieval(8))

ELSEWHERE = {
    "3 Powell badly scaled": "stops in a valley whose sides differ by 1e9",
    "6 Jennrich and Sampson": "its first step leads to where both exponentials are 0 and the function is flat",
    "10 Meyer": "stops in a valley whose sides differ by 1e9",
}
"""Where SciPy's L-BFGS-B does not get to the minimum, and why."""


@pytest.mark.parametrize("problem", [*SMALL.values(), *LARGE], ids=lambda p: p.name)
def test_gradients_are_those_of_the_functions(problem: Problem) -> None:
    """By finite differences, a little off the start, where some gradients are 0."""
    off = 0.1 * np.random.default_rng(0).uniform(size=problem.start.shape)
    ao.testing.assert_grad(problem.value_and_grad, problem.start + off)


@pytest.mark.parametrize("problem", SMALL.values(), ids=lambda p: p.name)
def test_minima_are_the_published_ones(problem: Problem) -> None:
    """To the seven digits that are printed, or 1e-12 of the value at the start where that is 0.

    So the data are those of the paper, too, without a digit that is wrong.
    """
    off = 1e-6 * abs(problem.minimum) + 1e-12 * problem.value(problem.start)
    above, below = evaluations(problem, [problem.minimum + off, problem.minimum - off], scipy_solver("L-BFGS-B"))
    assert below == math.inf
    assert (above == math.inf) == (problem.name in ELSEWHERE)


def test_the_other_minima_are_where_they_are_published() -> None:
    """Those to which SciPy's L-BFGS-B does not get; to the digits that the place has."""
    near = {
        "3 Powell badly scaled": [1.0981593296997149e-5, 9.106],
        "6 Jennrich and Sampson": [0.2578, 0.2578],
        "10 Meyer": [0.0056096365, 6181.34635, 345.223635],
    }
    assert near.keys() == ELSEWHERE.keys()
    for name, x in near.items():
        problem = PROBLEMS[name]
        assert problem.value(np.array(x)) == pytest.approx(problem.minimum, rel=1e-4, abs=1e-6)


def test_starts_and_sizes() -> None:
    """At least twenty without and six with bounds, which some minima touch; the starts are not the minima."""
    assert len(PROBLEMS) == 35
    assert len(BOUNDED) >= 6
    assert all(problem.value(problem.start) > problem.minimum for problem in SMALL.values())
    assert all(problem.value_and_grad(problem.start)[1].shape == problem.start.shape for problem in SMALL.values())
