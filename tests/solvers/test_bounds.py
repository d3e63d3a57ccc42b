"""Bounds of L-BFGS: as numbers, arrays, containers and None; the active set, the errors, and what is saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize

import anyoptim as ao
from tests.support.libraries import ENGINES, Library

TARGET = np.random.default_rng(0).normal(size=(6, 5))
CURVATURE = np.logspace(0, 2, 30).reshape(6, 5)


def value_and_grad(params: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """A quadratic function, and a quartic coupling of its neighbours."""
    x = params["a"]
    step = x[1:] - x[:-1]
    grad = CURVATURE * (x - TARGET)
    grad[1:] += 4 * step**3
    grad[:-1] -= 4 * step**3
    return float((CURVATURE * (x - TARGET) ** 2).sum() / 2 + (step**4).sum()), {"a": grad}


LOWER = np.where(np.arange(30).reshape(6, 5) % 3, -0.2, -np.inf)

CASES: dict[str, tuple[Any, Any, Any]] = {
    "numbers": ((-0.1, 0.3), -0.1, 0.3),
    "below alone": ((0, None), 0.0, np.inf),
    "above alone": ((None, 0.25), -np.inf, 0.25),
    "none": ((None, None), -np.inf, np.inf),
    "an array in a container": (({"a": LOWER}, 0.5), LOWER, 0.5),
    "a number in a container": (({"a": -0.3}, {"a": None}), -0.3, np.inf),
}
"""Bounds as they are given, and as arrays that SciPy takes."""


@pytest.mark.parametrize("name", CASES)
def test_the_minimum_is_scipys(name: str) -> None:
    """On the very bounds, from a start that is out of them, and with what they hold at them."""
    bounds, lower, upper = CASES[name]
    params = {"a": np.full((6, 5), 9.0)}
    result = ao.minimize(value_and_grad, params, method=ao.LBFGS(bounds=bounds), stop=ao.Stop(gtol=1e-9))
    assert result.converged
    assert result.params is params

    def flat(x: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        value, grads = value_and_grad({"a": x.reshape(6, 5)})
        return value, grads["a"].ravel()

    lows, highs = (np.broadcast_to(of, (6, 5)).ravel() for of in (lower, upper))
    peer = scipy.optimize.minimize(
        flat,
        np.clip(np.full(30, 9.0), lows, highs),
        jac=True,
        method="L-BFGS-B",
        bounds=scipy.optimize.Bounds(lows, highs),
        options={"gtol": 1e-9, "ftol": 0},
    )
    projected = np.clip(params["a"] - value_and_grad(params)[1]["a"], lower, upper) - params["a"]
    assert np.abs(projected).max() <= 1e-9
    # SciPy's search ends where values no longer differ, at the root of their rounding.
    np.testing.assert_allclose(params["a"].ravel(), peer.x, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(params["a"].ravel() == lows, peer.x == lows)
    np.testing.assert_array_equal(params["a"].ravel() == highs, peer.x == highs)


@pytest.mark.own_loops  # those of LBFGS itself are compiled in test_methods.py
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "portable"])
def test_the_same_bits_on_all_engines(engine: Any) -> None:
    """And no trial point is outside. Of twelve pairs two are remembered: Numba compiles a loop of all of them."""
    seen: list[Any] = []

    def looked_at(params: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        seen.append(params["a"].copy())
        return value_and_grad(params)

    found = {}
    for one in ("portable", engine):
        solver, params = ao.LBFGS(2, (-0.2, 0.4), engine=one), {"a": np.zeros((6, 5))}
        for _ in range(12):
            solver.update(params, looked_at)
        found[one] = params["a"]
    assert np.min(seen) >= -0.2
    assert np.max(seen) <= 0.4
    np.testing.assert_array_equal(found["portable"], found[engine])


@pytest.mark.parametrize("name", ["numpy", "strict", "torch", "jax"])
def test_libraries(name: str, need: Callable[[str], Library], quickly: None) -> None:
    """Each takes its own arrays as bounds."""
    lib = need(name)
    low, x = (lib.asarray(np.array(of)) for of in ([0.1, -1.0, 0.3], [0.5, 0.5, 0.5]))
    method, stop = ao.LBFGS(memory_size=2, bounds=(low, None)), ao.Stop(gtol=1e-6)
    result = ao.minimize(lambda x: (lib.xp.sum(x * x), 2 * x), x, method=method, stop=stop)
    np.testing.assert_allclose(lib.tonumpy(result.params), [0.1, 0.0, 0.3], rtol=0, atol=1e-6)


def test_a_saved_state_goes_on_with_the_same_bits() -> None:
    solver, params = ao.LBFGS(bounds=(-0.2, 0.4)), {"a": np.zeros((6, 5))}
    for _ in range(4):
        solver.update(params, value_and_grad)
    again, copy = ao.LBFGS(bounds=(-0.2, 0.4)), {"a": params["a"].copy()}
    again.load_state_dict(solver.state_dict(), copy)
    for _ in range(4):
        solver.update(params, value_and_grad)
        again.update(copy, value_and_grad)
    np.testing.assert_array_equal(params["a"], copy["a"])
    assert again.evaluations == solver.evaluations


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        (3, TypeError, "bounds is 3; wanted a pair, the lower and the upper bounds"),
        ((1, 0), ValueError, r"bounds\[0\] is 1 and bounds\[1\] is 0; wanted the lower one first"),
        ((1, {"a": 0}), ValueError, r"bounds leave no number, for some elements; wanted bounds\[0\] at most bounds"),
        ((np.inf, None), ValueError, "bounds leave no number"),
        ((None, {"a": -np.inf}), ValueError, "bounds leave no number"),
        ((np.nan, None), ValueError, r"bounds\[0\] is nan; wanted a number and not NaN"),
        (({"b": 0}, None), ValueError, r"bounds\[0\]\['b'\] has no match in params"),
        (({}, None), ValueError, r"bounds\[0\]\['a'\] is missing"),
        (({"a": np.zeros(3)}, None), ValueError, r"params\['a'\] has shape \(6, 5\) but bounds\[0\]\['a'\] has shape"),
    ],
)
def test_other_bounds_are_refused(bounds: Any, error: type[Exception], message: str) -> None:
    """Before the function is called."""
    params = {"a": np.ones((6, 5))}
    with pytest.raises(error, match=message):
        ao.minimize(lambda _: pytest.fail("it is called"), params, method=ao.LBFGS(bounds=bounds))
    np.testing.assert_array_equal(params["a"], 1)


@pytest.mark.parametrize("params", [{}, (), np.zeros(0)])
def test_bounds_of_nothing(params: Any) -> None:
    result = ao.minimize(lambda p: (0.0, p), params, method=ao.LBFGS(bounds=(-5, 5)))
    assert result.message.startswith("there is nothing to minimize")


@pytest.mark.parametrize("wrong", [lambda _: (1.0, {"a": np.ones(3)}), lambda _: 1 / 0])
def test_nothing_is_written_where_the_first_evaluation_fails(wrong: Any) -> None:
    """Although it is called within the bounds."""
    params = {"a": np.full(2, 5.0)}
    with pytest.raises((ValueError, ZeroDivisionError)):
        ao.minimize(wrong, params, method=ao.LBFGS(bounds=(0, 1)))
    assert params["a"].tolist() == [5, 5]


def test_a_parameter_without_a_gradient_stays_out_of_bounds() -> None:
    params = {"a": np.full(2, 5.0), "fixed": np.array([9.0])}
    result = ao.minimize(
        lambda p: (float(p["a"] @ p["a"]), {"a": 2 * p["a"], "fixed": None}), params, method=ao.LBFGS(bounds=(0.5, 1))
    )
    assert (result.params["a"].tolist(), result.params["fixed"].tolist()) == ([0.5, 0.5], [9])


def test_complex_parameters_have_none() -> None:
    with pytest.raises(TypeError, match="params has dtype complex128; wanted real numbers, which bounds are for"):
        ao.minimize(lambda x: (0.0, x), np.zeros(2, complex), method=ao.LBFGS(bounds=(0, 1)))


@pytest.mark.parametrize("engine", [None, *ENGINES])
@pytest.mark.parametrize("high", [1.0, np.array(1.0)])
def test_an_array_of_no_axis(engine: Any, high: Any) -> None:
    result = ao.minimize(
        lambda x: (float(x * x - 4 * x), 2 * x - 4), np.array(0.5), method=ao.LBFGS(bounds=(0, high), engine=engine)
    )
    assert result.params == 1
