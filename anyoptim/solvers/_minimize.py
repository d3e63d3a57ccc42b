"""`minimize`: iterations until a condition holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from anyoptim._core._optimizer import Optimizer
from anyoptim._search._progress import bar
from anyoptim._search._result import History, Progress, Record, Result
from anyoptim._search._stop import Condition, Stop
from anyoptim.solvers._first_order import FirstOrder
from anyoptim.solvers._function import ValueAndGrad, check_function
from anyoptim.solvers._solver import Iteration, Solver

__all__ = ["minimize"]


def minimize(
    value_and_grad: ValueAndGrad,
    params: Any,
    *,
    method: Solver | Optimizer,
    stop: Condition | None = None,
    callback: Callable[[Result], object] | None = None,
    progress: bool = False,
) -> Result:
    """Minimize a function of `params`, from its value and its gradient, until a condition holds.

    Args:
        value_and_grad: the function. It is called with the parameters at each trial point, and gives the value, a
            number or an array of one element, and the gradients, in a container with the keys of `params`, as
            `Optimizer.update` takes them; a parameter whose gradient is None does not move.
        params: where to begin: a dict, list, tuple, any nest of them, or an array, of any library. Arrays are written
            to at each trial point where that is possible, and else replaced in their container or, where that can't be
            given other arrays, in a new one.
        method: a solver, such as `LBFGS`, which begins anew; or an optimizer or a chain, which goes on with its state.
        stop: when to stop; `Stop()` if it is None. A method that can take no step stops, too.
        callback: called after each step with a `Result` of what is known so far; it may raise StopIteration. The
            parameters in it are those that the method goes on with, and must not be written to.
        progress: whether to show a bar, by tqdm or rich, if one of them is installed.

    Returns:
        A `Result`, which tells the value, why it has stopped, and the history of all steps.

    The parameters end at the best point that was seen, also where an exception comes in between: Ctrl-C, or one of the
    function or the callback, which goes on; those of `ProximalGradient` end where its last step has led. Raises what
    `Optimizer.update` raises for parameters and gradients, TypeError for a value that is no real number.

    >>> result = ao.minimize(lambda x: (float(x @ x), 2 * x), np.array([3.0, 4.0]), method=ao.LBFGS())
    >>> result.params, result.converged, result.message
    (array([0., 0.]), True, 'the largest element of the gradient, 0, is at most gtol = 1e-05')
    """
    if not isinstance(method, Solver | Optimizer):
        raise TypeError(f"method is {method!r}; wanted a solver, such as ao.LBFGS(), or an optimizer")
    check_function(value_and_grad)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is {callback!r}; wanted a function of a result")
    condition = Stop() if stop is None else stop
    if not isinstance(condition, Condition):
        raise TypeError(f"stop is {stop!r}; wanted conditions, such as ao.Stop(gtol=1e-6) | ao.Stop(steps=500)")
    solver: Solver | FirstOrder
    if isinstance(method, Optimizer):
        solver = FirstOrder(method)
    else:
        solver = method
        solver.check_free()
        solver.restart()
    began = time.perf_counter()
    solver.begin(params, value_and_grad)
    try:
        with bar(condition) if progress else nullcontext(_unseen) as show:
            message, converged, history = _iterated(solver, condition, callback, show, began)
    finally:
        solver.end()
    return _result(solver, message, converged, history)


def _iterated(
    solver: Solver | FirstOrder,
    condition: Condition,
    callback: Callable[[Result], object] | None,
    show: Callable[[Progress], None],
    began: float,
) -> tuple[str, bool, History]:
    """Iterate until a condition holds. Returns why, whether that is convergence, and the history."""
    run, history, values = solver.run, History(), list[float]()
    iteration = Iteration()
    while True:
        now = run.progress(
            iteration,
            params_norm=condition.looks_at_params,
            previous=values[-1] if values else math.nan,
            seconds=time.perf_counter() - began,
            values=values,
        )
        values.append(now.value)
        history.append(Record(now.value, now.gradient_norm, now.step_length, now.evaluations, now.seconds))
        show(now)
        told = solver.hopeless() if len(values) == 1 else None
        reason = condition.reason(now) if told is None else (str(told.failure), told.converged)
        if callback is not None and len(values) > 1:
            try:
                callback(_result(solver, *(reason or ("it goes on", False)), History(history)))
            except StopIteration:
                return "the callback has stopped it", False, history
        if reason is not None:
            return *reason, history
        iteration = solver.iterate()
        if iteration.failure is not None:
            return iteration.failure, iteration.converged, history


def _result(solver: Solver | FirstOrder, message: str, converged: bool, history: History) -> Result:
    numbers = solver.run.numbers
    container = solver.run.begun.tree.container
    return Result(container, solver.run.value, numbers["steps"], numbers["evaluations"], converged, message, history)


def _unseen(progress: Progress) -> None:
    """Show nothing."""
