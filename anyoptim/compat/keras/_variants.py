"""Methods and stages that Keras computes in another way than ours: other starts, weights and sums of the same rules."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY
from typing import Any, Final

from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import Count, Fraction, Nonnegative, Number, UnitInterval, Whole
from anyoptim._trace._scalars import one_minus_power, remainder, sqrt, where
from anyoptim.optimizers import Adafactor, ScheduleFreeAdamW
from anyoptim.optimizers.matrices import unit
from anyoptim.stages.averaging import Averaging
from anyoptim.stages.layers import is_complex

__all__ = [
    "KerasAdafactor",
    "KerasEMA",
    "KerasMuon",
    "KerasNesterovMuon",
    "KerasOverwritingEMA",
    "KerasScheduleFreeAdamW",
]


class KerasEMA(Averaging):
    """An exponential moving average of the parameters after their steps, which starts with the first of these.

    ::

        average <- p                                        at the first step
        average <- average + (1-decay)*(p - average)        at others
    """

    decay: UnitInterval

    def coefficients(self, t: Any, hyper: Any) -> dict[str, Any]:
        """The share of p in the new average."""
        return {"new": where(t == 1, 1.0, 1 - hyper.decay)}

    @staticmethod
    def rule(xp: Any, p: Array, average: Array, c: Any) -> tuple[Array, ...]:
        return p, xp.where(c.new < 1.0, average + c.new * (p - average), p)


class KerasOverwritingEMA(KerasEMA):
    """An average from the first step on, which the parameter becomes every so many steps."""

    every: Final[Count]

    def coefficients(self, t: Any, hyper: Any) -> dict[str, Any]:
        """The share of p in the new average, and 1 for a step at which p becomes the average, else 0."""
        back = where(remainder(t, self.every) == 0, 1.0, 0.0)
        return {**super().coefficients(t, hyper), "back": back}

    @staticmethod
    def rule(xp: Any, p: Array, average: Array, c: Any) -> tuple[Array, ...]:
        average = xp.where(c.new < 1.0, average + c.new * (p - average), p)
        return xp.where(c.back > 0.0, average, p), average


class KerasAdafactor(Adafactor):
    """Adafactor that sees the parameter after its decay.

    ::

        p <- p - loss*p
        p <- p - max(floor, rms(p)) * min(lr, 1/sqrt(t)) * u
    """

    _: KW_ONLY
    loss: Nonnegative

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {**Adafactor.coefficients(t, hyper), "loss": hyper.loss}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, row: Array, column: Array, v: Array, c: Any) -> tuple[Array, ...]:
        if 0 in p.shape:
            return x, row, column, v
        step, *slots = Adafactor.rule(xp, p - c.loss * p, x, row, column, v, c)
        return (step + c.loss * p, *slots)


class KerasMuon(Optimizer):
    """Muon by a sum of gradients, with steps of one size for all shapes.

    ::

        m <- momentum*m + g
        u = m
        u <- u / (|u| + 1e-7);  `steps` times: A = u u',  u <- a*u + (b*A + c*A*A) u
        p <- p - lr*rms*sqrt(max(rows, columns))*u        with an rms of 0: lr*u
    """

    lr: Nonnegative
    momentum: Fraction
    rms: Nonnegative
    steps: Whole
    a: Number
    b: Number
    c: Number
    slots = ("m",)
    array_rule = True

    def refusal(self, p: Array) -> str | None:
        """Refuse all parameters but real matrices."""
        if is_complex(p):
            return "is complex; Muon wants real matrices"
        return None if p.ndim == 2 and 0 not in p.shape else f"has shape {tuple(p.shape)}; Muon wants matrices"

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"momentum": hyper.momentum, "of_m": 1.0, "of_g": 0.0, **vars(hyper)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, c: Any) -> tuple[Array, ...]:
        m = c.momentum * m + x
        u = c.of_m * m + c.of_g * x
        rows, columns = u.shape
        u = xp.matrix_transpose(u) if rows > columns else u
        u = unit(xp, u, 1e-7)
        for _ in range(int(c.steps)):
            square = u @ xp.matrix_transpose(u)
            u = c.a * u + (c.b * square + c.c * (square @ square)) @ u
        u = xp.matrix_transpose(u) if rows > columns else u
        return c.lr * (c.rms * math.sqrt(max(rows, columns)) if c.rms else 1.0) * u, m


class KerasNesterovMuon(KerasMuon):
    """Keras's Muon with `u = g + momentum*m`."""

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"momentum": hyper.momentum, "of_m": hyper.momentum, "of_g": 1.0, **vars(hyper)}


class KerasScheduleFreeAdamW(ScheduleFreeAdamW):
    """Schedule-free AdamW whose average weighs all steps alike, and whose eps is at the root of the corrected v.

    ::

        z <- z - lr*g / (sqrt(v/(1-beta2**t)) + eps)
        x <- (1-c)*x + c*z,    c = 1/t
    """

    scalars = {}  # of which it has none

    @staticmethod
    def update_scalars(step: Any, hyper: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        corrected = sqrt(one_minus_power(hyper.beta2, t))
        return {
            "rate": hyper.lr * corrected,
            "beta2": hyper.beta2,
            "eps": hyper.eps * corrected,
            "share": 1 / t,
            "along": 1 - hyper.beta * (1 - 1 / t),
            "decay": hyper.weight_decay,
        }
