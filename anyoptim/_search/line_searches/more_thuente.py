"""The line search of Moré and Thuente, as L-BFGS-B has it."""

from __future__ import annotations

from typing import Final

from anyoptim._search.line_searches._interpolation import Trial, cubic, over, root, secant, theta
from anyoptim._search.line_searches._line_search import (
    Asked,
    Inside,
    LineSearch,
    Trials,
    check_wolfe,
    falls,
    strong_wolfe,
)

__all__ = ["MoreThuente"]


class MoreThuente(LineSearch):
    """The line search of Moré and Thuente, for the strong Wolfe conditions; that of L-BFGS-B and of MINPACK-2.

    ::

        f(t) <= f(0) + c1*t*f'(0)       the value has fallen enough
        |f'(t)| <= c2*|f'(0)|           and the slope is small

    It keeps an interval around a step length for which both hold, between the best one so far and another, and tries
    the minimum of a cubic or a quadratic through values and slopes at its ends. As long as no value has fallen enough,
    it does that for psi(t) = f(t) - f(0) - c1*t*f'(0). Step lengths are those of MINPACK-2, bit for bit, if all values
    and slopes are finite.

    Args:
        c1: which part of the fall that the first slope promises is enough, above 0 and below 1.
        c2: which part of the first slope is small, at least c1 and below 1; 0.1 for conjugate gradients.
        xtol: an interval that is shorter than this part of its larger end is not searched further.
        evaluations: how many step lengths are tried at most.

    Source: Moré and Thuente, Line search algorithms with guaranteed sufficient decrease, 1994, sections 2 to 4; the
    defaults are those of L-BFGS-B.

    >>> steps = ao.solvers.MoreThuente().steps(1.0, -2.0, first=4.0)
    >>> next(steps), steps.send((9.0, 6.0))  # of (1 - t)**2
    (4.0, 1.0)
    >>> steps.send((0.0, 0.0))
    Traceback (most recent call last):
        ...
    StopIteration: True
    """

    c1: Final[Inside] = 1e-3
    c2: Final[Inside] = 0.9
    xtol: Final[Inside] = 0.1

    def __post_init__(self) -> None:
        check_wolfe(self.c1, self.c2)

    def accepts(self, start: Trial, trial: Trial) -> bool:
        """Whether both conditions hold."""
        return strong_wolfe(start, trial, self.c1, self.c2)

    def search(self, trials: Trials, first: float) -> Asked[None]:
        """Narrow the interval between x, the best trial, and y, or let it grow as long as it has no other end."""
        x = y = trials.start
        enough = self.c1 * trials.start.slope
        low, high = 0.0, first + 4.0 * first
        width = 2.0 * trials.longest, trials.longest  # before the last trial, and now
        bracketed, t = False, first
        while True:
            trial = yield from trials.at(t, x.t)
            low_enough = falls(trials.start, trial, self.c1)
            if trial.t == trials.longest and low_enough and trial.slope <= enough:
                return
            # The paper's second stage, in which f itself is searched, needs no mark: it begins with a value that has
            # fallen enough and a slope of at least 0, and of the shorter steps that follow, all lower ones fall enough.
            psi = 0.0 if low_enough or trial.value > x.value else enough
            x, y, new = (_tilted(of, psi) for of in (x, y, trial))
            t = _step(x, y, new, low, high, bracketed)
            bracketed = bracketed or new.value > x.value or _opposite(new, x)
            x, y = (_tilted(of, -psi) for of in _interval(x, y, new))
            if bracketed:
                length = abs(y.t - x.t)
                if length >= 0.66 * width[0] or t != t:
                    t = x.t + 0.5 * (y.t - x.t)
                width = width[1], length
                low, high = min(x.t, y.t), max(x.t, y.t)
                if not low < t < high or high - low <= self.xtol * high:
                    return
            else:
                low, high = t + 1.1 * (t - x.t), t + 4.0 * (t - x.t)


def _tilted(trial: Trial, slope: float) -> Trial:
    """The same of the function minus a linear one of this slope."""
    return Trial(trial.t, trial.value - trial.t * slope, trial.slope - slope) if slope else trial


def _opposite(a: Trial, b: Trial) -> bool:
    return a.slope < 0 < b.slope or b.slope < 0 < a.slope


def _interval(x: Trial, y: Trial, trial: Trial) -> tuple[Trial, Trial]:
    """The next interval (section 2, the updating algorithm): its best end and the other."""
    if trial.value > x.value:
        return x, trial
    return trial, x if _opposite(trial, x) else y


def _step(x: Trial, y: Trial, trial: Trial, low: float, high: float, bracketed: bool) -> float:
    """The next trial (section 4): the minimum of a cubic, a quadratic, or what lies between."""
    t = trial.t
    if trial.value > x.value:  # case 1
        c = cubic(x, trial, theta(x, trial))
        fall = over(x.value - trial.value, t - x.t) + x.slope
        q = x.t + over(x.slope, fall) / 2.0 * (t - x.t)
        return c if abs(c - x.t) <= abs(q - x.t) else c + (q - c) / 2.0
    if _opposite(trial, x):  # case 2
        c, s = cubic(trial, x, theta(x, trial)), secant(x, trial)
        return c if abs(c - t) > abs(s - t) else s
    if abs(trial.slope) < abs(x.slope):  # case 3
        c, s = _beyond(x, trial, low, high), secant(x, trial)
        if not bracketed:
            return min(max(c if abs(c - t) > abs(s - t) else s, low), high)
        nearer, limit = c if abs(c - t) < abs(s - t) else s, t + 0.66 * (y.t - t)
        return min(limit, nearer) if t > x.t else max(limit, nearer)
    if bracketed:  # case 4
        return cubic(trial, y, theta(y, trial))
    return high if t > x.t else low


def _beyond(x: Trial, trial: Trial, low: float, high: float) -> float:
    """The minimum of the cubic through both, if it lies beyond the trial; else the farthest step that is allowed."""
    a = theta(x, trial)
    s = max(abs(a), abs(x.slope), abs(trial.slope))
    gamma = s * root(max(0.0, over(a, s) ** 2 - over(x.slope, s) * over(trial.slope, s)))
    gamma = -gamma if trial.t > x.t else gamma
    r = over((gamma - trial.slope) + a, (gamma + (x.slope - trial.slope)) + gamma)
    if r < 0 and gamma != 0:
        return trial.t + r * (x.t - trial.t)
    return high if trial.t > x.t else low
