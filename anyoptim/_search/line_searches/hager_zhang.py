"""The line search of Hager and Zhang, which goes on where values differ by rounding alone."""

from __future__ import annotations

from typing import Annotated, Final

from anyoptim._search.line_searches._interpolation import Trial, secant
from anyoptim._search.line_searches._line_search import Asked, Inside, LineSearch, Trials, check_wolfe, falls
from anyoptim._trace._hyperparameters import Domain, nonnegative

__all__ = ["HagerZhang"]

_BELOW_HALF = Domain(lambda x: 0 < x < 0.5, "above 0 and below 0.5")
_ABOVE_ONE = Domain(lambda x: 1 < x < float("inf"), "finite and above 1")

Interval = tuple[Trial, Trial]


class HagerZhang(LineSearch):
    """The line search of Hager and Zhang, for the Wolfe conditions or what is left of them near a minimum.

    ::

        f(t) <= f(0) + c1*t*f'(0)  or  f(t) <= f(0) + epsilon*|f(0)| and f'(t) <= (2*c1 - 1)*f'(0)
        f'(t) >= c2*f'(0)

    The second form of the first line is what the first one means for a quadratic function, said by slopes, which tell
    where the minimum is when values differ by rounding alone. So a minimum is found to the precision of the gradient,
    and not to the root of that, whatever the function's rounding. The interval has opposite slopes at its ends, and
    shrinks by two secant steps at a time, or by halves where these do not shrink it enough.

    Args:
        c1: which part of the fall that the first slope promises is enough, above 0 and below 0.5: the paper's delta.
        c2: which part of the first slope is small, at least c1 and below 1: the paper's sigma.
        epsilon: by which part of itself a value may rise, finite and at least 0; where `steps` is told how values are
            rounded, it goes by that.
        gamma: what two secant steps must shrink the interval to, above 0 and below 1.
        theta: where an interval is cut that has to be, above 0 and below 1.
        rho: by what the first interval grows, above 1.
        evaluations: how many step lengths are tried at most.

    Source: Hager and Zhang, A new conjugate gradient method with guaranteed descent and an efficient line search, 2005,
    section 4; Algorithm 851: CG_DESCENT, 2006, for the constants.

    >>> steps = ao.solvers.HagerZhang().steps(1.0, -2.0, first=4.0)
    >>> next(steps), steps.send((9.0, 6.0))  # of (1 - t)**2
    (4.0, 1.0)
    """

    c1: Final[Annotated[float, _BELOW_HALF]] = 0.1
    c2: Final[Inside] = 0.9
    epsilon: Final[Annotated[float, nonnegative]] = 1e-6
    gamma: Final[Inside] = 0.66
    theta: Final[Inside] = 0.5
    rho: Final[Annotated[float, _ABOVE_ONE]] = 5.0

    def __post_init__(self) -> None:
        check_wolfe(self.c1, self.c2)

    def _low(self, start: Trial, trial: Trial) -> bool:
        """Whether the value is no higher than the first, but for rounding."""
        return trial.value <= start.value + self.epsilon * abs(start.value)

    def accepts(self, start: Trial, trial: Trial) -> bool:
        """Whether the Wolfe conditions hold, as they are (T1) or approximately (T2)."""
        approximately = self._low(start, trial) and trial.slope <= (2.0 * self.c1 - 1.0) * start.slope
        return (falls(start, trial, self.c1) or approximately) and trial.slope >= self.c2 * start.slope

    def search(self, trials: Trials, first: float) -> Asked[None]:
        """Shrink the interval until it holds nothing more (steps L0 to L3)."""
        a, b = yield from self._bracket(trials, first)
        while a.t < b.t and a.slope < 0 < b.slope:
            width = b.t - a.t
            a, b = yield from self._secants(trials, a, b)
            if b.t - a.t > self.gamma * width:
                a, b = yield from self._update(trials, a, b, a.t + 0.5 * (b.t - a.t))
            if b.t - a.t == width:
                return

    def _bracket(self, trials: Trials, t: float) -> Asked[Interval]:
        """The first interval (B0 to B3)."""
        low = trials.start
        while True:
            trial = yield from trials.at(t, low.t)
            if trial.slope >= 0:
                return low, trial
            if not self._low(trials.start, trial):
                return (yield from self._cut(trials, trials.start, trial))
            if trial.t == trials.longest:
                return trial, trial
            low, t = trial, self.rho * trial.t

    def _cut(self, trials: Trials, a: Trial, b: Trial) -> Asked[Interval]:
        """An interval with opposite slopes within one whose right end is high (U3)."""
        while True:
            d = yield from trials.at((1.0 - self.theta) * a.t + self.theta * b.t, a.t)
            if d.slope >= 0:
                return a, d
            a, b = (d, b) if self._low(trials.start, d) else (a, d)

    def _update(self, trials: Trials, a: Trial, b: Trial, t: float) -> Asked[Interval]:
        """The interval with t in the place of one end (U0 to U3); as it is, where t does not lie within."""
        if not a.t < t < b.t:
            return a, b
        c = yield from trials.at(t, a.t)
        if c.slope >= 0:
            return a, c
        if self._low(trials.start, c):
            return c, b
        return (yield from self._cut(trials, a, c))

    def _secants(self, trials: Trials, a: Trial, b: Trial) -> Asked[Interval]:
        """Two secant steps (S1 to S4)."""
        c = _secant(a, b)
        A, B = yield from self._update(trials, a, b, c)
        if c == B.t:
            c = _secant(b, B)
        elif c == A.t:
            c = _secant(a, A)
        else:
            return A, B
        return (yield from self._update(trials, A, B, c))


def _secant(a: Trial, b: Trial) -> float:
    """Where the straight line through both slopes is 0, told from the end that is nearer to that."""
    return secant(b, a) if abs(a.slope) < abs(b.slope) else secant(a, b)
