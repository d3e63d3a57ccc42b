"""Optimizers as solvers: a step for each evaluation, and the best point kept."""

from __future__ import annotations

import math
from typing import Any

from anyoptim._core._optimizer import Optimizer
from anyoptim.solvers._best import keep_best, take_best
from anyoptim.solvers._function import Function, Point, ValueAndGrad
from anyoptim.solvers._solver import Iteration, Run, hopeless

__all__ = ["FirstOrder"]


class FirstOrder:
    """An optimizer or a chain, whose steps need not lower the value: the best point is kept beside."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.run = Run()
        self._point = Point(math.nan, ())

    def begin(self, params: Any, value_and_grad: ValueAndGrad) -> None:
        """Take these parameters, and call the function where they are."""
        run, function = self.run, Function(params, self.optimizer.engine)
        function.value_and_grad = value_and_grad
        self._point = run.ask(function)
        run.function = function
        run.vectors = {"best": run.space.zeros()}
        keep_best(run, run.space.params, self._point.value)
        self._measure()

    def iterate(self) -> Iteration:
        """Take one step, and call the function where the parameters are then."""
        run, gradients = self.run, self._point.gradients
        run.numbers["value"] = math.nan  # until it is known where the step has led
        run.begun.updated(self.optimizer, gradients)
        self._point = run.ask(run.begun)
        run.numbers["steps"] += 1
        keep_best(run, run.space.params, self._point.value)
        self._measure()
        if math.isnan(run.value):
            return Iteration(failure=f"the value is NaN after step {run.numbers['steps']}")
        return Iteration()

    def hopeless(self) -> Iteration | None:
        """What there is to say where no step can be taken; a stage may move parameters whose gradient is zero."""
        return hopeless(self.run, at_rest=False)

    def end(self) -> None:
        """Put the parameters at the best point that was seen."""
        take_best(self.run)

    def _measure(self) -> None:
        """Note the value, and what there is to know of the gradient."""
        found = self._point
        gradient = self.run.vectors["g"] = [*found.gradients]
        largest, squared = self.run.space.measured((gradient, gradient))
        self.run.numbers |= {"value": found.value, "gradient_squared": squared, "gradient_max": largest}
