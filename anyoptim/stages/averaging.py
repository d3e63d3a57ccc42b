"""Averages of the parameters after their steps, beside them and in their place."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from anyoptim._arrays import Array
from anyoptim._stage._stage import ParameterStage
from anyoptim._trace._hyperparameters import Count, Fraction, UnitInterval, WholeNumber
from anyoptim._trace._scalars import remainder, where

__all__ = ["EMA", "SWA", "Averaging", "Lookahead"]


class Averaging(ParameterStage):
    """A stage whose slot `average` starts as the parameter, and is what `eval_params` gives."""

    slots: ClassVar[tuple[str, ...]] = ("average",)
    starts: ClassVar[dict[str, Any]] = {"average": "p"}
    evaluate: ClassVar[Any] = staticmethod(lambda xp, p, average, hyper: average)


class EMA(Averaging):
    """An exponential moving average of the parameters after their steps, to evaluate with.

    ::

        average <- average + (1-decay)*(p - average)

    It starts as the parameter before its first step; that of torch's `AveragedModel` with `get_ema_multi_avg_fn` starts
    as the parameter after it. `optimizer.eval_params(params)` gives the averages. They are a slot: of
    `optimizer = chain(Adam(), EMA(0.999))` they are `optimizer.state.slots[1]["average"]`, in a container like
    `params`, and in at least float32.

    Args:
        decay: the share of the last average that is kept, in [0, 1).

    Source: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992, with exponential weights.

    >>> w, optimizer = np.zeros(1), ao.chain(ao.SGD(lr=1.0), ao.EMA(0.5))
    >>> [float(optimizer.update(w, -np.ones(1))[0]) for _ in range(3)]
    [1.0, 2.0, 3.0]
    >>> optimizer.eval_params(w)
    array([2.125])
    """

    decay: Fraction = 0.999

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"new": 1 - hyper.decay}

    @staticmethod
    def rule(xp: Any, p: Array, average: Array, c: Any) -> tuple[Array, ...]:
        return p, average + c.new * (p - average)


class SWA(Averaging):
    """Stochastic weight averaging: the mean of the parameters after some of their steps, all with the same weight.

    ::

        average <- p                                at the steps up to t = start
        average <- average + (p - average)/(n+1)    at t = start + n*every

    and at other steps it stays. t counts the steps of this parameter, from 1. With a `start` of 0 the parameter before
    its first step is one of those in the mean, as in the paper; with one of 1 the mean is that of torch's
    `AveragedModel`, updated after every step. It is the slot `average`, as that of `EMA`, and has at least float32.

    Args:
        start: the step whose parameters are the first in the mean, an integer, at least 0.
        every: the steps from one that is in the mean to the next, an integer, at least 1.

    Both stay as they are, because the mean does not know how many it is of.

    Source: Izmailov et al., Averaging weights leads to wider optima and better generalization, 2018, algorithm 1,
    whose c is `every`; how its learning rate goes is a schedule's to say.

    >>> w, optimizer = np.zeros(1), ao.chain(ao.SGD(lr=1.0), ao.SWA(start=2))
    >>> [float(optimizer.update(w, -np.ones(1))[0]) for _ in range(4)]
    [1.0, 2.0, 3.0, 4.0]
    >>> optimizer.eval_params(w)
    array([3.])
    """

    start: Final[Annotated[int, WholeNumber(0)]]
    every: Final[Count] = 1

    def coefficients(self, t: Any, hyper: Any) -> dict[str, Any]:
        """The share of p in the new average: 1 up to the start, 0 where it rests."""
        late = where(t > self.start, t, self.start) - self.start
        return {"new": where(remainder(late, self.every) == 0, 1 / (late / self.every + 1), 0.0)}

    @staticmethod
    def rule(xp: Any, p: Array, average: Array, c: Any) -> tuple[Array, ...]:
        mean = average + c.new * (p - average)
        # The very bits of p or of the average: what is left of them by rounding, or of infinities, would not do.
        return p, xp.where(c.new > 0.0, xp.where(c.new < 1.0, mean, p), average)


class Lookahead(ParameterStage):
    """Steps that are tried out: every so many of them, the parameter goes only a share of the way that it came.

    ::

        slow <- slow + share*(p - slow),  p <- slow    at t = every, 2*every, 3*every, ...

    and at other steps both stay. t counts the steps of this parameter, from 1. `slow` starts as the parameter before
    its first step, and is a slot: what to evaluate with, says the paper, and what `eval_params` gives. The slots of the
    method go on as they are, where the paper also names resetting them.

    Args:
        every: how many steps are tried out, an integer, at least 1; it stays as it is.
        share: how much of the way is kept, in [0, 1].

    Source: Zhang et al., Lookahead optimizer: k steps forward, 1 step back, 2019, algorithm 1, whose k is `every`, and
    whose alpha `share`.

    >>> w, optimizer = np.zeros(1), ao.chain(ao.SGD(lr=1.0), ao.Lookahead(every=3, share=0.5))
    >>> [float(optimizer.update(w, -np.ones(1))[0]) for _ in range(4)]
    [1.0, 2.0, 1.5, 2.5]
    """

    every: Final[Count] = 5
    share: UnitInterval = 0.5
    slots: ClassVar[tuple[str, ...]] = ("slow",)
    starts: ClassVar[dict[str, Any]] = {"slow": "p"}
    evaluate: ClassVar[Any] = staticmethod(lambda xp, p, slow, hyper: slow)

    def coefficients(self, t: Any, hyper: Any) -> dict[str, Any]:
        """The share, and 1 for a step at which the parameter goes back, else 0."""
        return {"share": hyper.share, "back": where(remainder(t, self.every) == 0, 1.0, 0.0)}

    @staticmethod
    def rule(xp: Any, p: Array, slow: Array, c: Any) -> tuple[Array, ...]:
        short = slow + c.share * (p - slow)
        return xp.where(c.back > 0.0, short, p), xp.where(c.back > 0.0, short, slow)
