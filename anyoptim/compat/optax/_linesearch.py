"""Optax's line search, by zooming into an interval."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Final, Literal

from anyoptim._search._value import Value
from anyoptim._search.line_searches import Trial
from anyoptim._search.line_searches._interpolation import over, root
from anyoptim._trace._hyperparameters import KW_ONLY, Count, number
from anyoptim.compat._shared import refused
from anyoptim.compat._solvers import Asked

__all__ = ["Zoom", "scale_by_zoom_linesearch"]


class Zoom(Value):
    """What `scale_by_zoom_linesearch` gives."""

    max_linesearch_steps: Final[Count]
    _: KW_ONLY
    max_learning_rate: Final[float | None] = None
    tol: Final[float] = 0.0
    increase_factor: Final[float] = 2.0
    slope_rtol: Final[float] = 1e-4
    curv_rtol: Final[float] = 0.9
    approx_dec_rtol: Final[float | None] = 1e-6
    stepsize_precision: Final[float] = 1e-5
    initial_guess_strategy: Final[Literal["one", "keep"]] = "keep"

    def __post_init__(self) -> None:
        for name, value in self._arguments.items():
            if isinstance(value, int | float) and name != "max_linesearch_steps":
                number.value(name, value)
        if self.initial_guess_strategy not in {"one", "keep"}:
            raise ValueError(f"initial_guess_strategy is {self.initial_guess_strategy!r}; wanted 'one' or 'keep'")

    def steps(self, start: Trial, guess: float) -> Generator[Asked, Trial, Trial]:
        """Yields step lengths, is sent the trials, and returns the one to take: the last one, the one kept, or start.

        What is kept is a trial whose value has fallen enough, of several in the interval the lowest.
        """
        safe = before = start
        n, keep, found = 0, False, False
        while not found:
            t = self.increase_factor * before.t if n else guess
            last_one = self.max_learning_rate is not None and t >= self.max_learning_rate
            t = self.max_learning_rate if self.max_learning_rate is not None and last_one else t
            trial = yield Asked(t, keep)
            n += 1
            high, error = self._errors(start, trial)
            keep = high <= self.tol
            safe = trial if keep else safe
            too_far = high > 0 or (n > 1 and trial.value >= before.value)
            found = too_far or trial.slope >= 0
            if error <= self.tol or (last_one and not found):
                return trial
            if n >= self.max_linesearch_steps:
                return _fallen_back(safe, trial, high)
            low, end = (before, trial) if too_far or not found else (trial, before)
            before = trial
        other = low
        while True:
            small = abs(end.t - low.t) <= self.stepsize_precision
            trial = yield Asked(_inside(low, end, other), keep)
            n += 1
            high, error = self._errors(start, trial)
            keep = high <= self.tol and trial.value < safe.value
            safe = trial if keep else safe
            if error <= self.tol:
                return trial
            if n >= self.max_linesearch_steps or (small and safe.t > 0):
                return _fallen_back(safe, trial, high)
            if high > 0 or trial.value >= low.value:
                end, other = trial, end
            elif trial.slope * (end.t - low.t) >= 0:
                low, end, other = trial, low, end
            else:
                low, other = trial, low

    def _errors(self, start: Trial, trial: Trial) -> tuple[float, float]:
        """By how much the value has not fallen enough; and the same, or by how much the slope is not small."""
        risen = trial.value - start.value
        high = risen - self.slope_rtol * trial.t * start.slope
        if self.approx_dec_rtol is not None:
            steep = trial.slope - (2 * self.slope_rtol - 1.0) * start.slope
            high = _least(high, -_least(-steep, -(risen - self.approx_dec_rtol * abs(start.value))))
        curved = abs(trial.slope) - self.curv_rtol * abs(start.slope)
        high, curved = (math.inf if error != error else max(error, 0.0) for error in (high, curved))
        return high, max(high, curved)


def scale_by_zoom_linesearch(
    max_linesearch_steps: int,
    max_learning_rate: float | None = None,
    tol: float = 0.0,
    increase_factor: float = 2.0,
    slope_rtol: float = 1e-4,
    curv_rtol: float = 0.9,
    approx_dec_rtol: float | None = 1e-6,
    stepsize_precision: float = 1e-5,
    initial_guess_strategy: Literal["one", "keep"] = "keep",
    verbose: bool = False,
) -> Zoom:
    """The line search of `lbfgs`, which alone takes it here.

    >>> ao.compat.optax.scale_by_zoom_linesearch(15).increase_factor
    2.0
    """
    refused("optax.scale_by_zoom_linesearch", verbose=verbose)
    return Zoom(
        max_linesearch_steps,
        max_learning_rate=max_learning_rate,
        tol=tol,
        increase_factor=increase_factor,
        slope_rtol=slope_rtol,
        curv_rtol=curv_rtol,
        approx_dec_rtol=approx_dec_rtol,
        stepsize_precision=stepsize_precision,
        initial_guess_strategy=initial_guess_strategy,
    )


def _least(a: float, b: float) -> float:
    """The smaller one; NaN where one is NaN."""
    return math.nan if a != a or b != b else min(a, b)


def _fallen_back(safe: Trial, last: Trial, high: float) -> Trial:
    """What is taken where no trial does: one whose value has fallen enough, or else the last one, if it has a value."""
    return safe if safe.t > 0 or math.isinf(high) else last


def _inside(low: Trial, end: Trial, other: Trial) -> float:
    """Where a cubic through three points has its minimum, or a parabola through two, or the middle."""
    (left, right), width = sorted((low.t, end.t)), abs(end.t - low.t)
    for t, margin in ((_cubic(low, end, other), 0.2 * width), (_parabola(low, end), 0.1 * width)):
        if left + margin < t < right - margin:
            return t
    return (low.t + end.t) / 2.0


def _cubic(a: Trial, b: Trial, c: Trial) -> float:
    """The minimum of the cubic through all three with the slope at the first."""
    db, dc = b.t - a.t, c.t - a.t
    fb, fc = b.value - a.value - a.slope * db, c.value - a.value - a.slope * dc
    scale = (db * dc) ** 2 * (db - dc)
    A, B = over(dc**2 * fb - db**2 * fc, scale), over(-(dc**3) * fb + db**3 * fc, scale)
    return a.t + over(-B + root(B * B - 3.0 * A * a.slope), 3.0 * A)


def _parabola(a: Trial, b: Trial) -> float:
    """The minimum of the parabola through both with the slope at the first."""
    db = b.t - a.t
    return a.t - over(a.slope, 2.0 * over(b.value - a.value - a.slope * db, db**2))
