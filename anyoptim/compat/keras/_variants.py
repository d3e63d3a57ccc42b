"""What Keras computes otherwise than the methods and stages here: other starts, weights and sums of the same rules."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY
from typing import Any, Final

from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim._core._stage import ParameterStage
from anyoptim._trace._hyperparameters import Count, Fraction, Nonnegative, Number, UnitInterval
from anyoptim._trace._scalars import one_minus_power, remainder, sqrt, where
from anyoptim.optimizers import Adafactor, ScheduleFreeAdamW
from anyoptim.optimizers.matrices import Whole, unit
from anyoptim.stages.layers import is_complex

__all__ = ["EvenScheduleFreeAdamW", "LateAdafactor", "NesterovSumMuon", "Overwritten", "StartedAverage", "SumMuon"]


class StartedAverage(ParameterStage):
    """An exponential moving average of the parameters after their steps, which starts with the first of these.

    ::

        average <- p                                        at the first step
        average <- average + (1-decay)*(p - average)        at others
    """

    decay: UnitInterval
    slots = ("average",)
    evaluate = staticmethod(lambda xp, p, average, **_: average)

    def init_slots(self, xp: Any, p: Array) -> tuple[Array, ...]:
        """The parameter as it is."""
        return (xp.asarray(p, copy=True),)

    def coefficients(self, t: Any, *, decay: Any) -> dict[str, Any]:
        """The share of p in the new average."""
        return {"new": where(t == 1, 1.0, 1 - decay)}

    @staticmethod
    def rule(xp: Any, p: Array, average: Array, *, new: float) -> tuple[Array, ...]:
        return p, xp.where(new < 1.0, average + new * (p - average), p)


class Overwritten(StartedAverage):
    """The same, and every so many steps the parameter becomes the average."""

    every: Final[Count]

    def coefficients(self, t: Any, *, decay: Any) -> dict[str, Any]:
        """The same, and 1 for a step at which p becomes the average, else 0."""
        back = where(remainder(t, self.every) == 0, 1.0, 0.0)
        return {**super().coefficients(t, decay=decay), "back": back}

    @staticmethod
    def rule(  # type: ignore[override] # it has a coefficient more
        xp: Any, p: Array, average: Array, *, new: float, back: float
    ) -> tuple[Array, ...]:
        average = xp.where(new < 1.0, average + new * (p - average), p)
        return xp.where(back > 0.0, average, p), average


class LateAdafactor(Adafactor):
    """Adafactor that sees the parameter after its decay.

    ::

        p <- p - loss*p
        p <- p - max(floor, rms(p)) * min(lr, 1/sqrt(t)) * u
    """

    _: KW_ONLY
    loss: Nonnegative

    @staticmethod
    def coefficients(t: Any, *, loss: Any, **adafactor: Any) -> dict[str, Any]:  # type: ignore[override] # it has one more
        return {**Adafactor.coefficients(t, **adafactor), "loss": loss}

    @staticmethod
    def rule(  # type: ignore[override] # it has a coefficient more
        xp: Any, p: Array, x: Array, row: Array, column: Array, v: Array, *, loss: float, **adafactor: float
    ) -> tuple[Array, ...]:
        if 0 in p.shape:
            return x, row, column, v
        step, *slots = Adafactor.rule(xp, p - loss * p, x, row, column, v, **adafactor)
        return (step + loss * p, *slots)


class SumMuon(Optimizer):
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
        """All but real matrices."""
        if is_complex(p):
            return "is complex; Muon wants real matrices"
        return None if p.ndim == 2 and 0 not in p.shape else f"has shape {tuple(p.shape)}; Muon wants matrices"

    @staticmethod
    def coefficients(t: Any, *, momentum: Any, **others: Any) -> dict[str, Any]:
        return {"momentum": momentum, "of_m": 1.0, "of_g": 0.0, **others}

    @staticmethod
    def rule(
        xp: Any,
        p: Array,
        x: Array,
        m: Array,
        *,
        lr: float,
        momentum: float,
        of_m: float,
        of_g: float,
        rms: float,
        steps: float,
        a: float,
        b: float,
        c: float,
    ) -> tuple[Array, ...]:
        m = momentum * m + x
        u = of_m * m + of_g * x
        rows, columns = u.shape
        u = xp.matrix_transpose(u) if rows > columns else u
        u = unit(xp, u, 1e-7)
        for _ in range(int(steps)):
            square = u @ xp.matrix_transpose(u)
            u = a * u + (b * square + c * (square @ square)) @ u
        u = xp.matrix_transpose(u) if rows > columns else u
        return lr * (rms * math.sqrt(max(rows, columns)) if rms else 1.0) * u, m


class NesterovSumMuon(SumMuon):
    """The same with `u = g + momentum*m`."""

    @staticmethod
    def coefficients(t: Any, *, momentum: Any, **others: Any) -> dict[str, Any]:
        return {"momentum": momentum, "of_m": momentum, "of_g": 1.0, **others}


class EvenScheduleFreeAdamW(ScheduleFreeAdamW):
    """Schedule-free AdamW whose average weighs all steps alike, and whose eps is at the root of the corrected v.

    ::

        z <- z - lr*g / (sqrt(v/(1-beta2**t)) + eps)
        x <- (1-c)*x + c*z,    c = 1/t
    """

    scalars = {}  # of which it has none
    update_scalars = staticmethod(lambda _, **__: {})  # type: ignore[assignment] # likewise

    @staticmethod
    def coefficients(  # type: ignore[override] # it has no numbers
        t: Any, *, lr: Any, beta: Any, beta2: Any, eps: Any, weight_decay: Any
    ) -> dict[str, Any]:
        corrected = sqrt(one_minus_power(beta2, t))
        return {
            "rate": lr * corrected,
            "a2": 1 - beta2,
            "b2": beta2,
            "eps": eps * corrected,
            "share": 1 / t,
            "along": 1 - beta * (1 - 1 / t),
            "decay": weight_decay,
        }
