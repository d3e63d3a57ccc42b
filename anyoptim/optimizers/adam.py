"""Adam."""

from __future__ import annotations

from typing import Any

from anyoptim._arrays import Array
from anyoptim._hyperparameters import Hyper, fraction, nonnegative
from anyoptim._optimizer import Optimizer
from anyoptim._scalars import one_minus_power, sqrt

__all__ = ["Adam"]


class Adam(Optimizer):
    """Momentum and a learning rate for each element, both corrected for starting at 0.

    ::

        m <- m + (1-beta1)*(g - m)
        v <- v + (1-beta2)*(g*g - v)
        lr_t = lr * sqrt(1 - beta2**t) / (1 - beta1**t)
        p <- p - lr_t*m / (sqrt(v) + eps)

    eps is added to the root of the uncorrected v, as in Keras; torch and optax add theirs to the
    root of the corrected one. t counts the steps of this parameter, from 1.

    Args:
        lr: learning rate, finite and at least 0; a number or a schedule of the step number.
        beta1: decay of m, in [0, 1); likewise.
        beta2: decay of v, in [0, 1); likewise.
        eps: keeps the division finite, finite and at least 0; likewise.
        engine: the machine that runs the rule; None chooses.

    Source: Kingma and Ba, Adam: a method for stochastic optimization, 2015, the more efficient form
    at the end of section 2.
    """

    hyperparameters = {"lr": nonnegative, "beta1": fraction, "beta2": fraction, "eps": nonnegative}
    slots = ("m", "v")

    def __init__(
        self,
        lr: Hyper = 0.001,
        beta1: Hyper = 0.9,
        beta2: Hyper = 0.999,
        eps: Hyper = 1e-7,
        *,
        engine: str | None = None,
    ) -> None:
        super().__init__(engine=engine, lr=lr, beta1=beta1, beta2=beta2, eps=eps)

    @staticmethod
    def coefficients(t: Any, *, lr: float, beta1: float, beta2: float, eps: float) -> dict[str, Any]:
        lr_t = lr * sqrt(one_minus_power(beta2, t)) / one_minus_power(beta1, t)
        return {"lr_t": lr_t, "a1": 1 - beta1, "a2": 1 - beta2, "eps": eps}

    @staticmethod
    def rule(
        xp: Any, p: Array, x: Array, m: Array, v: Array, *, lr_t: float, a1: float, a2: float, eps: float
    ) -> tuple[Array, ...]:
        m = m + a1 * (x - m)
        v = v + a2 * (x * x - v)
        return lr_t * m / (xp.sqrt(v) + eps), m, v
