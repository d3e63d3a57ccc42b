"""Backtracking."""

from __future__ import annotations

from typing import ClassVar, Final

from anyoptim._search.line_searches._interpolation import Trial
from anyoptim._search.line_searches._line_search import Asked, Inside, LineSearch, Trials, falls

__all__ = ["Armijo"]


class Armijo(LineSearch):
    """Backtracking: the first step length in a geometric row at which the value has fallen enough.

    ::

        t <- shrink*t until f(t) <= f(0) + c1*t*f'(0)

    It looks at no slope but the first, so that a method that needs values alone is given no gradients for trials.

    Args:
        c1: which part of the fall that the first slope promises is enough, above 0 and below 1.
        shrink: by what a step length is multiplied, above 0 and below 1.
        evaluations: how many step lengths are tried at most.

    Source: Nocedal and Wright, Numerical optimization, 2006, algorithm 3.1; Armijo, Minimization of functions having
    Lipschitz continuous first partial derivatives, 1966.

    >>> steps = ao.solvers.Armijo().steps(1.0, -2.0, first=4.0)
    >>> next(steps), steps.send((9.0, 6.0)), steps.send((1.0, 2.0))  # of (1 - t)**2
    (4.0, 2.0, 1.0)
    """

    c1: Final[Inside] = 1e-4
    shrink: Final[Inside] = 0.5

    needs_slope: ClassVar[bool] = False

    def accepts(self, start: Trial, trial: Trial) -> bool:
        """Whether the value has fallen enough."""
        return falls(start, trial, self.c1)

    def search(self, trials: Trials, first: float) -> Asked[None]:
        """Try `first`, then shorter and shorter ones."""
        while True:
            trial = yield from trials.at(first)
            first = self.shrink * trial.t
