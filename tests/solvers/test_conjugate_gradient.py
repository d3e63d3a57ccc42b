"""Conjugate gradients beside the algorithm in NumPy, on quadratic functions, with restarts."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim.solvers.conjugate_gradient import BETAS
from tests.support.valleys import START, rosenbrock

Vector = np.ndarray[Any, Any]

PAPERS: dict[str, Callable[[Vector, Vector, Vector], float]] = {
    "PR+": lambda new, g, d: max(0.0, new @ (new - g) / (g @ g)),
    "HS": lambda new, g, d: new @ (new - g) / (d @ (new - g)),
    "HS+": lambda new, g, d: max(0.0, new @ (new - g) / (d @ (new - g))),
    "FR": lambda new, g, d: new @ new / (g @ g),
    "DY": lambda new, g, d: new @ new / (d @ (new - g)),
    "HS-DY": lambda new, g, d: max(0.0, min(new @ (new - g), new @ new) / (d @ (new - g))),
    "HZ": lambda new, g, d: (new - g - 2 * d * ((new - g) @ (new - g)) / (d @ (new - g))) @ new / (d @ (new - g)),
}
"""As in Hager and Zhang's survey, 2006, table 1 and equations 5.1 and 6.3, of the gradients before and after."""


def _iterates(beta: str, restart_at: float, steps: int) -> list[Vector]:
    """Those of Nocedal and Wright's algorithm 5.4, in NumPy; the line search is that of the package."""
    search, x, found = ao.solvers.MoreThuente(c1=1e-4, c2=0.1), START.copy(), []
    value, g = rosenbrock(x)
    d, fall, last = -g, math.nan, math.nan
    for _ in range(steps):
        if not d @ g < 0:
            d = -g
        slope = float(d @ g)
        trial = search.steps(value, slope, min(2 * fall / -slope, 10 * last) if fall > 0 else 1 / math.sqrt(-slope))
        t = next(trial)
        with contextlib.suppress(StopIteration):
            while True:
                new_value, new = rosenbrock(x + t * d)
                t = trial.send((new_value, float(new @ d)))
        x = x + t * d
        share = 0.0 if abs(new @ g) >= restart_at * (new @ new) else PAPERS[beta](new, g, d)
        value, fall, last, g, d = new_value, value - new_value, t, new, share * d - new
        found.append(x)
    return found


@pytest.mark.parametrize("restart_at", [math.inf, 0.1])
@pytest.mark.parametrize("beta", PAPERS)
def test_iterates_are_the_papers(beta: str, restart_at: float) -> None:
    """Ten of them, to 1e-8: roundings of 1e-16 grow with each step, along the valley."""
    assert set(PAPERS) == set(BETAS)
    solver, x = ao.NonlinearCG(beta, restart_at=restart_at), START.copy()
    for expected in _iterates(beta, restart_at, 10):
        solver.update(x, rosenbrock)
        np.testing.assert_allclose(x, expected, rtol=1e-8, atol=1e-8)


EIGENVALUES = np.array([1.0, 3.0, 10.0, 40.0, 100.0])


def _quadratic(x: Vector) -> tuple[float, Vector]:
    return float(EIGENVALUES @ x**2) / 2, EIGENVALUES * x


EXACT = ao.solvers.StrongWolfe(c1=1e-7, c2=1e-6)
"""A search that ends at the minimum of its line, almost."""


@pytest.mark.parametrize("beta", PAPERS)
def test_a_quadratic_of_five_eigenvalues_takes_five_steps(beta: str) -> None:
    """Nocedal and Wright, theorem 5.4; all betas are one there, if the minimum along each line is found."""
    solver = ao.NonlinearCG(beta, line_search=EXACT)
    result = ao.minimize(_quadratic, np.ones(5), method=solver, stop=ao.Stop(steps=5))
    *_, before, after = result.history.gradient_norm
    assert before > 0.1
    assert after < 1e-4


@pytest.mark.parametrize("beta", PAPERS)
def test_where_the_slope_has_not_risen_it_begins_anew(beta: str) -> None:
    """On a hill, which a search that looks at values alone follows: the second step is along -g, too."""
    down = np.array([-1.0, -3.0])
    solver = ao.NonlinearCG(beta, line_search=ao.solvers.Armijo())
    x = np.ones(2)
    solver.update(x, lambda x: (float(down @ x**2) / 2, down * x))
    before = x.copy()
    solver.update(x, lambda x: (float(down @ x**2) / 2, down * x))
    step, g = x - before, down * before
    assert step @ g == pytest.approx(-np.linalg.norm(step) * np.linalg.norm(g), rel=1e-12)


def test_a_direction_that_has_overflowed_is_left() -> None:
    """It goes on with -g, as at the beginning."""
    solver, x = ao.NonlinearCG(), START.copy()
    solver.update(x, rosenbrock)
    solver.run.vectors["d"][0][2] = np.inf
    solver.run.numbers["slope"] = -np.inf
    before = rosenbrock(x)[0]
    solver.update(x, rosenbrock)
    assert solver.last_failure is None
    assert rosenbrock(x)[0] < before


def test_arguments() -> None:
    """What can't be is refused by name, with what is wanted."""
    with pytest.raises(ValueError, match=r"beta is 'PR'; wanted one of 'PR\+', 'HS'"):
        ao.NonlinearCG("PR")
    with pytest.raises(ValueError, match=r"restart_at is 0\.0; wanted above 0"):
        ao.NonlinearCG(restart_at=0)


def test_memory() -> None:
    """Three vectors: the direction, the gradient and where the step began."""
    solver = ao.NonlinearCG()
    solver.update(START.copy(), rosenbrock)
    assert sorted(solver.run.vectors) == ["d", "g", "origin"]
