"""Optimizers as solvers: a step for each evaluation, and the best point kept."""

from __future__ import annotations

import math
from typing import Any

from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim.solvers._function import Function, Point, ValueAndGrad
from anyoptim.solvers._solver import Iteration, Run
from anyoptim.solvers._vectors import Kernel

__all__ = ["FirstOrder"]


def _kept(xp: Any, x: Array, p: Array, best: Array, c: Any) -> tuple[Array, ...]:
    """`best <- p`."""
    return p, p


def _given_back(xp: Any, x: Array, p: Array, best: Array, c: Any) -> tuple[Array, ...]:
    """`p <- best`."""
    return best, best


_KEEP, _GIVE_BACK = Kernel(_kept, ("p", "best")), Kernel(_given_back, ("p", "best"))


class FirstOrder:
    """An optimizer or a chain, whose steps need not lower the value: the best point is kept beside."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.run = Run()
        self._point = Point(math.nan, ())
        self._best = math.inf

    def begin(self, params: Any, value_and_grad: ValueAndGrad) -> None:
        """Take these parameters, and call the function where they are."""
        run, function = self.run, Function(params, self.optimizer.engine)
        function.value_and_grad = value_and_grad
        self._point = run.ask(function)
        run.function = function
        run.vectors = {"best": run.space.copied(run.space.params)}
        self._best = self._point.value
        self._measure()

    def iterate(self) -> Iteration:
        """Take one step, and call the function where the parameters are then."""
        run = self.run
        if not run.space.size:
            return Iteration(
                failure="there is nothing to minimize: no parameter has an element that moves", converged=True
            )
        function, grads = run.begun, dict(zip(run.begun.moving or (), self._point.gradients, strict=True))
        of_all = function.tree.build(grads.get(i) for i in range(len(function.ps)))
        function.renew(self.optimizer.update(function.tree.container, of_all))
        self._point = run.ask(function)
        run.numbers["steps"] += 1
        if self._point.value <= self._best or self._best != self._best:
            self._best = self._point.value
            run.space.run(_KEEP, self._point.gradients, [run.space.params, run.vectors["best"]])
        self._measure()
        return Iteration()

    def end(self) -> None:
        """Put the parameters at the best point that was seen."""
        run = self.run
        if run.function is not None and self._point.value != self._best and run.space.size:
            best = run.vectors["best"]
            run.space.run(_GIVE_BACK, best, [run.space.params, best])
            run.begun.put()
            run.numbers["value"] = self._best

    def _measure(self) -> None:
        """Note the value, and what there is to know of the gradient."""
        space, found = self.run.space, self._point
        gradient = space.copied(found.gradients)
        (squared,) = space.products((gradient, gradient))
        largest = space.largest(gradient)
        self.run.numbers |= {"value": found.value, "gradient_squared": squared, "gradient_max": largest}
