"""Adam that looks ahead, as Nesterov's momentum does."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

from anyoptim._arrays import Array
from anyoptim._core._adaptive import Adaptive
from anyoptim._trace._hyperparameters import KW_ONLY, Domain, Fraction, Hyper, Nonnegative
from anyoptim._trace._scalars import expm1, following, log, one_minus_power, sqrt, where
from anyoptim.optimizers._terms import decayed, decoupled, inside, mean, mean_square, moments, root, squarable
from anyoptim.optimizers.adam import AdamLike

__all__ = ["Adan", "NAdam"]

_Half = Annotated[Hyper, Domain(lambda x: 0 <= x <= 0.5, "at least 0 and at most 0.5")]


class NAdam(AdamLike):
    """Adam that looks ahead as Nesterov's momentum does, with a momentum that grows at first.

    ::

        mu_t = beta1 * (1 - warmup * 0.96**(t*momentum_decay))
        m <- beta1*m + (1-beta1)*g
        v <- beta2*v + (1-beta2)*g*g
        n = mu_(t+1) * m / (1 - mu_1*...*mu_(t+1)) + (1-mu_t) * g / (1 - mu_1*...*mu_t)
        p <- p - lr*n / (sqrt(v/(1 - beta2**t) + eps_root) + eps) - lr*weight_decay*p

    That is torch's, which has a momentum_decay of 0.004, and Keras's, which has one of 1. Without warmup mu is beta1,
    and it is optax's. In the paper m fades by mu_t, too, and v is multiplied by beta2. eps is added to the root of the
    corrected v, as everywhere.

    If beta1, warmup or momentum_decay is changed in training, the products are as if it had always been so:
    nothing but the count of steps is remembered of them.

    Args:
        lr, beta1, beta2, joint: as in `Adam`.
        eps, eps_root: against a division by 0, outside the root and, as optax has it, inside.
        warmup: the share of the momentum that is missing before the first step, in [0, 0.5].
        momentum_decay: how fast it comes.
        weight_decay: decoupled, in units of lr.

    Source: Dozat, Incorporating Nesterov momentum into Adam, 2016, algorithm 2; with a mean m like Adam's.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.NAdam(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.753, -1.748])
    """

    _: KW_ONLY
    warmup: _Half = 0.5
    momentum_decay: Nonnegative = 0.004
    eps_root: Nonnegative = 0.0
    weight_decay: Nonnegative = 0.0

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        rate = _LOG * hyper.momentum_decay
        mu = hyper.beta1 * (1 - hyper.warmup * (1 + expm1(-rate * t)))
        ahead = hyper.beta1 * (1 - hyper.warmup * (1 + expm1(-rate * following(t))))
        left = _one_minus_product(hyper.beta1, hyper.warmup, rate, t)
        c2 = one_minus_power(hyper.beta2, t)
        corrected = sqrt(c2)
        return {
            "lr_m": hyper.lr * corrected * ahead / (1 - ahead + ahead * left),
            "lr_g": hyper.lr * corrected * (1 - mu) / left,
            "beta1": hyper.beta1,
            "beta2": hyper.beta2,
            "eps": corrected * hyper.eps,
            **inside(hyper.eps_root, c2),
            **decoupled(hyper),
        }

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, v: Array, c: Any) -> tuple[Array, ...]:
        x, m, v = moments(xp, x, m, v, c)
        return decayed(p, (c.lr_m * m + c.lr_g * x) / (root(xp, v, c) + c.eps), c), m, v


_LOG = -math.log(0.96)
_TERMS = 48  # 0.5**48 is less than the last digit of 1 minus the product
_STILL = 1e-30  # so that a rate of 0 divides nothing by 0; no other rate notices


def _one_minus_product(beta: Any, warmup: Any, rate: Any, t: Any) -> Any:
    """`1 - mu_1*...*mu_t` for `mu_i = beta * (1 - warmup*q**i)` and `q = exp(-rate)`.

    No step needs the product of the one before: the logarithms add up to t*log(beta), and by the series of
    -log(1 - x) to the sum over j = 1, 2, ... of -warmup**j/j * (q**j + q**(2*j) + ... + q**(t*j)).
    """
    if isinstance(beta, float) and isinstance(t, int) and t * log(beta) < -40:
        return 1.0  # to the last digit, without the series
    rate = rate + _STILL
    total: Any = 0.0
    for j in range(_TERMS, 0, -1):
        total = warmup * (total - expm1(-rate * j * t) / (j * expm1(rate * j)))
    return -expm1(t * log(beta) - total)


class Adan(Adaptive):
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
        lr, joint: learning rate; as in `Adam`, with n for v.
        beta1, beta2, beta3: decay of m, v and n; beta2 also says how far the look is ahead.
        eps, eps_root: against a division by 0, outside the root and inside it.
        weight_decay: how much p shrinks, in units of lr.

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
    squares: ClassVar[tuple[str, ...]] = ("n",)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        beta1, beta2, beta3 = hyper.beta1, hyper.beta2, hyper.beta3
        c3 = one_minus_power(beta3, t)
        corrected, decay = sqrt(c3), hyper.lr * hyper.weight_decay
        betas = {"beta1": beta1, "beta2": beta2, "beta3": beta3, "ahead": beta2}
        return {
            **betas,
            "lr_m": hyper.lr * corrected / one_minus_power(beta1, t),
            "lr_v": hyper.lr * corrected * beta2 / one_minus_power(beta2, t),
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
        n = mean_square(xp, n, x + c.ahead * d, c.beta3, c)
        step = (c.lr_m * m + c.lr_v * v) / (root(xp, n, c) + c.eps)
        return c.shrink * (step + c.decay * p), m, v, n, x
