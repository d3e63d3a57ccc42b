"""compat.scipy.method: solvers as methods of `scipy.optimize.minimize`, called as SciPy calls its own."""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np
import pytest
from scipy import optimize

import anyoptim as ao

START = np.array([-1.2, 1.0, -1.2, 1.0])


def both(x: Any, *scale: float) -> tuple[float, Any]:
    """Rosenbrock's function with its gradient."""
    k = scale[0] if scale else 1.0
    return k * float(optimize.rosen(x)), k * optimize.rosen_der(x)


def minimized(solver: Any = None, x0: Any = START, fun: Any = both, jac: Any = True, **more: Any) -> Any:
    method = ao.compat.scipy.method(solver or ao.LBFGS())
    return optimize.minimize(fun, x0, jac=jac, method=method, **more)


def test_result_is_that_of_minimize() -> None:
    """The same iterates as without SciPy between, and all that SciPy's own methods tell."""
    calls: list[Any] = []

    def counted(x: Any) -> tuple[float, Any]:
        calls.append(x)
        return both(x)

    found = minimized(fun=counted)
    ours = ao.minimize(both, START.copy(), method=ao.LBFGS())
    theirs = optimize.minimize(both, START, jac=True, method="L-BFGS-B")
    assert np.array_equal(found.x, ours.params)
    assert (found.fun, found.nit, found.nfev) == (ours.value, ours.steps, ours.evaluations)
    assert found.nfev == found.njev == len(calls)
    assert np.array_equal(found.jac, optimize.rosen_der(found.x))
    assert found.success
    assert found.status == 0
    assert found.message == ours.message
    assert {*theirs} - {"hess_inv"} == {*found}
    np.testing.assert_allclose(found.x, theirs.x, atol=1e-4)  # both stop at a change of the value by 2.2e-9
    assert np.array_equal(START, [-1.2, 1.0, -1.2, 1.0]), "x0 was written to"
    for a, b in itertools.pairwise(calls):
        assert not np.shares_memory(a, b), "a function that keeps its x would see it change"


def test_optimizers_give_the_gradient_at_the_best_point() -> None:
    """Which is not the last one where the value has risen."""
    found = minimized(ao.Momentum(0.002), options={"maxiter": 2})
    assert found.nit == 2
    assert found.status == 1
    assert not found.success
    values = ao.minimize(both, START.copy(), method=ao.Momentum(0.002), stop=ao.Stop(steps=2)).history.value
    assert found.fun == min(values) < values[-1]
    assert np.array_equal(found.jac, optimize.rosen_der(found.x))


def test_each_call_begins_anew() -> None:
    """What is given to `method` is copied: neither a solver's memory nor an optimizer's state goes on."""
    for solver in (ao.LBFGS(), ao.Adam(0.1)):
        method = ao.compat.scipy.method(solver)
        first, second = (
            optimize.minimize(both, START, jac=True, method=method, options={"maxiter": 9}) for _ in range(2)
        )
        assert np.array_equal(first.x, second.x)
        assert first.nfev == second.nfev
        assert getattr(solver, "steps", 0) == 0


def test_gradient_as_a_function_and_args() -> None:
    alone = minimized(fun=both, args=(3.0,))
    apart = minimized(fun=lambda x, k: both(x, k)[0], jac=lambda x, k: list(both(x, k)[1]), args=(3.0,))
    assert np.array_equal(alone.x, apart.x)
    assert alone.nfev == apart.nfev
    assert alone.nfev != minimized(fun=both).nfev or alone.fun != minimized(fun=both).fun


@pytest.mark.parametrize(
    ("x0", "dtype"), [([3, -2], "float64"), (np.array([3, -2], "float32"), "float32"), (2j, "complex128")]
)
def test_dtypes_of_x0(x0: Any, dtype: str) -> None:
    """Integers become float64, as in SciPy; other numbers keep their dtype."""
    found = minimized(x0=x0, fun=lambda x: (float(np.vdot(x, x).real), 2 * x))
    assert found.x.dtype == dtype
    assert found.x.ndim == 1
    np.testing.assert_allclose(found.x, 0, atol=1e-15)  # a rounding of x0


def test_callbacks_in_both_forms() -> None:
    """Of x and of `intermediate_result`: copies, after each step."""
    xs: list[Any] = []
    results: list[Any] = []

    def named(intermediate_result: Any) -> None:
        results.append(intermediate_result)

    found = minimized(callback=xs.append)
    minimized(callback=named)
    assert len(xs) == len(results) == found.nit
    assert np.array_equal(xs, [result.x for result in results])
    assert [result.fun for result in results] == [optimize.rosen(x) for x in xs]
    assert np.array_equal(xs[-1], found.x)


def test_a_callback_stops() -> None:
    def stop(x: Any) -> None:
        raise StopIteration

    found = minimized(callback=stop)
    assert (found.nit, found.status, found.success) == (1, 99, False)


@pytest.mark.parametrize(
    ("options", "status"),
    [({"maxiter": 3}, 1), ({"maxfun": 5}, 1), ({"gtol": 1e3}, 0), ({"ftol": 0.9}, 0), ({"xrtol": 0.9, "ftol": 0}, 0)],
)
def test_options_are_conditions(options: dict[str, float], status: int) -> None:
    """Each is what ends the run, which goes on without it."""
    found = minimized(options=options)
    assert found.status == status
    assert found.nit < 10 < minimized().nit
    names = {"maxiter": "steps", "maxfun": "evaluations", "xrtol": "xtol"}
    assert any(names.get(name, name) in found.message for name in options)


def test_tol_is_for_both() -> None:
    assert minimized(tol=1e-2).nfev == minimized(options={"gtol": 1e-2, "ftol": 1e-2}).nfev < minimized().nfev


def test_shows_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    minimized(options={"disp": True})
    assert "converged after" in capsys.readouterr().out


def test_a_function_that_can_not_be_minimized_fails() -> None:
    """One without a value at x0: neither convergence nor a limit."""
    found = minimized(fun=lambda x: (np.nan, x))
    assert (found.status, found.success, found.nfev) == (2, False, 1)
    assert "wanted a finite one" in found.message


def test_what_is_not_used_is_said() -> None:
    with pytest.warns(optimize.OptimizeWarning, match="maxcor"):
        minimized(options={"maxcor": 10})
    with pytest.warns(RuntimeWarning, match="Hessian"):
        minimized(hess=optimize.rosen_hess)


class Bounded(ao.solvers.Solver):
    """A solver that takes bounds, and puts its parameters within at once."""

    bounds: Final[Any] = None

    def iteration(self, run: Any) -> Any:
        run.space.params[0][:] = np.clip(run.space.params[0], *self.bounds)
        return ao.solvers.Iteration(failure="they are within")


@pytest.mark.parametrize("bounds", [optimize.Bounds(2.0, [np.inf] * 4), [(2, None)] * 4, [(2.0, np.inf)] * 4])
def test_bounds_are_passed_on(bounds: Any) -> None:
    """In both of SciPy's forms, as two arrays."""
    assert np.array_equal(minimized(Bounded(), bounds=bounds).x, [2.0] * 4)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"jac is None; wanted True"):
        minimized(jac=None)
    with pytest.raises(ValueError, match=r"constraints are .* wanted none"):
        minimized(constraints={"type": "eq", "fun": sum})
    with pytest.raises(ValueError, match=r"bounds are .* wanted none, which Adam"):
        minimized(ao.Adam(), bounds=[(0, 1)] * 4)
    with pytest.raises(ValueError, match=r"bounds are 3 pairs; wanted one for each of the 4 elements"):
        minimized(Bounded(), bounds=[(0, 1)] * 3)
    with pytest.raises(TypeError, match=r"solver is 'bfgs'; wanted a solver"):
        ao.compat.scipy.method("bfgs")  # type: ignore[arg-type]


def test_under_basinhopping() -> None:
    """What calls `minimize` takes it as any other method."""
    found = optimize.basinhopping(
        lambda x: (float(np.sum(x**2 - np.cos(9 * x))), 2 * x + 9 * np.sin(9 * x)),
        np.array([2.0, -1.5]),
        niter=30,
        rng=1,
        minimizer_kwargs={"jac": True, "method": ao.compat.scipy.method(ao.LBFGS())},
    )
    np.testing.assert_allclose(found.x, 0, atol=1e-4)


@pytest.mark.parametrize("kind", ["strays", "asks elsewhere"])
def test_the_gradient_is_that_of_x(kind: str) -> None:
    """Whether the last step has climbed, or the lowest value was at a point that is no result."""
    if kind == "strays":
        solver = ao.compat.torch.LBFGS(lr=2.1, max_iter=1)
        found = minimized(solver, [1.0], lambda x: (float(x @ x), 2 * x), options={"maxiter": 3})
        assert np.array_equal(found.jac, 2 * found.x)
    else:
        found = minimized(ao.ProximalGradient(ao.prox.L1(1e-9), 1e-3, restarts=False), options={"maxiter": 7})
        assert np.array_equal(found.jac, optimize.rosen_der(found.x))
