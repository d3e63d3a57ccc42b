"""Adamax."""

from __future__ import annotations

from typing import Any, ClassVar

from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import KW_ONLY, Fraction, Nonnegative
from anyoptim._trace._scalars import one_minus_power
from anyoptim.optimizers._terms import mean

__all__ = ["Adamax"]


class Adamax(Optimizer):
    """Adam by the largest gradient, which fades, instead of a mean of squares.

    ::

        m <- beta1*m + (1-beta1)*g
        u <- max(beta2*u, |g| + eps_max)
        p <- p - lr/(1 - beta1**t) * m / (u + eps)

    The paper has no eps, and 0/0 where all gradients were 0: `Adamax(eps=0.0)`. Keras adds its own behind the maximum,
    as here; torch and optax add theirs inside it, where it doesn't fade: `Adamax(eps=0.0, eps_max=1e-8)`.

    Args:
        lr: learning rate, finite and at least 0.
        beta1, beta2: decay of m and of u, in [0, 1).
        eps: keeps the division finite, finite and at least 0.
        eps_max: the same inside the maximum.

    Source: Kingma and Ba, Adam: a method for stochastic optimization, 2015, algorithm 2, where lr is 0.002.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.Adamax(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.715, -1.708])
    """

    lr: Nonnegative = 0.001
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: Nonnegative = 1e-7
    _: KW_ONLY
    eps_max: Nonnegative = 0.0
    slots: ClassVar[tuple[str, ...]] = ("m", "u")

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        lr_t, eps = hyper.lr / one_minus_power(hyper.beta1, t), {"eps": hyper.eps, "eps_max": hyper.eps_max}
        return {"lr_t": lr_t, "beta1": hyper.beta1, "beta2": hyper.beta2, **eps}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, u: Array, c: Any) -> tuple[Array, ...]:
        m = mean(m, x, c.beta1)
        u = xp.maximum(c.beta2 * u, xp.abs(x) + c.eps_max)
        return c.lr_t * m / (u + c.eps), m, u
