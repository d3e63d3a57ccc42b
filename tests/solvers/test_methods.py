"""What all solvers have in common, whatever their equation: libraries, engines, containers, state and failures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import ENGINES, Library, same_bits
from tests.support.valleys import START, rosenbrock


def _halved(grads: Any) -> Any:
    if isinstance(grads, dict):
        return {name: _halved(each) for name, each in grads.items()}
    return [_halved(each) for each in grads] if isinstance(grads, list) else None if grads is None else grads * 0.5


METHODS: dict[str, Callable[..., Any]] = {
    "NonlinearCG": ao.NonlinearCG,
    "L-BFGS, preconditioned": lambda **options: ao.LBFGS(2, preconditioner=_halved, **options),
    "GradientDescent": ao.GradientDescent,
    "GradientDescent, Armijo": lambda **options: ao.GradientDescent(ao.solvers.Armijo(), **options),
}
"""A solver of each kind; it is given an engine."""

each = pytest.mark.parametrize("method", METHODS)


class Nested:
    """The function of a container of arrays of some library: it is called on the host, with the same bits for all."""

    def __init__(self, lib: Library, dtype: str) -> None:
        self.lib, self.dtype = lib, dtype
        self.values: list[float] = []

    def start(self) -> Any:
        """Parameters that do not move among them."""
        a, b = START[:4].reshape(2, 2).astype(self.dtype), START[4:].astype(self.dtype)
        return {"W": self.lib.asarray(a), "still": self.lib.asarray(np.ones(3, self.dtype)), "b": [self.lib.asarray(b)]}

    def flat(self, params: Any) -> Any:
        """The vector of all that moves, on the host."""
        found: Any = self.lib.values(params)
        return np.concatenate([found["W"].reshape(-1), found["b"][0]])

    def __call__(self, params: Any) -> Any:
        value, grad = rosenbrock(self.flat(params).astype("float64"))
        self.values.append(value)
        W, b = grad[:4].reshape(2, 2).astype(self.dtype), grad[4:].astype(self.dtype)
        return value, {"W": self.lib.asarray(W), "still": None, "b": [self.lib.asarray(b)]}


def _minimized(
    method: Callable[..., Any], function: Any, start: Any, steps: int = 12, **options: Any
) -> ao.solvers.Result:
    return ao.minimize(function, start, method=method(**options), stop=ao.Stop(steps=steps))


@each
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("library", ["numpy", "strict", "torch", "jax", "dask"])
def test_each_library_has_the_same_bits(
    method: str, library: str, dtype: str, need: Callable[[str], Library], quickly: None
) -> None:
    """As many evaluations, and the same value at each of them; what XLA computes, to its rounding.

    A dict of matrices and lists is the vector of all their elements, of which some do not move.
    """
    lib = need(library)
    if dtype not in lib.dtypes:
        pytest.skip(f"{library} has no {dtype}")
    steps = lib.steps(12)
    function, values = Nested(lib, dtype), list[float]()
    result = _minimized(METHODS[method], function, function.start(), steps)

    def flat(x: Any) -> Any:
        value, grad = rosenbrock(x.astype("float64"))
        values.append(value)
        return value, grad.astype(dtype)

    expected = _minimized(METHODS[method], flat, START.astype(dtype), steps)
    assert len(values) > steps
    if library == "jax":
        assert len(function.values) == len(values)
        np.testing.assert_allclose(function.values, values, rtol=1e-3 if dtype == "float32" else 1e-9)
    else:
        assert function.values == values
        assert same_bits(function.flat(result.params), expected.params)
    assert result.evaluations == expected.evaluations
    still: Any = lib.values(result.params)
    np.testing.assert_array_equal(still["still"], 1)


@each
@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_has_the_same_bits(method: str, engine: ao.EngineName) -> None:
    """Those of the rules themselves, as NumPy runs them."""
    found = _minimized(METHODS[method], rosenbrock, START.copy(), engine=engine)
    expected = _minimized(METHODS[method], rosenbrock, START.copy(), engine="portable")
    assert same_bits(found.params, expected.params)
    assert found.history.value == expected.history.value
    assert found.history.value[-1] < 0.25 * found.history.value[0]


@each
def test_a_complex_element_is_two_reals(method: str) -> None:
    """The bits are those of the real vector of all parts."""
    z = START.view("complex128")
    values: list[list[float]] = [[], []]

    def of_complex(z: Any) -> Any:
        value, grad = rosenbrock(z.view("float64"))
        values[0].append(value)
        return value, grad.view("complex128")

    def of_real(x: Any) -> Any:
        value, grad = rosenbrock(x)
        values[1].append(value)
        return value, grad

    found = _minimized(METHODS[method], of_complex, z.copy())
    expected = _minimized(METHODS[method], of_real, START.copy())
    assert values[0] == values[1]
    assert same_bits(found.params.view("float64"), expected.params)


@each
def test_it_goes_on_from_its_state(method: str) -> None:
    """As if it had not been interrupted: the same bits after five and seven steps as after twelve."""
    whole, x = METHODS[method](), START.copy()
    for _ in range(12):
        whole.update(x, rosenbrock)
    solver, y = METHODS[method](), START.copy()
    for _ in range(5):
        solver.update(y, rosenbrock)
    again, z = METHODS[method](), y.copy()
    again.load_state_dict(solver.state_dict(), z)
    for _ in range(7):
        again.update(z, rosenbrock)
    assert same_bits(z, x)
    assert (again.steps, again.evaluations, again.last_value) == (whole.steps, whole.evaluations, whole.last_value)


@each
def test_an_iteration_tells_how_far_it_went(method: str) -> None:
    """Along the parameters, and in lengths of its direction."""
    solver, x = METHODS[method](), START.copy()
    solver.begin(x, rosenbrock)
    for _ in range(3):
        before = x.copy()
        iteration = solver.iterate()
        assert iteration.step_norm == pytest.approx(np.linalg.norm(x - before), rel=1e-12)
        assert iteration.step_length > 0


@each
def test_parameters_that_somebody_moves(method: str) -> None:
    """It begins anew where they are."""
    solver, x = METHODS[method](), START.copy()
    for _ in range(5):
        solver.update(x, rosenbrock)
    x[:] = START
    solver.update(x, rosenbrock)
    assert solver.last_failure is None
    assert solver.last_value == rosenbrock(x)[0] < rosenbrock(START)[0]


@each
@pytest.mark.parametrize("beyond", [math.nan, math.inf])
def test_a_wall(method: str, beyond: float) -> None:
    """Beyond which the function has no value: it stays on this side, and finds the minimum there."""

    def walled(x: Any) -> Any:
        if np.any(x > 1.2):
            return beyond, np.full_like(x, math.nan)
        return float(np.sum((x - 1) ** 2)) / 2, x - 1

    result = ao.minimize(walled, np.array([-40.0, 0.3]), method=METHODS[method](), stop=ao.Stop(gtol=1e-6, steps=200))
    assert result.converged, result.message
    np.testing.assert_allclose(result.params, 1, atol=1e-6)


@each
def test_a_wrong_gradient(method: str) -> None:
    """It is told apart from a minimum: the message says what tells more."""
    result = ao.minimize(lambda x: (float(x @ x), -2 * x), np.ones(3), method=METHODS[method](), stop=ao.Stop(steps=50))
    assert not result.converged
    assert "check_grad" in result.message
    assert same_bits(result.params, np.ones(3))


@each
def test_a_least_value_of_zero_in_float32(method: str) -> None:
    """Near it values have the rounding of what residuals are differences of, and the gradient is not called wrong."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        a = rng.normal(size=(200, 4))
        a, b = a.astype("f4"), (a @ [3.0, -1.0, 0.5, 2.0]).astype("f4")

        def misfit(x: Any, a: Any = a, b: Any = b) -> Any:
            return float((a @ x - b) @ (a @ x - b)) / 2, a.T @ (a @ x - b)

        stop = ao.Stop(gtol=1e-6, steps=2000)
        result = ao.minimize(misfit, np.zeros(4, "f4"), method=METHODS[method](), stop=stop)
        assert "does not fit" not in result.message
        assert result.converged or result.steps == 2000 or "the rounding of a sum" in result.message, result.message
        assert result.value < 1e-8


@pytest.mark.parametrize("large", [1e6, 1e12])
def test_a_wrong_gradient_of_small_terms_is_no_success(large: float) -> None:
    """Beside terms that were so large at first that the rounding of a sum of squares could be as much."""

    def wrong(x: Any) -> Any:
        return np.float32(large * x[0] ** 2 + (x[1] - 3) ** 2 / 2), np.array([2 * large * x[0], 3 - x[1]], "f4")

    result = ao.minimize(wrong, np.array([1, 2], "f4"), method=ao.LBFGS(), stop=ao.Stop(gtol=1e-6, steps=200))
    assert not result.converged, result.message
    assert "gradient" in result.message


@each
def test_nothing_left_to_gain(method: str) -> None:
    """At the minimum, and where nothing moves."""
    there = ao.minimize(lambda x: (float(x @ x), 2 * x), np.zeros(3), method=METHODS[method](), stop=ao.Stop(steps=9))
    assert (there.converged, there.message, there.evaluations) == (True, "the gradient is zero", 1)
    empty = ao.minimize(lambda x: (0.0, {}), {}, method=METHODS[method](), stop=ao.Stop(steps=9))
    assert empty.converged
    assert empty.message.startswith("there is nothing to minimize")


@each
def test_a_gradient_whose_norm_float64_has_not(method: str) -> None:
    """Its square is below the smallest number: said, and not divided by; the parameters stay."""
    x = np.full(2, 3.0)
    stop = ao.Stop(gtol=None, steps=9)
    result = ao.minimize(lambda x: (1e-300 * float(x @ x), 2e-300 * x), x, method=METHODS[method](), stop=stop)
    assert "too small for float64, with a largest element of 6e-300; wanted a larger scale" in result.message
    assert (result.converged, result.steps, x.tolist()) == (False, 0, [3.0, 3.0])


def test_a_gradient_that_falls_below_what_float64_squares() -> None:
    """Where steps have led there, it is the minimum: this one, from 1j, is approached by ever smaller parts."""
    z = {"a": np.full(3, 3, np.float32), "b": np.full(2, 3.0), "c": np.array([1j])}

    def misfit(p: Any) -> tuple[float, Any]:
        return sum(float((abs(a - 1) ** 2).sum()) for a in p.values()), {k: 2 * (a - 1) for k, a in p.items()}

    result = ao.minimize(misfit, z, method=ao.NonlinearCG(), stop=ao.Stop(gtol=None, steps=30))
    assert (result.converged, result.value) == (True, 0.0)
    assert "too small for float64" in result.message


@each
def test_a_step_that_leads_right_to_the_minimum(method: str) -> None:
    """The next one is not thrown off by how far the value fell: it goes on to the last bit."""
    start = np.full(2, 3.0)
    stop = ao.Stop(gtol=1e-100, steps=50)
    result = ao.minimize(lambda x: (float(x @ x), 2 * x), start, method=METHODS[method](), stop=stop)
    assert result.converged or result.steps == 50, result.message
    assert result.value < 1e-30


@each
def test_a_loop_of_ones_own_stops_where_there_is_no_step(method: str) -> None:
    """`last_failure` says why, and the parameters stay."""
    solver, x = METHODS[method](), np.array([3.0, 4.0])
    for _ in range(100):
        solver.update(x, lambda x: (1 + float(x @ x), 2 * x))
        if solver.last_failure is not None:
            assert (
                "as far as the precision goes" in solver.last_failure or solver.last_failure == "the gradient is zero"
            )
            break
    else:  # a search that looks at values alone takes steps that no value tells apart
        assert method == "GradientDescent, Armijo"
    np.testing.assert_allclose(x, 0, atol=1e-7)
