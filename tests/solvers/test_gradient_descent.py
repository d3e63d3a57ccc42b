"""Gradient descent beside its rules in NumPy, and the largest curvature of a function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim.solvers import BarzilaiBorwein, Polyak
from tests.support.libraries import Library, same_bits
from tests.support.valleys import START, rosenbrock

Vector = np.ndarray[Any, Any]


def _borwein(which: str, window: int, steps: int) -> tuple[list[Vector], int]:
    """Raydan's algorithm GBB with halves, in NumPy; and how often a step was halved."""
    x, found, values, count = START.copy(), [START.copy()], [rosenbrock(START)[0]], 0
    t = 1 / math.sqrt(rosenbrock(x)[1] @ rosenbrock(x)[1])
    for k in range(1, steps + 1):
        g = rosenbrock(x)[1]
        while rosenbrock(x - t * g)[0] > max(values[-window:]) - 1e-4 * t * (g @ g):
            t, count = t / 2, count + 1
        new = x - t * g
        s, y = new - x, rosenbrock(new)[1] - g
        short = which == "short" or (which == "alternating" and k % 2 == 0)
        t = s @ y / (y @ y) if short else s @ s / (s @ y)
        if s @ y <= 0:
            t = math.sqrt(s @ s / (y @ y))
        x = new
        found.append(x)
        values.append(rosenbrock(x)[0])
    return found[1:], count


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("which", ["alternating", "long", "short"])
def test_barzilai_and_borweins_iterates(which: str, window: int) -> None:
    """Twenty of them, to 1e-6: the quotients of differences lose some digits that grow from step to step."""
    solver, x = ao.GradientDescent(BarzilaiBorwein(which, window)), START.copy()
    iterates, halved = _borwein(which, window, 20)
    assert halved or (which, window) == ("short", 3)
    for expected in iterates:
        solver.update(x, rosenbrock)
        np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-6)


def test_polyaks_iterates() -> None:
    """p - (f - minimum)/|g|**2 * g, to 1e-12: a few roundings for each of ten steps."""
    solver, x, expected = ao.GradientDescent(Polyak(0.5)), START.copy(), START.copy()
    for _ in range(10):
        value, g = rosenbrock(expected)
        expected = expected - (value - 0.5) / (g @ g) * g
        solver.update(x, rosenbrock)
        np.testing.assert_allclose(x, expected, rtol=1e-12)


def test_polyak_stops_at_the_minimum_it_was_told() -> None:
    """There is nothing left to gain, it says."""
    method = ao.GradientDescent(Polyak(18.0))
    result = ao.minimize(lambda x: (float(x @ x), 2 * x), np.array([3.0, 4.0]), method=method, stop=ao.Stop(steps=500))
    assert result.converged
    assert result.value <= 18
    assert "gives 0 as a step length" in result.message


def test_a_number_is_sgd() -> None:
    """The bits of `SGD`, in float32 too."""
    for dtype in ("float64", "float32"):
        solver, x = ao.GradientDescent(1e-3), START.astype(dtype)
        sgd, y = ao.SGD(1e-3), START.astype(dtype)
        for _ in range(10):
            solver.update(x, rosenbrock)
            sgd.update(y, rosenbrock(y)[1])
            assert same_bits(x, y)
        assert solver.evaluations == 11


@pytest.mark.parametrize("search", [ao.solvers.Armijo(), ao.solvers.StrongWolfe(), ao.solvers.HagerZhang()], ids=repr)
def test_a_line_search_lowers_each_value(search: ao.solvers.LineSearch) -> None:
    """And its trials grow, where the first one was too short: 1,000 times too short here."""
    result = ao.minimize(
        lambda x: (float(x @ x) / 2000, x / 1000),
        np.array([3e4, 4e4]),
        method=ao.GradientDescent(search),
        stop=ao.Stop(gtol=1e-6, steps=60),
    )
    assert result.converged, result.message
    assert all(a > b for a, b in zip(result.history.value, result.history.value[1:], strict=False))
    assert sorted(result.history.step_length[1:])[-1] > 100


def test_the_best_point_is_kept() -> None:
    """Where values rise from step to step, the parameters end at the lowest, and after `update` where it has led."""
    method = ao.GradientDescent(BarzilaiBorwein("long", window=50))
    x = START.copy()
    seen: list[float] = []

    def function(x: Vector) -> tuple[float, Vector]:
        seen.append(rosenbrock(x)[0])
        return rosenbrock(x)

    result = ao.minimize(function, x, method=method, stop=ao.Stop(steps=26))
    values = result.history.value
    assert values[-1] > min(values)
    assert result.value == min(seen) == rosenbrock(x)[0]
    y = START.copy()
    method.restart()
    for value in values[1:]:
        method.update(y, rosenbrock)
        assert rosenbrock(y)[0] == value == method.last_value


def test_after_an_exception_the_parameters_are_the_best() -> None:
    """In a loop of one's own, too, though it has gone on from there to a higher value."""

    def failing(x: Vector) -> tuple[float, Vector]:
        raise KeyboardInterrupt

    method, x, least = ao.GradientDescent(BarzilaiBorwein("long", window=50)), START.copy(), math.inf
    for _ in range(50):
        method.update(x, rosenbrock)
        if method.last_value > least:
            break
        least = method.last_value
    assert method.last_value > least
    with pytest.raises(KeyboardInterrupt):
        method.update(x, failing)
    assert rosenbrock(x)[0] == least
    method.update(x, rosenbrock)
    assert method.last_value < least


def test_steps_that_are_too_long() -> None:
    """A number that is too large leads away; the start was best, and the message tells what has ended it."""
    x = np.array([3.0, 4.0])
    method = ao.GradientDescent(3.0)
    result = ao.minimize(lambda x: (float(x @ x), 2 * x), x, method=method, stop=ao.Stop(steps=200))
    assert not result.converged
    assert result.value == 25
    assert result.params.tolist() == [3.0, 4.0]


def test_arguments() -> None:
    """What can't be is refused by name, with what is wanted."""
    with pytest.raises(ValueError, match=r"step is 0\.0; wanted above 0"):
        ao.GradientDescent(0.0)
    with pytest.raises(TypeError, match="step is 'BB'; wanted a real number, above 0"):
        ao.GradientDescent("BB")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="which is 'middle'; wanted 'alternating', 'long' or 'short'"):
        BarzilaiBorwein("middle")


def test_memory() -> None:
    """Two vectors, and a third one where values may rise."""
    for step, best in (
        (ao.solvers.Armijo(), []),
        (BarzilaiBorwein(window=1), []),
        (BarzilaiBorwein(), ["best"]),
        (0.1, ["best"]),
    ):
        solver = ao.GradientDescent(step)
        solver.update(START.copy(), rosenbrock)
        assert sorted(solver.run.vectors) == [*best, "g", "origin"]


RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(40, 100)), 1000 * RNG.normal(size=40)


@pytest.mark.covering(1)
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128", "bfloat16"])
@pytest.mark.parametrize("library", ["numpy", "strict", "torch", "jax", "dask"])
def test_the_largest_curvature(library: str, dtype: str, need: Callable[[str], Library], quickly: None) -> None:
    """The square of the largest singular value, from below; the parameters are what they were.

    Not exactly the same on all libraries: the gradient is theirs.
    """
    lib = need(library)
    if dtype not in lib.dtypes:
        pytest.skip(f"{library} has no {dtype}")
    a = A + 1j * RNG.normal(size=A.shape) if dtype == "complex128" else A
    start = lib.array(np.arange(100) / 100, dtype)

    def gradient(x: Any) -> Any:
        x = np.asarray(lib.tonumpy(x)).astype(a.dtype)
        return lib.array(a.conj().T @ (a @ x - B), dtype)

    params = {"x": start}
    found = ao.lipschitz(lambda p: {"x": gradient(p["x"])}, params, iterations=20)
    exact = np.linalg.norm(a, 2) ** 2
    rounding = 0.05 if dtype == "bfloat16" else 1e-6
    assert 0.99 * exact - rounding * exact < found < (1 + rounding) * exact
    assert same_bits(lib.tonumpy(params["x"]), lib.tonumpy(lib.array(np.arange(100) / 100, dtype)))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_curvature_of_a_dict_is_that_of_a_vector(dtype: str) -> None:
    """The same random direction: the same bits."""

    def gradient(x: Vector) -> Vector:
        return A.T @ (A @ x - B)

    def of_dict(p: Any) -> Any:
        grad = gradient(np.concatenate([p["a"].reshape(-1), p["b"]]))
        return {"a": grad[:30].reshape(5, 6), "b": grad[30:]}

    start = np.zeros(100, dtype)
    found = ao.lipschitz(of_dict, {"a": start[:30].reshape(5, 6).copy(), "b": start[30:].copy()}, iterations=4)
    assert found == ao.lipschitz(gradient, start, iterations=4)
    assert found != ao.lipschitz(gradient, start, iterations=4, key=1)


def test_of_other_functions_it_is_that_nearby() -> None:
    """As far away as the parameters are from 0."""
    found = ao.lipschitz(lambda x: np.tanh(x) + 3e-4 * x, np.full(4, 0.01))
    assert 0.99 < found < 1.01


def test_curvature_where_there_is_none() -> None:
    """A linear function, and no parameters."""
    assert ao.lipschitz(lambda x: np.ones(3), np.zeros(3)) == 0
    assert ao.lipschitz(lambda x: {}, {}) == 0


def test_a_gradient_that_is_not_finite_has_no_curvature() -> None:
    """The parameters are what they were."""
    x = np.ones(3)
    with pytest.raises(ValueError, match=r"gradient is not finite at a distance of 1\.73 from params"):
        ao.lipschitz(lambda x: np.full(3, np.nan if x[0] != 1 else 1.0), x)
    assert x.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="iterations is 0; wanted"):
        ao.lipschitz(lambda x: x, x, iterations=0)


def test_one_over_the_curvature_lowers_each_value() -> None:
    """And reaches the minimum of a quadratic function."""

    def misfit(x: Vector) -> tuple[float, Vector]:
        r = A.T @ x - np.ones(100)
        return float(r @ r) / 2, A @ r

    lr = 1 / ao.lipschitz(lambda x: misfit(x)[1], np.zeros(40))
    result = ao.minimize(misfit, np.zeros(40), method=ao.GradientDescent(lr), stop=ao.Stop(gtol=1e-6, steps=300))
    assert result.converged
    assert all(a >= b for a, b in zip(result.history.value, result.history.value[1:], strict=False))
