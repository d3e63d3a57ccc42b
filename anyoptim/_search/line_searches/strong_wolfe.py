"""The line search of Nocedal and Wright's book."""

from __future__ import annotations

import math
from typing import Final

from anyoptim._search.line_searches._interpolation import Trial, cubic, theta
from anyoptim._search.line_searches._line_search import (
    Asked,
    Inside,
    LineSearch,
    Trials,
    check_wolfe,
    falls,
    strong_wolfe,
)

__all__ = ["StrongWolfe"]


class StrongWolfe(LineSearch):
    """The line search of Nocedal and Wright, for the strong Wolfe conditions, by cubic interpolation.

    ::

        f(t) <= f(0) + c1*t*f'(0)       the value has fallen enough
        |f'(t)| <= c2*|f'(0)|           and the slope is small

    Step lengths grow until one lies beyond what is looked for; then the interval between it and the one before shrinks.
    Each trial is where the cubic through values and slopes at two points has its minimum, but at least a tenth of the
    interval away from its ends, and its middle where two trials have not shrunk it to two thirds.

    Args:
        c1: which part of the fall that the first slope promises is enough, above 0 and below 1.
        c2: which part of the first slope is small, at least c1 and below 1; 0.1 for conjugate gradients.
        evaluations: how many step lengths are tried at most.

    Source: Nocedal and Wright, Numerical optimization, 2006, algorithms 3.5 and 3.6 and equation 3.59.

    >>> steps = ao.solvers.StrongWolfe().steps(1.0, -2.0, first=4.0)
    >>> next(steps), steps.send((9.0, 6.0))  # of (1 - t)**2
    (4.0, 1.0)
    """

    c1: Final[Inside] = 1e-4
    c2: Final[Inside] = 0.9

    def __post_init__(self) -> None:
        check_wolfe(self.c1, self.c2)

    def accepts(self, start: Trial, trial: Trial) -> bool:
        """Whether both conditions hold."""
        return strong_wolfe(start, trial, self.c1, self.c2)

    def search(self, trials: Trials, first: float) -> Asked[None]:
        """Let the step length grow until there is an interval (algorithm 3.5)."""
        before, t = trials.start, first
        while True:
            trial = yield from trials.at(t, before.t)
            if not falls(trials.start, trial, self.c1) or trial.value >= before.value:
                yield from self._zoom(trials, before, trial)
                return
            if trial.slope >= 0:
                yield from self._zoom(trials, trial, before)
                return
            if trial.t == trials.longest:
                return
            least, most = trial.t + (trial.t - before.t), trial.t + 9.0 * (trial.t - before.t)
            best = cubic(before, trial, theta(before, trial))
            before, t = trial, min(max(best, least), most) if best > trial.t else most

    def _zoom(self, trials: Trials, low: Trial, high: Trial) -> Asked[None]:
        """Let the interval shrink (algorithm 3.6); `low` has the lowest value that has fallen enough."""
        last = before = math.inf
        while True:
            width = high.t - low.t
            if abs(width * low.slope) <= 1e-16 * abs(low.value):  # no value could tell the ends apart
                return
            share = (cubic(low, high, theta(low, high)) - low.t) / width
            if share != share or abs(width) > 2 / 3 * before:
                share = 0.5
            before, last = last, abs(width)
            trial = yield from trials.at(low.t + min(max(share, 0.1), 0.9) * width, low.t)
            if not falls(trials.start, trial, self.c1) or trial.value >= low.value:
                high = trial
            else:
                high = low if trial.slope * width >= 0 else high
                low = trial
