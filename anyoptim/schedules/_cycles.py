"""Schedules that rise and fall, in cycles or in phases."""

from __future__ import annotations

from typing import Any, ClassVar

from anyoptim._trace._scalars import at_least, floating, largest, power, quotient, remainder, where
from anyoptim.schedules._schedule import Schedule, choice, finite, share, whole_number
from anyoptim.schedules._shapes import EASES, between, cosine, progress, through

__all__ = ["CosineRestarts", "Cyclic", "OneCycle", "WarmupStableDecay"]

_MODES = ("triangular", "triangular2", "exp_range")
_SMOOTH = tuple(ease for ease in EASES if ease != "constant")


class CosineRestarts(Schedule):
    """A schedule down along half a cosine, and again from the top, in cycles that may get longer and lower.

    ::

        cycle i = 0, 1, ... takes T = steps * growth**i steps, of which m have passed
        end + (start*decay**i - end)*(1 + cos(pi*m/T))/2

    Args:
        start: the value at step 1, finite.
        steps: the length of the first cycle, at least 1. The second begins with step `steps + 1`.
        end: where each cycle goes, finite; with the last step of a cycle it has not quite been reached.
        growth: how many times as long each cycle is as the one before, an integer, at least 1.
        decay: by what the value at the beginning of each cycle is multiplied, above 0 and at most 1.

    Source: Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017, section 3, equation 5;
    torch's CosineAnnealingWarmRestarts, with its T_0 as steps, T_mult as growth and no decay.

    >>> schedule = ao.schedules.CosineRestarts(1.0, steps=2)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """

    arguments: ClassVar[tuple[str, ...]] = ("start", "steps", "end", "growth", "decay")

    def __init__(self, start: float, steps: int, end: float = 0.0, growth: int = 1, decay: float = 1.0) -> None:
        self.start: float = finite.value("start", start)
        self.steps: int = whole_number("steps", steps)
        self.end: float = finite.value("end", end)
        self.growth: int = whole_number("growth", growth)
        self.decay: float = share.value("decay", decay)

    def _value(self, n: Any) -> Any:
        i, m, length = self._cycle(n)
        return between(self.start * power(self.decay, i), self.end, cosine(floating(m) / length))

    def _cycle(self, n: Any) -> tuple[Any, Any, Any]:
        """The number of the cycle, the steps of it that have passed, and its length as a float."""
        if self.growth == 1:
            return quotient(n, self.steps), remainder(n, self.steps), float(self.steps)
        i, m, length = 0, n, float(self.steps)
        later, begin, steps = 1, self.steps, self.steps * self.growth
        while begin <= largest(n):  # any step may come where it is traced: 31 cycles at most, where it has 32 bits
            begun = n >= begin
            i, m, length = where(begun, later, i), where(begun, n - begin, m), where(begun, float(steps), length)
            later, begin, steps = later + 1, begin + steps, steps * self.growth
        return i, m, length


class Cyclic(Schedule):
    """A schedule up and down along lines, over and over.

    ::

        cycle i = 0, 1, ... takes up + down steps, of which m have passed; n = t - 1 in all
        x = m/up                  while m < up
        x = 1 - (m - up)/down     then
        low + (high - low)*x*scale

    with scale = 1 for "triangular", 1/2**i for "triangular2", and gamma**n for "exp_range".

    Args:
        low: the value at step 1, finite.
        high: the value at step `up + 1`, finite; below `low` (for a momentum, say) everything is upside down.
        up: steps from low to high, at least 1.
        down: steps back, at least 1; None takes `up`.
        mode: what becomes of the height, as above.
        gamma: above 0 and at most 1.

    Source: Smith, Cyclical learning rates for training neural networks, 2017, section 3.1; torch's CyclicLR.

    >>> schedule = ao.schedules.Cyclic(0.0, 1.0, up=2)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    arguments: ClassVar[tuple[str, ...]] = ("low", "high", "up", "down", "mode", "gamma")

    def __init__(
        self,
        low: float,
        high: float,
        up: int,
        down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
    ) -> None:
        self.low: float = finite.value("low", low)
        self.high: float = finite.value("high", high)
        self.up: int = whole_number("up", up)
        self.down: int = whole_number("down", self.up if down is None else down)
        self.mode: str = choice("mode", mode, _MODES)
        self.gamma: float = share.value("gamma", gamma)

    def _value(self, n: Any) -> Any:
        i, m = quotient(n, self.up + self.down), remainder(n, self.up + self.down)
        x = where(at_least(m, self.up), 1 - progress(m, self.down, self.up), progress(m, self.up))
        scale = {"triangular": 1.0, "triangular2": power(0.5, i), "exp_range": power(self.gamma, n)}[self.mode]
        return between(self.low, self.high, x * scale)


class OneCycle(Schedule):
    """A schedule up to a peak, down again, and far below, once, and then constant.

    ::

        two phases:    start -> peak in `up` steps, -> end after `steps`
        three phases:  start -> peak in `up` steps, -> start in `down` steps, -> end after `steps`

    along half a cosine or a line each. For a momentum the peak is its lowest value:
    `OneCycle(0.85, steps, start=0.95, end=0.95)`.

    Args:
        peak: the value at step `up + 1`, finite.
        steps: after how many steps `end` is reached, at least 2.
        up: steps from start to peak, at least 1; None takes 3 tenths of all.
        down: None for two phases; for three the steps from peak back to start, at least 1.
        start: the value at step 1, finite; None takes peak/25.
        end: the value from step `steps + 1` on, finite; None takes start/10000.
        ease: "cosine" or "linear" (or "sqrt").

    Source: Smith and Topin, Super-convergence: very fast training of neural networks using large learning rates, 2018,
    section 3 (three lines); the two cosines are fastai's. torch's OneCycleLR ends with its last step, one earlier:
    total_steps is steps + 1 there, and pct_start is (up + 1) / (steps + 1).

    >>> schedule = ao.schedules.OneCycle(1.0, steps=4)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [0.04, 1.0, 0.75, 0.25, 0.0]
    """

    arguments: ClassVar[tuple[str, ...]] = ("peak", "steps", "up", "down", "start", "end", "ease")

    def __init__(
        self,
        peak: float,
        steps: int,
        up: int | None = None,
        down: int | None = None,
        start: float | None = None,
        end: float | None = None,
        ease: str = "cosine",
    ) -> None:
        self.peak: float = finite.value("peak", peak)
        self.steps: int = whole_number("steps", steps, 2)
        self.up: int = whole_number("up", max(1, 3 * self.steps // 10) if up is None else up)
        self.down: int | None = None if down is None else whole_number("down", down)
        self.start: float = finite.value("start", self.peak / 25 if start is None else start)
        self.end: float = finite.value("end", self.start / 10_000 if end is None else end)
        self.ease: str = choice("ease", ease, _SMOOTH)
        if self.up + (self.down or 0) >= self.steps:
            raise ValueError(f"up is {self.up} and down is {self.down}; wanted less than steps, {self.steps}, together")

    def _value(self, n: Any) -> Any:
        back = () if self.down is None else ((self.up + self.down, self.start),)
        return through(n, ((0, self.start), (self.up, self.peak), *back, (self.steps, self.end)), self.ease)


class WarmupStableDecay(Schedule):
    """Up along a line, a plateau, and down: the plateau may be continued, and left at any time.

    ::

        start -> peak along a line in `warmup` steps
        peak for `stable` steps
        peak -> end in `decay` steps, as peak + (end - peak)*e(x) with x from 0 to 1; then end

    with e(x) = x for "linear", sqrt(x) for "sqrt", (1 - cos(pi*x))/2 for "cosine".

    Args:
        peak: the value at step `warmup + 1`, finite.
        warmup: steps, at least 0.
        stable: steps, at least 0.
        decay: steps, at least 0.
        start: the value at step 1, finite.
        end: the value after all three phases, finite.
        ease: the way down, as above.

    Source: Hu et al., MiniCPM, 2024, section 4.2; Hägele et al., Scaling laws and compute-optimal training beyond
    fixed training durations, 2024, section 3, for the ways down ("1-sqrt").

    >>> schedule = ao.schedules.WarmupStableDecay(1.0, warmup=2, stable=1, decay=2)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [0.0, 0.5, 1.0, 1.0, 0.5]
    """

    arguments: ClassVar[tuple[str, ...]] = ("peak", "warmup", "stable", "decay", "start", "end", "ease")

    def __init__(
        self,
        peak: float,
        warmup: int,
        stable: int,
        decay: int,
        start: float = 0.0,
        end: float = 0.0,
        ease: str = "linear",
    ) -> None:
        self.peak: float = finite.value("peak", peak)
        self.warmup: int = whole_number("warmup", warmup, 0)
        self.stable: int = whole_number("stable", stable, 0)
        self.decay: int = whole_number("decay", decay, 0)
        self.start: float = finite.value("start", start)
        self.end: float = finite.value("end", end)
        self.ease: str = choice("ease", ease, _SMOOTH)

    def _value(self, n: Any) -> Any:
        risen = between(self.start, self.peak, progress(n, self.warmup))
        return between(risen, self.end, EASES[self.ease](progress(n, self.decay, self.warmup + self.stable)))
