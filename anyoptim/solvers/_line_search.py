"""What all line searches share, which choose how far to go along a direction: numbers of the host, and no arrays."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Annotated, ClassVar, Final

from anyoptim._trace._hyperparameters import KW_ONLY, Count, Domain
from anyoptim.solvers._interpolation import Trial
from anyoptim.solvers._value import Value

__all__ = ["Armijo", "Asking", "Ended", "Inside", "Line", "LineSearch", "Part", "WolfeSearch"]

Inside = Annotated[float, Domain(lambda x: 0 < x < 1, "above 0 and below 1")]
"""A constant between 0 and 1."""

Asking = Generator[float, tuple[float, float], bool]
"""What yields step lengths, is sent the value and the slope at each, and returns whether to take the last one."""

Part = Generator[float, tuple[float, float], Trial]
"""What does the same for one trial, and returns it."""


class Ended(Exception):  # noqa: N818 - it is no error, and never leaves `LineSearch.steps`
    """Raised where a search has found what it looks for, or must not look on."""


class Line:
    """What is known of a line: where it begins, how far it may be followed, and what was found on it.

    Beyond a wall, values are NaN or infinite. A step that ends there is cut to half of its way from a point on this
    side, and then to a tenth each time; no later step reaches the wall.
    """

    def __init__(self, search: LineSearch, start: Trial, longest: float) -> None:
        self.start = self.best = self.last = start
        self.longest = longest
        self.accepted = False
        self._search = search
        self._left = search.evaluations
        self._wall = math.inf

    def at(self, t: float, inner: float = 0.0) -> Part:
        """The trial at t, or at a point between `inner` and t if there is a wall.

        Raises Ended where it is accepted, where there may be no more trials, where t is no step length, and where
        `inner` lies close to the wall.
        """
        t, share = min(t, self.longest), 0.5
        if t >= self._wall > inner:
            t = inner + (self._wall - inner) / 2
            if self._wall - inner <= 0.1 * self._wall:
                raise Ended
        while self._left and 0 < t < math.inf:
            self._left -= 1
            value, slope = yield t
            self.last = trial = Trial(t, value, slope)
            if math.isfinite(value) and (math.isfinite(slope) or not self._search.needs_slope):
                if value < self.best.value:
                    self.best = trial
                self.accepted = self._search.accepts(self.start, trial)
                if self.accepted:
                    break
                return trial
            if t > inner:
                self._wall = min(self._wall, t)
            t, share = inner + share * (t - inner), 0.1
        raise Ended


class LineSearch(Value):
    """A way to choose how far to go along a direction in which the value falls.

    A subclass says which trials are `accepts`-ed, and gives `search(line, first)`, a generator that asks
    `yield from line.at(t)` for one trial after the other: values and slopes at t, all finite.

    >>> class Halving(ao.solvers.LineSearch):
    ...     def accepts(self, start, trial):
    ...         return trial.value < start.value
    ...
    ...     def search(self, line, first):
    ...         while True:
    ...             trial = yield from line.at(first)
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

    def steps(self, value: float, slope: float, first: float, longest: float = math.inf) -> Asking:
        """The step lengths to be tried: a generator, which is sent the value and the slope at each.

        Where no trial is accepted, and `evaluations` have been made or no further progress is possible, it falls back
        on the trial with the lowest value, if that is below the first: it is asked for once more, if it was not the
        last one.

        Args:
            value: the value at 0.
            slope: the slope at 0, below 0.
            first: the step length to begin with, above 0.
            longest: the largest step length that is allowed.

        Returns:
            What the generator returns is whether the last step length is to be taken. What it is sent may be NaN or
            infinite.
        """
        if not (math.isfinite(value) and -math.inf < slope < 0 < first):
            return False
        line = Line(self, Trial(0.0, value, slope), longest)
        try:
            yield from self.search(line, min(first, longest))
        except Ended:
            if line.accepted:
                return True
        if 0 < line.best.t != line.last.t:
            yield line.best.t
        return line.best.t > 0

    def accepts(self, start: Trial, trial: Trial) -> bool:
        """Whether a trial is what is looked for; `start` is what is known at 0."""
        raise NotImplementedError

    def search(self, line: Line, first: float) -> Generator[float, tuple[float, float], None]:
        """Ask for trials, beginning at `first`, until `line.at` ends it or no progress is possible."""
        raise NotImplementedError


class WolfeSearch(LineSearch):
    """A line search for the strong Wolfe conditions.

    ::

        f(t) <= f(0) + c1*t*f'(0)       the value has fallen enough
        |f'(t)| <= c2*|f'(0)|           and the slope is small
    """

    c1: Final[Inside]
    c2: Final[Inside] = 0.9

    def __post_init__(self) -> None:
        if self.c1 > self.c2:
            raise ValueError(f"c1 is {self.c1} and c2 is {self.c2}; wanted c1 at most c2, or no step might do")

    def falls(self, start: Trial, trial: Trial) -> bool:
        """Whether the value has fallen enough."""
        return trial.value <= start.value + trial.t * (self.c1 * start.slope)

    def accepts(self, start: Trial, trial: Trial) -> bool:
        """Whether both conditions hold."""
        return self.falls(start, trial) and abs(trial.slope) <= self.c2 * -start.slope


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
        return trial.value <= start.value + trial.t * (self.c1 * start.slope)

    def search(self, line: Line, first: float) -> Generator[float, tuple[float, float], None]:
        """Try `first`, then shorter and shorter ones."""
        while True:
            trial = yield from line.at(first)
            first = self.shrink * trial.t
