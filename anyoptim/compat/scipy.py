"""Solvers and optimizers as methods of `scipy.optimize.minimize`."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np

from anyoptim._core._optimizer import Optimizer
from anyoptim.solvers import Result, Solver, Stop, minimize

__all__ = ["method"]

_DEFAULTS = {"gtol": 1e-5, "ftol": 2.2e-9, "maxiter": 15000, "maxfun": 15000}
"""SciPy's, of L-BFGS-B."""


def method(solver: Solver | Optimizer) -> Callable[..., Any]:
    """A solver, an optimizer or a chain, to be given to `scipy.optimize.minimize` as its `method`.

    Each call begins anew, with a copy. `fun` takes `args`; its gradient is wanted: `jac=True` or a function. `x0` keeps
    a dtype of real or complex floating-point numbers. `callback` is called in both of SciPy's forms, and may raise
    StopIteration. `bounds` are taken where the solver takes them, and `constraints` are refused.

    The options are `gtol`, `ftol`, `maxiter` and `maxfun`, with the meaning and the defaults that they have for SciPy's
    L-BFGS-B, but that the gradient is looked at before the value; `xrtol` as for its BFGS; and `disp`. `tol` stands for
    `gtol` and `ftol`. Other options, and second derivatives, are not used, and SciPy's warnings say so.

    The result is SciPy's OptimizeResult with `x`, `fun`, `jac`, `nit`, `nfev`, `njev`, `success`, `status` and
    `message`. The status is 0 where the solver has converged, 1 where `maxiter` or `maxfun` was reached, 99 where the
    callback has stopped it, and else 2.

    >>> from scipy import optimize
    >>> method = ao.compat.scipy.method(ao.LBFGS())
    >>> found = optimize.minimize(optimize.rosen, [-1.2, 1.0], jac=optimize.rosen_der, method=method)
    >>> found.x.round(4), found.success
    (array([1., 1.]), True)
    """
    if not isinstance(solver, Solver | Optimizer):
        raise TypeError(f"solver is {solver!r}; wanted a solver, such as ao.LBFGS(), or an optimizer")

    def minimized(
        fun: Callable[..., Any],
        x0: Any,
        args: tuple[Any, ...] = (),
        *,
        jac: Any = None,
        hess: Any = None,
        hessp: Any = None,
        bounds: Any = None,
        constraints: Any = (),
        callback: Callable[..., object] | None = None,
        **options: Any,
    ) -> Any:
        """What `scipy.optimize.minimize` calls."""
        from scipy.optimize import OptimizeResult  # noqa: PLC0415 - only who has SciPy calls this

        if not callable(jac):
            raise ValueError(f"jac is {jac!r}; wanted True, where fun gives the gradient too, or a function")
        if np.size(constraints) or isinstance(constraints, dict):
            raise ValueError(f"constraints are {constraints!r}; wanted none, which {solver!r} can't keep to")
        if hess is not None or hessp is not None:
            warnings.warn(f"{solver!r} does not use Hessian information (hess, hessp)", RuntimeWarning, stacklevel=3)
        x = np.array(x0, dtype=None if np.asarray(x0).dtype.kind in "fc" else float)
        own = _anew(solver) if bounds is None else _bounded(solver, bounds, x)
        shown = options.pop("disp", False)
        stop = _stop(options)
        asked = _Asked(fun, jac, args)
        told = None if callback is None else _Told(callback, OptimizeResult)
        result = minimize(asked, x, method=own, stop=stop, callback=told)
        if shown:
            print(result)
        status = 2
        if told is not None and told.stopped:
            status = 99
        elif result.converged:
            status = 0
        elif result.steps >= _limit(stop.steps) or result.evaluations >= _limit(stop.evaluations):
            status = 1
        return OptimizeResult(
            x=result.params,
            fun=result.value,
            jac=asked.gradient(result.params),
            nit=result.steps,
            nfev=asked.calls,
            njev=asked.calls,
            success=result.converged,
            status=status,
            message=result.message,
        )

    return minimized


class _Asked:
    """The function and its gradient, at copies of x, as SciPy calls them; it keeps the gradient at the lowest value."""

    def __init__(self, fun: Callable[..., Any], jac: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.fun, self.jac, self.args = fun, jac, args
        self.lowest = math.inf
        self.at: Any = None
        self.best: Any = None
        self.calls = 0

    def __call__(self, x: Any) -> tuple[Any, Any]:
        self.calls += 1
        value = self.fun(x.copy(), *self.args)
        gradient = np.atleast_1d(np.array(self.jac(x.copy(), *self.args), dtype=x.dtype))
        if self.best is None or np.all(value <= self.lowest):
            self.lowest, self.at, self.best = value, x.copy(), gradient
        return value, gradient

    def gradient(self, x: Any) -> Any:
        """That at x: it is asked for again where another point had the lowest value."""
        return self.best if np.array_equal(x, self.at) else self(x)[1]


class _Told:
    """A callback in one of SciPy's two forms: of `intermediate_result`, or of x."""

    def __init__(self, callback: Callable[..., object], result: Callable[..., Any]) -> None:
        self.callback, self.result = callback, result
        self.named = set(inspect.signature(callback).parameters) == {"intermediate_result"}
        self.stopped = False

    def __call__(self, result: Result) -> None:
        x = result.params.copy()
        try:
            if self.named:
                self.callback(intermediate_result=self.result(x=x, fun=result.value))
            else:
                self.callback(x)
        except StopIteration:
            self.stopped = True
            raise


def _anew(solver: Solver | Optimizer, **changed: Any) -> Solver | Optimizer:
    """A solver with the same arguments but for those, which knows nothing yet; an optimizer with its state."""
    if isinstance(solver, Optimizer):
        return deepcopy(solver)
    return type(solver)(**{**solver._arguments, **changed})


def _bounded(solver: Solver | Optimizer, bounds: Any, x: Any) -> Solver | Optimizer:
    """The solver with SciPy's bounds: an object with `lb` and `ub`, or a pair for each element, with None for none."""
    if isinstance(solver, Optimizer) or "bounds" not in solver._arguments:
        raise ValueError(f"bounds are {bounds!r}; wanted none, which {solver!r} can't keep to")
    if hasattr(bounds, "lb"):
        low, high = (np.broadcast_to(np.asarray(of, x.dtype), x.shape) for of in (bounds.lb, bounds.ub))
    else:
        pairs = [(-np.inf if a is None else a, np.inf if b is None else b) for a, b in bounds]
        if len(pairs) != x.size:
            raise ValueError(f"bounds are {len(pairs)} pairs; wanted one for each of the {x.size} elements of x0")
        low, high = np.array(pairs, x.dtype).T
    return _anew(solver, bounds=(low.copy(), high.copy()))


def _stop(options: dict[str, Any]) -> Stop:
    """SciPy's options as a condition."""
    tol = options.pop("tol", None)
    of = _DEFAULTS | ({} if tol is None else {"gtol": tol, "ftol": tol})
    of |= {name: options.pop(name) for name in _DEFAULTS if options.get(name) is not None}
    xrtol = options.pop("xrtol", None)
    if unknown := [name for name, value in options.items() if value is not None]:
        from scipy.optimize import OptimizeWarning  # noqa: PLC0415

        warnings.warn(f"Unknown solver options: {', '.join(unknown)}", OptimizeWarning, stacklevel=4)
    return Stop(gtol=of["gtol"], ftol=of["ftol"], steps=of["maxiter"], evaluations=of["maxfun"], xtol=xrtol or None)


def _limit(count: int | None) -> float:
    return math.inf if count is None else count
