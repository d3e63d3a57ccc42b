"""What all line searches share, which choose how far to go along a direction: numbers of the host, and no arrays."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Annotated, ClassVar, Final, TypeVar

from anyoptim._search._value import Value
from anyoptim._search.line_searches._interpolation import Trial
from anyoptim._trace._hyperparameters import KW_ONLY, Count, Domain

__all__ = ["Asked", "Inside", "LineSearch", "Steps", "Trials", "check_wolfe", "falls", "strong_wolfe"]

Inside = Annotated[float, Domain(lambda x: 0 < x < 1, "above 0 and below 1")]
"""A constant between 0 and 1."""

_R = TypeVar("_R")
Asked = Generator[float, tuple[float, float], _R]
"""What yields step lengths, is sent the value and the slope at each, and returns something."""
Steps = Asked[bool]
"""A whole search, which returns whether the last step length is to be taken."""


class _Ended(Exception):  # noqa: N818 - it is no error, and never leaves `LineSearch.steps`
    """Raised where a search has found what it looks for, or must not look on."""


class Trials:
    """What is known of a line: where it begins, how far it may be followed, and what was found on it.

    Beyond a wall, values are NaN or infinite. A step that ends there is cut to half of its way from a point on this
    side, and then to a tenth each time; no later step reaches the wall.

    Where values are rounded, they are told as what they are above the one at 0, and one that is as near to that as
    rounding may bring it as `t*(f'(0) + f'(t))/2`, what a quadratic function with these slopes has there.

    >>> trials = ao.solvers.Trials(ao.solvers.Armijo(), ao.solvers.Trial(0.0, 1.0, -2.0), longest=8.0)
    >>> asked = trials.at(10.0)
    >>> next(asked), asked.send((float("nan"), float("nan")))
    (8.0, 4.0)
    """

    def __init__(self, search: LineSearch, start: Trial, longest: float, rounding: float = 0.0) -> None:
        self._zero, self._noise = (start.value, rounding * abs(start.value)) if rounding else (0.0, -1.0)
        self.start: Trial = start._replace(value=start.value - self._zero)
        self.best: Trial = self.start
        self.last: Trial = self.start
        self.longest = longest
        self.accepted: bool = False
        self._search = search
        self._left = search.evaluations
        self._wall = math.inf

    def at(self, t: float, inner: float = 0.0) -> Asked[Trial]:
        """The trial at t, or at a point between `inner` and t if there is a wall.

        Ends the search where it is accepted, where there may be no more trials, where t is no step length, and where
        `inner` lies close to the wall.
        """
        t, share = min(t, self.longest), 0.5
        if t >= self._wall > inner:
            t = inner + (self._wall - inner) / 2
            if self._wall - inner <= 0.1 * self._wall:
                raise _Ended
        while self._left and 0 < t < math.inf:
            self._left -= 1
            value, slope = yield t
            value -= self._zero
            self.last = trial = Trial(t, value, slope)
            if math.isfinite(value) and (math.isfinite(slope) or not self._search.needs_slope):
                if value < self.best.value:
                    self.best = trial
                if abs(value) <= self._noise and slope == slope:
                    trial = Trial(t, t * (self.start.slope + slope) / 2, slope)
                self.accepted = self._search.accepts(self.start, trial)
                if self.accepted:
                    break
                return trial
            if t > inner:
                self._wall = min(self._wall, t)
            t, share = inner + share * (t - inner), 0.1
        raise _Ended


class LineSearch(Value):
    """A way to choose how far to go along a direction in which the value falls.

    A subclass says which trials are `accepts`-ed, and gives `search(trials, first)`, a generator that asks
    `yield from trials.at(t)` for one trial after the other: values and slopes at t, all finite.

    >>> class Halving(ao.solvers.LineSearch):
    ...     def accepts(self, start, trial):
    ...         return trial.value < start.value
    ...
    ...     def search(self, trials, first):
    ...         while True:
    ...             trial = yield from trials.at(first)
    ...             first = trial.t / 2
    >>> steps = Halving().steps(1.0, -1.0, first=1.0)
    >>> next(steps)
    1.0
    >>> steps.send((5.0, 9.0))
    0.5
    """

    _: KW_ONLY
    evaluations: Final[Count] = 20

    needs_slope: ClassVar[bool] = True
    """Whether slopes are looked at; where not, NaN may be sent for each."""

    def steps(
        self, value: float, slope: float, first: float, longest: float = math.inf, rounding: float = 0.0
    ) -> Steps:
        """The step lengths to be tried: a generator, which is sent the value and the slope at each.

        Where no trial is accepted, and `evaluations` have been made or no further progress is possible, it falls back
        on the trial with the lowest value, if that is below the first: it is asked for once more, if it was not the
        last one.

        Args:
            value: the value at 0.
            slope: the slope at 0, below 0.
            first: the step length to begin with, above 0.
            longest: the largest step length that is allowed.
            rounding: by which part of itself a value may be off, of which 4 times the machine epsilon of the dtype in
                which values are computed is enough for most functions. Between values that differ by no more, slopes
                decide: so a minimum is found to the precision of slopes, and not to the root of that of values.

        Source of `rounding`: Hager and Zhang, 2005, section 4, whose approximate Wolfe conditions are the Wolfe
        conditions for values that are told by slopes.

        Returns:
            What the generator returns is whether the last step length is to be taken. What it is sent may be NaN or
            infinite.
        """
        if not (math.isfinite(value) and -math.inf < slope < 0 < first):
            return False
        trials = Trials(self, Trial(0.0, value, slope), longest, rounding)
        try:
            yield from self.search(trials, min(first, longest))
        except _Ended:
            if trials.accepted:
                return True
        if 0 < trials.best.t != trials.last.t:
            yield trials.best.t
        return trials.best.t > 0

    def accepts(self, start: Trial, trial: Trial) -> bool:
        """Whether a trial is what is looked for; `start` is what is known at 0."""
        raise NotImplementedError

    def search(self, trials: Trials, first: float) -> Asked[None]:
        """Ask for trials, beginning at `first`, until `trials.at` ends it or no progress is possible."""
        raise NotImplementedError


def falls(start: Trial, trial: Trial, c1: float) -> bool:
    """Whether the value has fallen enough (Armijo): `f(t) <= f(0) + c1*t*f'(0)`."""
    return trial.value <= start.value + trial.t * (c1 * start.slope)


def strong_wolfe(start: Trial, trial: Trial, c1: float, c2: float) -> bool:
    """Whether the value has fallen enough and the slope is small (Wolfe): `|f'(t)| <= c2*|f'(0)|`."""
    return falls(start, trial, c1) and abs(trial.slope) <= c2 * -start.slope


def check_wolfe(c1: float, c2: float) -> None:
    """Raise ValueError for constants that there might be no step length for."""
    if c1 > c2:
        raise ValueError(f"c1 is {c1} and c2 is {c2}; wanted c1 at most c2, since else no step length might do")
