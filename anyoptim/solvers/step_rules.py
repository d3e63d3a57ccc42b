"""Rules for the step lengths of gradient descent."""

from __future__ import annotations

import math
from typing import Annotated, Final, NamedTuple

from anyoptim._search._value import Value
from anyoptim._search.line_searches import Armijo, LineSearch, Trial
from anyoptim._search.line_searches._line_search import Asked, Trials
from anyoptim._trace._hyperparameters import Count, number

__all__ = ["BarzilaiBorwein", "Descent", "Fixed", "Polyak", "Searched", "StepRule"]


class Descent(NamedTuple):
    """What a rule for step lengths is told: of the point p, and of the step that led there, NaN before the first.

    >>> ao.solvers.Descent(value=4.0, squared=16.0).step_length
    nan
    """

    value: float
    """The value at p."""
    squared: float
    """g*g."""
    steps: int = 0
    """How many steps were taken."""
    step_length: float = math.nan
    """t of the last step."""
    fall: float = math.nan
    """By how much the last step lowered the value."""
    before: float = math.nan
    """g*g before the last step."""
    between: float = math.nan
    """g*g_before."""

    @property
    def ss(self) -> float:
        """s*s, where s is the last step."""
        return self.step_length**2 * self.before

    @property
    def sy(self) -> float:
        """s*y, where y is by what the last step changed the gradient."""
        return self.step_length * (self.before - self.between)

    @property
    def yy(self) -> float:
        """y*y."""
        return self.squared - 2 * self.between + self.before


class _Anywhere(LineSearch):
    """The first step length; where there is a wall, one on this side of it."""

    def accepts(self, start: Trial, trial: Trial) -> bool:
        """Whatever the value is."""
        return True

    def search(self, trials: Trials, first: float) -> Asked[None]:
        """Try `first`."""
        yield from trials.at(first)


class StepRule(Value):
    """A way to choose the step lengths of `GradientDescent`.

    A subclass gives `length(descent)`, the step length to try. It is taken wherever the value there is finite, unless
    the subclass has another `search`.

    >>> class Shrinking(ao.solvers.StepRule):
    ...     def length(self, descent):
    ...         return 0.4 if descent.step_length != descent.step_length else 0.9 * descent.step_length
    >>> method = ao.GradientDescent(Shrinking())
    >>> ao.minimize(lambda x: (float(x @ x), 2 * x), np.ones(2), method=method).converged
    True
    """

    @property
    def search(self) -> LineSearch:
        """What is asked whether a step length will do."""
        return _Anywhere()

    @property
    def memory(self) -> int:
        """Of so many points the largest value is the one that `search` compares others with."""
        return 1

    @property
    def descends(self) -> bool:
        """Whether no step raises the value. Where some may, the best point is kept beside."""
        return False

    def length(self, descent: Descent) -> float:
        """The step length to try first, from what is known; 0 if there is nothing left to gain."""
        raise NotImplementedError


class Fixed(StepRule):
    """Always the same."""

    t: Final[float]

    def length(self, descent: Descent) -> float:
        """That one."""
        return self.t


class Searched(StepRule):
    """What a line search finds."""

    line_search: Final[LineSearch]

    @property
    def search(self) -> LineSearch:
        """That one."""
        return self.line_search

    @property
    def descends(self) -> bool:
        """All line searches do."""
        return True

    def length(self, descent: Descent) -> float:
        """The one at which a parabola would fall as far as the value fell in the last step; 1/|g| before that."""
        last = descent.step_length
        if last != last:
            return 1 / math.sqrt(descent.squared)
        if descent.fall > 1e-6 * abs(descent.value):
            return min(2 * descent.fall / descent.squared, 10 * last)
        return min(last * descent.before / descent.squared, 10 * last)  # rounding may be all that the value tells


class BarzilaiBorwein(StepRule):
    """The step lengths of Barzilai and Borwein: the inverse of the curvature that the last step has met.

    ::

        s = p - p_before,  y = g - g_before
        t = s*s / s*y        "long"
            s*y / y*y        "short"
            one after the other        "alternating"
            |s| / |y|        where s*y is not above 0
        t <- t/2 until f(p - t*g) <= (the largest f of the last `window` points) - 1e-4*t*g*g

    Values rise and fall on the way, and it is much faster than a descent that never rises: it may come near to
    conjugate gradients, in two vectors. Before the first step, t is 1/|g|.

    Args:
        which: one of these names.
        window: how many points there are to be lower than; 1 for a descent that never rises.

    Raises ValueError for another name.

    Source: Barzilai and Borwein, Two-point step size gradient methods, 1988, equations 5 and 6; Raydan, The Barzilai
    and Borwein gradient method for the large scale unconstrained minimization problem, 1997, for the window; Dai and
    Fletcher, Projected Barzilai-Borwein methods for large-scale box-constrained quadratic programming, 2005.

    >>> method = ao.GradientDescent(ao.solvers.BarzilaiBorwein("short"))
    >>> curvature = np.array([1.0, 10.0, 100.0])
    >>> result = ao.minimize(lambda x: (float(curvature @ x**2) / 2, curvature * x), np.ones(3), method=method)
    >>> result.converged, result.steps < 40
    (True, True)
    """

    which: Final[str] = "alternating"
    window: Final[Count] = 10

    def __post_init__(self) -> None:
        if self.which not in {"alternating", "long", "short"}:
            raise ValueError(f"which is {self.which!r}; wanted 'alternating', 'long' or 'short'")

    @property
    def search(self) -> LineSearch:
        """Halves, until it is low enough."""
        return Armijo()

    @property
    def memory(self) -> int:
        """The window."""
        return self.window

    @property
    def descends(self) -> bool:
        """Only without a window."""
        return self.window == 1

    def length(self, descent: Descent) -> float:
        """One of the two, 1/|g| before the first step."""
        ss, sy, yy = descent.ss, descent.sy, descent.yy
        if not ss > 0:
            return 1 / math.sqrt(descent.squared)
        if not sy > 0:
            return math.sqrt(ss / yy) if yy > 0 else 2 * descent.step_length
        short = self.which == "short" or (self.which == "alternating" and descent.steps % 2 == 0)
        return sy / yy if short else ss / sy


class Polyak(StepRule):
    """The step length of Polyak: how far it would be to the minimum, whose value is known, if f were linear.

    ::

        t = (f(p) - minimum) / g*g

    For a convex function each step leads nearer to where the minimum is, also where f has kinks. Values rise and fall
    on the way.

    Args:
        minimum: the value at the minimum, such as 0 for a sum of squares that all can vanish. One that is too low leads
            to steps that are too long.

    Source: Polyak, Minimization of unsmooth functionals, 1969; Introduction to optimization, 1987, section 5.3.2.

    >>> method = ao.GradientDescent(ao.solvers.Polyak(minimum=0.0))
    >>> ao.minimize(lambda x: (float(abs(x).sum()), np.sign(x)), np.array([2.0, -1.0]), method=method).value
    0.0
    """

    minimum: Final[Annotated[float, number]] = 0.0

    def length(self, descent: Descent) -> float:
        """That one; 0 at the minimum."""
        return max(0.0, descent.value - self.minimum) / descent.squared
