"""Preconditioners of the solvers that take one: a change of variables, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.valleys import START, rosenbrock

Vector = np.ndarray[Any, Any]

SOLVERS: dict[str, Callable[..., Any]] = {
    "CG": ao.NonlinearCG,
    "CG, HS": lambda **options: ao.NonlinearCG("HS", **options),
    "L-BFGS": ao.LBFGS,
    "L-BFGS, short": lambda **options: ao.LBFGS(2, **options),
    "L-BFGS, bounds": lambda **options: ao.LBFGS(3, (-1e9, None), **options),
}
each = pytest.mark.parametrize("solver", SOLVERS)

EIGENVALUES = np.array([1.0, 3.0, 10.0, 40.0, 100.0])


def _quadratic(x: Vector) -> tuple[float, Vector]:
    return float(EIGENVALUES @ x**2) / 2, EIGENVALUES * x


@each
def test_a_change_of_variables(solver: str) -> None:
    """Of M = C*C the iterates are C times those of the function of y = x/C with M = 1."""
    c = np.array([1.0, 0.5, 2.0, 0.25, 1.5, 0.8])

    def of_y(y: Vector) -> tuple[float, Vector]:
        value, grad = rosenbrock(c * y)
        return value, c * grad

    ours, x = SOLVERS[solver](preconditioner=lambda grads: {"x": grads["x"] * c**2}), {"x": START.copy()}
    scaled, there = SOLVERS[solver](preconditioner=lambda grads: grads), {"y": START / c}
    for _ in range(10):
        scaled.update(there, lambda p: (of_y(p["y"])[0], {"y": of_y(p["y"])[1]}))
        ours.update(x, lambda p: (rosenbrock(p["x"])[0], {"x": rosenbrock(p["x"])[1]}))
        np.testing.assert_allclose(x["x"], c * there["y"], rtol=1e-8, atol=1e-8)


@each
def test_the_inverse_of_the_second_derivative_takes_one_step(solver: str) -> None:
    """Of length 1, which is tried first."""
    method = SOLVERS[solver](preconditioner=lambda g: g / EIGENVALUES)
    result = ao.minimize(_quadratic, np.ones(5), method=method, stop=ao.Stop(gtol=1e-12, steps=9))
    assert (result.steps, result.evaluations, result.converged) == (1, 2, True)


def test_within_bounds_it_is_that_of_what_they_leave_free() -> None:
    """The inverse of the second derivative of what no bound holds takes one step, once they hold what they hold."""
    coupled = np.diag(EIGENVALUES) + 0.5
    centre = np.array([2.0, -0.5, 3.0, 0.1, -2.0])
    free, inverse = np.array([False, True, False, True, True]), np.zeros((5, 5))
    inverse[np.ix_(free, free)] = np.linalg.inv(coupled[np.ix_(free, free)])
    start = np.where(free, 0.0, 1.0)

    def of(x: Vector) -> tuple[float, Vector]:
        grad = coupled @ (x - centre)
        return float((x - centre) @ grad) / 2, grad

    def preconditioner(g: Vector) -> Vector:
        np.testing.assert_array_equal(g[~free], 0)
        return inverse @ g + np.where(free, 0.0, 7.0)  # of what is held nothing counts

    method = ao.LBFGS(bounds=(None, np.where(free, np.inf, 1.0)), preconditioner=preconditioner)
    result = ao.minimize(of, start, method=method, stop=ao.Stop(gtol=1e-12, steps=9))
    assert (result.steps, result.converged) == (1, True)
    np.testing.assert_array_equal(result.params[~free], 1)


def test_what_it_gives_for_elements_that_bounds_hold_counts_for_nothing() -> None:
    """Whatever that is, every step is the same."""
    bounds = (None, np.array([9.0, 9.0, 0.2, 9.0, 0.9, 9.0]))

    def ended(by: float) -> Vector:
        held = 0

        def preconditioner(g: Vector) -> Vector:
            nonlocal held
            held += int(np.count_nonzero(g == 0))
            return np.where(g == 0, by, g / 50)

        solver, x = ao.LBFGS(3, bounds, preconditioner=preconditioner), START.copy()
        for _ in range(12):
            solver.update(x, rosenbrock)
        assert held > 2
        return x

    np.testing.assert_array_equal(ended(0.0), ended(5.0))


@each
def test_state(solver: str) -> None:
    """It goes on from its state with the same bits, and from another place as if it began."""

    def made() -> Any:
        return SOLVERS[solver](preconditioner=lambda g: g * np.array([1.0, 0.5, 2.0, 0.25, 1.5, 0.8]))

    whole, x = made(), START.copy()
    half, y = made(), START.copy()
    for _ in range(8):
        whole.update(x, rosenbrock)
    for _ in range(4):
        half.update(y, rosenbrock)
    again = made()
    again.load_state_dict(half.state_dict(), y)
    for _ in range(4):
        again.update(y, rosenbrock)
    np.testing.assert_array_equal(x, y)


def test_from_another_place_conjugate_gradients_begin_anew() -> None:
    """With -z."""
    solver, x = ao.NonlinearCG(preconditioner=lambda g: g / 2), START.copy()
    other, y = ao.NonlinearCG(preconditioner=lambda g: g / 2), START.copy()
    for _ in range(4):
        solver.update(x, rosenbrock)
    x[:] = START
    solver.update(x, rosenbrock)
    other.update(y, rosenbrock)
    np.testing.assert_array_equal(x, y)


WRONG: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "negative": (lambda g: -g, ValueError, r"z\*g = -.*positive definite"),
    "shape": (lambda g: g[:2], ValueError, "has shape"),
    "none": (lambda g: None, ValueError, "grads is None"),
    "container": (lambda g: {"W": g}, ValueError, "grads"),
    "raises": (lambda g: 1 / 0, ZeroDivisionError, "division"),
}


@each
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_preconditioner(solver: str, wrong: str) -> None:
    """Its name is in the error, and nothing has moved."""
    preconditioner, error, message = WRONG[wrong]
    x = np.ones(5)
    with pytest.raises(error, match=message) as raised:
        SOLVERS[solver](preconditioner=preconditioner).update(x, _quadratic)
    assert "preconditioner" in str(raised.value) + "".join(getattr(raised.value, "__notes__", []))
    np.testing.assert_array_equal(x, 1)


@each
def test_one_that_leaves_out_a_parameter(solver: str) -> None:
    """It has to give something for each that moves."""
    method = SOLVERS[solver](preconditioner=lambda g: {**g, "a": None})
    with pytest.raises(ValueError, match="wanted an array for each gradient, and None for none"):
        method.update({"a": np.ones(2), "b": np.ones(2)}, lambda p: (1.0, p))
