"""Conjugate gradients beside the algorithm in NumPy, on quadratic functions, with preconditioners and restarts."""

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


def test_a_preconditioner_is_a_change_of_variables() -> None:
    """Of M = C*C the iterates are C times those of the function of y = x/C with M = 1."""
    c = np.array([1.0, 0.5, 2.0, 0.25, 1.5, 0.8])

    def of_y(y: Vector) -> tuple[float, Vector]:
        value, grad = rosenbrock(c * y)
        return value, c * grad

    ours, x = ao.NonlinearCG(preconditioner=lambda grads: {"x": grads["x"] * c**2}), {"x": START.copy()}
    scaled, there = ao.NonlinearCG(preconditioner=lambda grads: grads), {"y": START / c}
    for _ in range(10):
        scaled.update(there, lambda p: (of_y(p["y"])[0], {"y": of_y(p["y"])[1]}))
        ours.update(x, lambda p: (rosenbrock(p["x"])[0], {"x": rosenbrock(p["x"])[1]}))
        np.testing.assert_allclose(x["x"], c * there["y"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("beta", PAPERS)
def test_the_inverse_of_the_second_derivative_takes_one_step(beta: str) -> None:
    """Of length 1, which is tried first."""
    solver = ao.NonlinearCG(beta, preconditioner=lambda g: g / EIGENVALUES)
    result = ao.minimize(_quadratic, np.ones(5), method=solver, stop=ao.Stop(gtol=1e-12, steps=9))
    assert (result.steps, result.evaluations, result.converged) == (1, 2, True)


def test_preconditioned_state() -> None:
    """It goes on from its state with the same bits, and from another place with -z."""

    def solver() -> ao.NonlinearCG:
        return ao.NonlinearCG("HS", preconditioner=lambda g: g * np.array([1.0, 0.5, 2.0, 0.25, 1.5, 0.8]))

    whole, x = solver(), START.copy()
    half, y = solver(), START.copy()
    for _ in range(8):
        whole.update(x, rosenbrock)
    for _ in range(4):
        half.update(y, rosenbrock)
    again = solver()
    again.load_state_dict(half.state_dict(), y)
    for _ in range(4):
        again.update(y, rosenbrock)
    np.testing.assert_array_equal(x, y)
    y[:] = START
    first = START.copy()
    again.update(y, rosenbrock)
    solver().update(first, rosenbrock)
    np.testing.assert_array_equal(y, first)


@pytest.mark.parametrize(
    ("preconditioner", "error", "message"),
    [
        (lambda g: -g, ValueError, r"z\*g = -.*positive definite"),
        (lambda g: g[:2], ValueError, "has shape"),
        (lambda g: None, ValueError, "grads is None"),
        (lambda g: {"W": g}, ValueError, "grads"),
        (lambda g: 1 / 0, ZeroDivisionError, "division"),
    ],
    ids=["negative", "shape", "none", "container", "raises"],
)
def test_a_wrong_preconditioner(preconditioner: Any, error: type[Exception], message: str) -> None:
    """Its name is in the error, and nothing has moved."""
    x = np.ones(5)
    with pytest.raises(error, match=message) as raised:
        ao.NonlinearCG(preconditioner=preconditioner).update(x, _quadratic)
    assert "preconditioner" in str(raised.value) + "".join(getattr(raised.value, "__notes__", []))
    np.testing.assert_array_equal(x, 1)


def test_a_preconditioner_that_leaves_out_a_parameter() -> None:
    """It has to give something for each that moves."""
    solver = ao.NonlinearCG(preconditioner=lambda g: {**g, "a": None})
    with pytest.raises(ValueError, match="wanted an array for each gradient, and None for none"):
        solver.update({"a": np.ones(2), "b": np.ones(2)}, lambda p: (1.0, p))


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
