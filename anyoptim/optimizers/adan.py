"""Adan."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any

from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import Fraction, Nonnegative
from anyoptim._trace._scalars import one_minus_power, sqrt, where
from anyoptim.optimizers._terms import inside, mean, mean_square, root, squarable

__all__ = ["Adan"]


class Adan(Optimizer):
    """Adam that sees how gradients change: Nesterov's momentum without the gradient of another point.

    ::

        d = g - h                                        d = 0 at the first step
        m <- beta1*m + (1-beta1)*g
        v <- beta2*v + (1-beta2)*d
        n <- beta3*n + (1-beta3)*(g + beta2*d)*(g + beta2*d)
        h <- g
        step = (m/(1 - beta1**t) + beta2*v/(1 - beta2**t)) / (sqrt(n/(1 - beta3**t) + eps_root) + eps)
        p <- (p - lr*step) / (1 + lr*weight_decay)

    A beta is what is kept, as elsewhere; the paper's are 1 less these. The corrections are those of its authors'
    code. Its weight_decay is 0.02; decay as in `AdamW`, which optax has, is `chain(Adan(lr), WeightDecay(lr*0.02))`.
    optax multiplies d and v by 1-beta2 instead of beta2, and has an eps_root of 1e-8.

    Args:
        lr: learning rate, finite and at least 0; a number or a schedule of the step number.
        beta1: decay of m, in [0, 1); likewise.
        beta2: decay of v, in [0, 1), and how far the look is ahead; likewise.
        beta3: decay of n, in [0, 1); likewise.
        eps: keeps the division finite, finite and at least 0; likewise.
        weight_decay: how much p shrinks, in units of lr, finite and at least 0; likewise.
        eps_root: another eps inside the root.
        engine: the machine that runs the rule; None chooses.

    Source: Xie et al., Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models, 2022, algorithm 1.
    """

    lr: Nonnegative = 0.001
    beta1: Fraction = 0.98
    beta2: Fraction = 0.92
    beta3: Fraction = 0.99
    eps: Nonnegative = 1e-8
    weight_decay: Nonnegative = 0.0
    _: KW_ONLY
    eps_root: Nonnegative = 0.0
    slots = ("m", "v", "n", "h")

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        c3 = one_minus_power(hyper.beta3, t)
        corrected = sqrt(c3)
        return {
            "lr_m": hyper.lr * corrected / one_minus_power(hyper.beta1, t),
            "lr_v": hyper.lr * corrected * hyper.beta2 / one_minus_power(hyper.beta2, t),
            "a1": 1 - hyper.beta1,
            "a2": 1 - hyper.beta2,
            "a3": 1 - hyper.beta3,
            "b1": hyper.beta1,
            "b2": hyper.beta2,
            "b3": hyper.beta3,
            "ahead": hyper.beta2,
            "later": where(t == 1, 0.0, 1.0),
            "eps": corrected * hyper.eps,
            "decay": hyper.lr * hyper.weight_decay,
            "shrink": 1 / (1 + hyper.lr * hyper.weight_decay),
            **inside(hyper.eps_root, c3),
        }

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, v: Array, n: Array, h: Array, c: Any) -> tuple[Array, ...]:
        x = squarable(xp, x, 0.25 / xp.sqrt(c.a3))
        d = c.later * (x - h)
        m = mean(m, x, a=c.a1, b=c.b1)
        v = mean(v, d, a=c.a2, b=c.b2)
        n = mean_square(xp, n, x + c.ahead * d, a=c.a3, b=c.b3)
        step = (c.lr_m * m + c.lr_v * v) / (root(xp, n, c) + c.eps)
        return c.shrink * (step + c.decay * p), m, v, n, x
