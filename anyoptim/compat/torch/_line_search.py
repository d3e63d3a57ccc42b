"""The line search of torch's LBFGS."""

from __future__ import annotations

import math
from collections.abc import Generator

from anyoptim._search.line_searches import Trial
from anyoptim._search.line_searches._interpolation import cubic, theta
from anyoptim._search.line_searches._line_search import falls
from anyoptim.compat._solvers import Asked

__all__ = ["strong_wolfe"]

C1, C2, TOLERANCE = 1e-4, 0.9, 1e-9


def strong_wolfe(start: Trial, t: float, largest: float, tries: int) -> Generator[Asked, Trial, Trial]:
    """Yields step lengths, is sent the trials, and returns the one to take: the last one, the one kept, or the start.

    `largest` is the largest element of the direction: an interval over which it changes by less than the tolerance is
    not searched. There is one trial more than `tries`, if need be.
    """
    before, trial = start, (yield Asked(t, False))
    for n in range(tries):
        if not falls(start, trial, C1) or (n > 1 and trial.value >= before.value):
            break
        if abs(trial.slope) <= C2 * -start.slope:
            return trial
        if trial.slope >= 0:
            break
        t = _minimum(before, trial, trial.t + 0.01 * (trial.t - before.t), trial.t * 10)
        before, trial = trial, (yield Asked(t, True))
    else:
        n, before = tries, start
    ends = [before, trial]
    low = _lower(ends[0], ends[1])
    keep, cornered = bool(low), False
    for _ in range(n, tries):
        left, right = sorted(end.t for end in ends)
        if (right - left) * largest < TOLERANCE:
            break
        t, tenth = _minimum(ends[0], ends[1], left, right), 0.1 * (right - left)
        near = min(right - t, t - left) < tenth
        if near and (cornered or t >= right or t <= left):
            t = right - tenth if abs(t - right) < abs(t - left) else left + tenth
            near = False
        cornered = near
        trial = yield Asked(t, keep)
        if not falls(start, trial, C1) or trial.value >= ends[low].value:
            ends[1 - low] = trial
            low = _lower(ends[0], ends[1])
        elif abs(trial.slope) <= C2 * -start.slope:
            return trial
        else:
            if trial.slope * (ends[1 - low].t - ends[low].t) >= 0:
                ends[1 - low] = ends[low]
            ends[low] = trial
        keep = ends[low] is trial
    return ends[low]


def _minimum(a: Trial, b: Trial, least: float, most: float) -> float:
    """Where the cubic through both has its minimum, within bounds; the middle of these where it has none."""
    low, high = sorted((a, b))
    t = cubic(high, low, theta(high, low))
    return (least + most) / 2 if math.isnan(t) else min(max(t, least), most)


def _lower(a: Trial, b: Trial) -> int:
    """The place of the lower one, and not of NaN."""
    return int(not a.value <= b.value and b.value == b.value)
