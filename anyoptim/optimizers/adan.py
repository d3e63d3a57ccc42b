"""Adan."""

from __future__ import annotations

from typing import Any, ClassVar

from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import KW_ONLY, Fraction, Nonnegative
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
        lr: learning rate, finite and at least 0.
        beta1: decay of m, in [0, 1).
        beta2: decay of v, in [0, 1), and how far the look is ahead.
        beta3: decay of n, in [0, 1).
        eps: keeps the division finite, finite and at least 0.
        weight_decay: how much p shrinks, in units of lr, finite and at least 0.
        eps_root: another eps inside the root.

    Source: Xie et al., Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models, 2022, algorithm 1.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.Adan(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.702, -1.701])
    """

    lr: Nonnegative = 0.001
    beta1: Fraction = 0.98
    beta2: Fraction = 0.92
    beta3: Fraction = 0.99
    eps: Nonnegative = 1e-8
    weight_decay: Nonnegative = 0.0
    _: KW_ONLY
    eps_root: Nonnegative = 0.0
    slots: ClassVar[tuple[str, ...]] = ("m", "v", "n", "h")

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        beta1, beta2, beta3 = hyper.beta1, hyper.beta2, hyper.beta3
        c3 = one_minus_power(beta3, t)
        corrected, decay = sqrt(c3), hyper.lr * hyper.weight_decay
        return {
            "lr_m": hyper.lr * corrected / one_minus_power(beta1, t),
            "lr_v": hyper.lr * corrected * beta2 / one_minus_power(beta2, t),
            "beta1": beta1,
            "beta2": beta2,
            "beta3": beta3,
            "ahead": beta2,
            "later": where(t == 1, 0.0, 1.0),
            "eps": corrected * hyper.eps,
            "decay": decay,
            "shrink": 1 / (1 + decay),
            **inside(hyper.eps_root, c3),
        }

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, v: Array, n: Array, h: Array, c: Any) -> tuple[Array, ...]:
        x = squarable(xp, x, 0.25 / xp.sqrt(1 - c.beta3))
        d = c.later * (x - h)
        m = mean(m, x, c.beta1)
        v = mean(v, d, c.beta2)
        n = mean_square(xp, n, x + c.ahead * d, c.beta3)
        step = (c.lr_m * m + c.lr_v * v) / (root(xp, n, c) + c.eps)
        return c.shrink * (step + c.decay * p), m, v, n, x
