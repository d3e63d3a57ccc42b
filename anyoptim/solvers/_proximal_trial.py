"""A proximal step that is tried: whether its length will do, and which one to try next."""

from __future__ import annotations

import math
from typing import NamedTuple

from anyoptim.solvers._function import Point
from anyoptim.solvers._solver import Run

__all__ = ["ProximalTrial"]


class ProximalTrial(NamedTuple):
    """A step of length lr from y to p = y + d."""

    lr: float
    squared: float
    """d*d."""
    slope: float
    """d*gradient(y)."""
    there: float = math.nan
    """d*gradient(p)."""
    change: float = math.nan
    """f(p) - f(y)."""
    doubt: float = 0.0
    """By how much f may be wrong: as far as that, slopes tell more."""
    point: Point | None = None
    """What the function gave at p."""

    def told(self, run: Run, point: Point) -> ProximalTrial:
        """The same with what the function gave."""
        before, (there,) = run.numbers["value_y"], run.space.products((run.vectors["d"], point.gradients))
        doubt = max(1e-6, 64 * run.space.rounding) * max(abs(point.value), abs(before))
        return self._replace(there=there, change=point.value - before, doubt=doubt, point=point)

    @property
    def finite(self) -> bool:
        """Whether f(p) is, as it is on this side of a wall."""
        return math.isfinite(self.change)

    @property
    def falls(self) -> bool:
        """Whether f(p) is at most what 1/lr as curvature allows."""
        return self.change <= self.slope + self.squared / (2 * self.lr)

    @property
    def falls_by_slopes(self) -> bool:
        """The same by the slopes, which are exact to rounding where values differ by rounding alone."""
        return self.change <= self.doubt and self.there - self.slope <= self.squared / self.lr

    @property
    def curvature(self) -> float:
        """That of f along the step, at most 1/lr where lr is short enough for a convex quadratic function."""
        return (self.there - self.slope) / self.squared if self.squared else 0.0

    @property
    def may_be_longer(self) -> bool:
        """Whether lr is less than half of what this curvature allows."""
        return 2 * self.lr * self.curvature < 1

    @property
    def far_too_short(self) -> bool:
        """Whether lr is less than a tenth of what this curvature allows."""
        return 10 * self.lr * self.curvature < 1

    @property
    def longer(self) -> float:
        """The lr that it allows, at most 100 times as long."""
        return min(100 * self.lr, 1 / self.curvature) if self.curvature > 0 else 100 * self.lr

    def shorter(self, part: float) -> float:
        """The lr that it allows, at least a hundredth and at most that part of it; a tenth beyond a wall."""
        if not (self.finite and 0 < self.curvature < math.inf):
            return self.lr / 10
        return max(self.lr / 100, min(part * self.lr, 1 / self.curvature))

    @property
    def odd(self) -> bool:
        """Whether f changes otherwise than the gradients at both ends say."""
        between = (self.slope + self.there) / 2
        return abs(self.change - between) > max(abs(between), self.doubt)
