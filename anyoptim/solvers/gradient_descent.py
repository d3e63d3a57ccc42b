"""Gradient descent."""

from __future__ import annotations

import math
from typing import Final

from anyoptim._search.line_searches import LineSearch
from anyoptim._trace._hyperparameters import positive
from anyoptim.solvers._best import keep_best, take_best
from anyoptim.solvers._line import Line
from anyoptim.solvers._solver import TAKE, Iteration, Run, Solver
from anyoptim.solvers.step_rules import BarzilaiBorwein, Descent, Fixed, Searched, StepRule

__all__ = ["GradientDescent"]


class GradientDescent(Solver):
    """Gradient descent: steps along the negative gradient, with step lengths by a rule.

    ::

        p <- p - t*g

    Rules are `ao.solvers.BarzilaiBorwein()`, which is much the fastest, `ao.solvers.Polyak(minimum)`, a line search
    such as `ao.solvers.Armijo()`, and a number: of a convex quadratic function with the largest curvature L, 1/L lowers
    the value in each step, and anything below 2/L leads to the minimum. `ao.lipschitz` finds L. For a rule of your own
    there is `ao.solvers.StepRule`. Where the value is not finite after a step, the step is shortened.

    Memory: 2 arrays for each parameter, in its compute dtype, and a third one for the best point, if the value may rise
    from step to step. The parameters are at that point at the end of `ao.minimize` and after an exception; in a loop of
    your own they are where the last step has led.

    Args:
        step: a rule, a line search or a number above 0.
        engine: the machine that adds and multiplies vectors, as in `Optimizer`; None chooses.

    Raises TypeError or ValueError for another `step`.

    Source: Cauchy, Méthode générale pour la résolution des systèmes d'équations simultanées, 1847; of each rule, there.

    >>> curvature = np.array([1.0, 10.0])
    >>> method = ao.GradientDescent()
    >>> result = ao.minimize(lambda x: (float(curvature @ x**2) / 2, curvature * x), np.ones(2), method=method)
    >>> result.value < 1e-9, result.converged
    (True, True)
    """

    step: Final[StepRule | LineSearch | float] = BarzilaiBorwein()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.step, StepRule | LineSearch):
            positive.value("step", self.step)

    @property
    def rule(self) -> StepRule:
        """The rule for step lengths; a line search or a number as one."""
        if isinstance(self.step, StepRule):
            return self.step
        return Searched(self.step) if isinstance(self.step, LineSearch) else Fixed(float(self.step))

    def kept_vectors(self) -> tuple[str, ...]:
        return () if self.rule.descends else ("best",)

    def first(self, run: Run) -> None:
        run.numbers |= {"values": [], "best": math.inf, **dict.fromkeys(_OF_STEPS, math.nan)}

    def moved(self, run: Run) -> None:
        self.first(run)

    def iteration(self, run: Run) -> Iteration:
        rule, numbers = self.rule, run.numbers
        if not numbers["values"]:
            numbers["values"] = [run.value]
        squared = numbers["gradient_squared"]
        length = rule.length(Descent(run.value, squared, numbers["steps"], *(numbers[name] for name in _OF_STEPS)))
        if not 0 < length < math.inf:
            return self._failed(run, f"{rule!r} gives {length:.3g} as a step length", length == 0)
        line = Line(run, run.vectors["g"], -squared, scale=-1.0)
        try:
            found = line.search(rule.search, length, below=max(numbers["values"]))
        except BaseException:
            take_best(run)
            raise
        if not found:
            return self._failed(run, *line.failure())
        start, last = line.trials[0], line.last
        numbers |= {
            "step_length": last.t,
            "fall": start.value - last.value,
            "before": squared,
            "between": -last.slope,
        }
        if last.value > start.value and not rule.descends:
            keep_best(run, run.vectors["origin"], start.value)
        run.space.run(TAKE, line.point.gradients, [run.space.params, run.vectors["origin"], run.vectors["g"]])
        run.measure(last.value)
        numbers["values"] = [*numbers["values"], last.value][-rule.memory :]
        return Iteration(last.t, last.t * math.sqrt(squared))

    def _failed(self, run: Run, failure: str, converged: bool) -> Iteration:
        self.end()
        return Iteration(failure=failure, converged=converged)

    def end(self) -> None:
        """Put the parameters at the best point that was seen."""
        take_best(self.run)


_OF_STEPS = ("step_length", "fall", "before", "between")
