"""The slope of a loss along a line, by finite differences, with an estimate of how far it may be off."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Line", "Slope", "noise_of", "significant_bits", "slope"]

Line = Callable[[float], tuple[float, float, float] | None]
"""`line(h)`: the loss at p + h*d; by how much the gradient says that it has changed, for the displacement that rounding
left of h*d; and how long that is, in units of d. None where nothing moved, or the loss is not finite."""

FIRST, RATIO = 0.125, 4.0
"""The first step, in units of the parameter's own size, and by how much the next is smaller, or larger."""
DOWN, UP = 14, 8
"""How many times the step may become smaller, or larger."""

SAFETY = 6.0
"""How many times the estimated error of a slope may be wrong: it is of the size of one standard deviation."""

CLEAR = 0.04
"""The noise, in units of the gradient's size, up to which a step between kinks is looked at."""


class Slope(NamedTuple):
    """What the gradient says of a direction, and what the loss does."""

    predicted: float
    """g . d"""
    measured: float
    """The slope of the loss."""
    error: float
    """How far `measured` may be off: what is left of the truncation, and the loss's own rounding."""
    scale: float
    """The size of slopes in such directions, in which differences are judged."""
    tolerance: float
    """By how much a right gradient may differ."""
    kink: bool = False
    """Whether the slopes on both sides differ, and `predicted` is between them."""
    edge: bool = False
    """Whether the slopes on both sides differ by so much that it may be the reason."""

    rough: bool = False
    """Whether there is a difference, and there are kinks between the steps, which may explain it."""

    @property
    def differs(self) -> bool:
        """Whether the gradient is certainly another than the slope."""
        return not self.kink and abs(self.measured - self.predicted) > self.tolerance


class _Level(NamedTuple):
    """The differences between quotients and prediction at one step."""

    ahead: float
    behind: float
    noise: float

    @property
    def central(self) -> float:
        return (self.ahead + self.behind) / 2

    @property
    def width(self) -> float:
        return abs(self.ahead - self.behind)


def slope(
    line: Line, start: float, predicted: float, scale: float, noise: float, unit: float, rtol: float, rounding: float
) -> Slope:
    """The slope by central differences at steps h, h/4, h/16, ..., each pair extrapolated (Richardson).

    It stops where the gradient is confirmed. Otherwise steps go down until the loss's own noise, divided by the step,
    is more than the tolerance, and up where it is so from the beginning; the estimate of the smallest error counts. All
    quotients are those of `loss - gradient . displacement`, in which the rounding of a parameter of few digits cancels.

    Args:
        line: the loss along the line.
        start: the loss at h = 0.
        predicted: g . d.
        scale: the size of g . d for directions like this one.
        noise: the standard deviation of the loss's rounding errors.
        unit: the relative spacing of the loss's numbers.
        rtol: by what part of the scale a right gradient may differ.
        rounding: the rounding error that a gradient may have whatever its size.
    """
    levels: dict[int, _Level] = {}

    def within(r: float) -> float:
        """By how much the gradient may differ from the slope predicted + r, were nothing unknown."""
        return rtol * max(scale, abs(predicted + r))

    def look(k: int) -> bool:
        """Measure one step, if that shows anything."""
        h = FIRST / RATIO**k
        plus, minus = line(h), line(-h)
        if plus is None or minus is None:
            return False
        (f, up, ahead), (b, down, behind) = plus, minus
        fuzz = max(noise, unit * max(abs(f), abs(b), abs(start))) / h
        levels[k] = _Level((f - start - up) / ahead, (b - start - down) / behind, fuzz)
        return True

    def drowned(k: int) -> bool:
        """Whether the noise is too large at this step to see what the tolerance allows."""
        return k in levels and levels[k].noise > within(levels[k].central)

    def confirms(k: int) -> bool:
        """Whether the steps k - 1 and k show the slope that the gradient says."""
        r = _estimate(levels, k).difference
        seen = levels[k].noise <= CLEAR * max(scale, abs(predicted + r)) or r == predicted == scale
        return seen and abs(r) <= within(r)

    def confirming() -> float | None:
        """The difference that confirms the gradient, at the first pair of steps that does."""
        for k in range(DOWN):
            if look(k) and k - 1 in levels and confirms(k):
                return _estimate(levels, k).difference
            if k and drowned(k):
                break
        for k in range(-1, -UP, -1):
            if k + 1 not in levels or SAFETY * levels[k + 1].noise <= within(levels[k + 1].central) or not look(k):
                break
            if confirms(k + 1):
                return _estimate(levels, k + 1).difference
        return None

    sure = confirming()
    if not levels:
        return Slope(predicted, math.nan, math.inf, scale, math.inf)
    if sure is not None:
        return Slope(predicted, predicted + sure, within(sure), scale, within(sure))
    found = {k: _doubted(_estimate(levels, k), levels, k, scale) for k in sorted(levels) if k - 1 in levels}
    if not all(map(math.isinf, (estimate.error for estimate in found.values()))):
        # Between kinks quotients may settle before they are right: then the smallest steps count.
        rough = any(estimate.rough for estimate in found.values())
        clear = [k for k in found if rough and levels[k].noise <= CLEAR * scale]
        at = clear[-1] if clear else min(found, key=lambda k: found[k].error + found[k].bend)
        r, error, bend = found[at].difference, found[at].error, found[at].bend
    else:
        at = max(levels)
        r, error, bend = levels[at].central, math.inf, 0.0
    # Where the gradient vanishes, its rounding is that of the terms that cancel in it.
    spread = max(rounding, 10 * unit * levels[max(levels)].width)
    allowed = within(r) + SAFETY * error + spread
    seen = Slope(predicted, predicted + r, error + bend, scale, allowed + SAFETY * bend)
    sides = _kink(levels, rtol * scale) if abs(r) > allowed else None
    if sides is None or sides[1] - sides[0] < 0.5 * abs(r):
        jitter = _jitter(levels, at) if seen.differs else 0.0
        return seen._replace(tolerance=seen.tolerance + SAFETY * jitter, rough=jitter > 0)
    margin = within(max(map(abs, sides))) + spread
    return seen._replace(edge=True, kink=sides[0] <= margin and sides[1] >= -margin)


class _Estimate(NamedTuple):
    """What two steps extrapolate to."""

    difference: float
    error: float
    rough: bool
    """Whether the quotients do not converge as those of a smooth loss do: there are kinks between."""
    bend: float = 0.0
    """A further error, where the slope changes within the step by as much as it is."""


def _estimate(levels: dict[int, _Level], k: int) -> _Estimate:
    """The difference that the steps k - 1 and k extrapolate to.

    Where there are kinks, nothing is extrapolated, and the error is what the last steps changed, or half of that by
    which both sides differ.
    """
    fine, coarse, before = levels[k], levels[k - 1], levels.get(k - 2)
    change = fine.central - coarse.central
    r = fine.central + change / (RATIO**2 - 1)
    if before is None:
        return _Estimate(r, math.inf, rough=False)  # two may agree by chance
    last = abs(coarse.central - before.central)
    if abs(change) > last / RATIO + 2 * fine.noise:
        return _Estimate(fine.central, max(abs(change), last, fine.width / 2) + fine.noise, rough=True)
    return _Estimate(r, max(abs(change), last / RATIO) / RATIO + fine.noise, rough=False)


def _doubted(estimate: _Estimate, levels: dict[int, _Level], k: int, scale: float) -> _Estimate:
    """The estimate with a larger error, where smaller steps show another slope or the loss bends much within a step."""
    beside = max(
        (abs(at.central - estimate.difference) - 2 * at.noise for j, at in levels.items() if j > k), default=0.0
    )
    bend = levels[k].width ** 2 / scale / 16 if scale else 0.0
    return estimate._replace(error=max(estimate.error, beside), bend=bend)


def _jitter(levels: dict[int, _Level], at: int) -> float:
    """How far kinks nearer than step `at` may move the slope that it shows: what they do where they are seen; else 0.

    Of a smooth loss the difference between both sides is a quarter of what it was at the step before. Where it is not,
    there are kinks within that step, of which two smaller steps may by chance show the same few.
    """
    apart = {k: levels[k].ahead - levels[k].behind for k in levels}
    ks = [k for k in (at - 2, at - 1, at) if k - 1 in levels]
    if all(abs(apart[k] - apart[k - 1] / RATIO) <= abs(apart[k - 1]) / 8 + 4 * levels[k].noise for k in ks):
        return 0.0
    fine, coarse = levels[at], levels[at - 1]
    return max(abs(fine.central - coarse.central), fine.width / 2, coarse.width / 2)


def _kink(levels: dict[int, _Level], least: float) -> tuple[float, float] | None:
    """The differences on both sides, where they stay apart however small the step is: that is a kink."""
    k = max((k for k, level in levels.items() if level.width > max(8 * level.noise, least)), default=None)
    if k is None or k - 1 not in levels:
        return None
    width = levels[k].width
    closed = any(j > k and 8 * level.noise < width for j, level in levels.items())  # it was beside p, not at p
    if closed or width < 0.5 * levels[k - 1].width:  # that of a smooth loss is a quarter
        return None
    return min(levels[k].ahead, levels[k].behind), max(levels[k].ahead, levels[k].behind)


def noise_of(values: Sequence[float]) -> float:
    """The standard deviation of the noise of a function, from values at equal, tiny distances.

    A table of differences: those of order k of a smooth function vanish, and of independent errors they have the
    variance (2k)!/(k!)^2. The mean of the orders from 3 on is taken.

    Source: More and Wild, Estimating computational noise, 2011.
    """
    row, found = list(values), []
    for k in range(1, len(values) - 1):
        row = [b - a for a, b in pairwise(row)]
        if k > 2:
            found.append(sum(x * x for x in row) / len(row) / math.comb(2 * k, k))
    return math.sqrt(sum(found) / len(found))


def significant_bits(values: Sequence[float]) -> int:
    """The fewest bits, of those of bfloat16, float16, float32 and float64, that hold all these values."""
    digits = [math.frexp(x)[0] for x in values]
    return next(bits for bits in (8, 11, 24, 53) if all((m * 2.0**bits).is_integer() for m in digits))
