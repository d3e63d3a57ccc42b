"""Adam; with decoupled weight decay; and with a denominator that never shrinks, or only fades."""

from __future__ import annotations

from typing import Any, ClassVar

from anyoptim._arrays import Array
from anyoptim._core._adaptive import Adaptive
from anyoptim._trace._hyperparameters import KW_ONLY, Fraction, Nonnegative
from anyoptim._trace._scalars import one_minus_power, sqrt, where
from anyoptim.optimizers._terms import decayed, decoupled, inside, mean, moments, root, squarable, square

__all__ = ["AMSGrad", "Adam", "AdamLike", "AdamW", "Adamax", "CorrectedAMSGrad"]


class AdamLike(Adaptive):
    """What Adam's relatives have in common: hyperparameters, slots, and corrections with eps at the corrected root."""

    lr: Nonnegative = 0.001
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: Nonnegative = 1e-7
    slots: ClassVar[tuple[str, ...]] = ("m", "v")

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        corrected = sqrt(one_minus_power(hyper.beta2, t))
        lr_t = hyper.lr * corrected / one_minus_power(hyper.beta1, t)
        return {"lr_t": lr_t, "beta1": hyper.beta1, "beta2": hyper.beta2, "eps": corrected * hyper.eps}


class Adam(AdamLike):
    """Momentum and a learning rate for each element, both corrected for starting at 0.

    ::

        m <- m + (1-beta1)*(g - m)
        v <- v + (1-beta2)*(g*g - v)
        lr_t = lr * sqrt(1 - beta2**t) / (1 - beta1**t)
        p <- p - lr_t*m / (sqrt(v) + eps)

    t counts the steps of this parameter, from 1. eps is added to the root of the uncorrected v, as in Keras; the
    paper's algorithm 1, torch and optax add theirs to the root of the corrected one: `Adam(eps=0.0,
    eps_corrected=1e-8)`. With all three of them the divisor is `sqrt(v + c*eps_root) + eps + sqrt(c)*eps_corrected`
    with `c = 1 - beta2**t`.

    A g whose square would overflow, an infinite one too, counts as the largest number whose square does not, in m and
    in v alike, so that training goes on; `SkipNonFinite` in front sees it as it is. With `eps_corrected` or `eps_root`
    the means are computed as torch and optax do, `beta1*m + (1-beta1)*g` and `beta2*v + ((1-beta2)*g)*g`; and so they
    are in float32 where a beta is below 1/2, because the form above would lose the new g beside a large m.

    Args:
        lr: learning rate.
        beta1, beta2: decay of m and of v, at least 0 and below 1.
        eps, eps_corrected: against a division by 0, added to the root of v and to that of the corrected v.
        eps_root: the same inside the root of the corrected v, as optax has it.
        joint: take a complex g as a whole, with |g|*|g| for g*g, as optax does, and not as two reals; v is real then.

    Source: Kingma and Ba, Adam: a method for stochastic optimization, 2015, the more efficient form
    at the end of section 2.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.Adam(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.702, -1.701])
    """

    _: KW_ONLY
    eps_corrected: Nonnegative = 0.0
    eps_root: Nonnegative = 0.0

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        beta1, beta2, eps_corrected, eps_root = hyper.beta1, hyper.beta2, hyper.eps_corrected, hyper.eps_root
        c2 = one_minus_power(beta2, t)
        corrected = sqrt(c2)
        table = {
            "lr_t": hyper.lr * corrected / one_minus_power(beta1, t),
            "a1": 1 - beta1,
            "a2": 1 - beta2,
            "eps": hyper.eps + corrected * eps_corrected,
        }
        known = type(eps_corrected) is type(eps_root) is type(beta1) is type(beta2) is float
        if known and not eps_corrected and not eps_root and beta1 >= 0.5 and beta2 >= 0.5:
            return table
        weighted = table | {"b1": beta1, "b2": beta2, **inside(eps_root, c2)}
        return weighted if known and (eps_corrected or eps_root) else {**weighted, "form": _form(hyper)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, v: Array, c: Any) -> tuple[Array, ...]:
        m, v = _means(xp, x, m, v, c)
        return c.lr_t * m / (root(xp, v, c) + c.eps), m, v


def _form(hyper: Any) -> Any:
    """In which dtypes the means have the form of the docstring: 2.0 for all, 1.0 for float64 alone, 0.0 for none."""
    plain = (hyper.eps_corrected == 0) & (hyper.eps_root == 0)
    return where(plain, where((hyper.beta1 < 0.5) | (hyper.beta2 < 0.5), 1.0, 2.0), 0.0)


def _means(xp: Any, x: Array, m: Array, v: Array, c: Any) -> tuple[Array, Array]:
    """The new m and v: without betas in the form of the docstring, without a `form` weighted, else as `form` says."""
    g = squarable(xp, x)
    table = m + c.a1 * (g - m), v + c.a2 * (square(xp, g, c) - v)
    if not hasattr(c, "b1"):
        return table
    x = squarable(xp, x, 1 / xp.sqrt(c.a2))
    weighted = c.b1 * m + c.a1 * x, xp.bound(c.b2 * v + square(xp, x, c, c.a2), xp.largest(v))
    if not hasattr(c, "form"):
        return weighted
    float64 = xp.largest(x) > 1e300
    here = c.form > xp.where(float64, 0.5, 1.5)
    m, v = (xp.where(here, *both) for both in zip(table, weighted, strict=True))
    return m, v


class AdamW(Adam):
    """Adam, and beside its step a share of the parameter: weight decay that the gradients don't scale.

    ::

        m <- m + (1-beta1)*(g - m)
        v <- v + (1-beta2)*(g*g - v)
        lr_t = lr * sqrt(1 - beta2**t) / (1 - beta1**t)
        p <- p - lr_t*m / (sqrt(v) + eps) - lr*weight_decay*p

    The decay is multiplied by lr, as in torch, optax and Keras. In the paper it is not, but by a schedule that
    multiplies Adam's step too: `chain(Adam(alpha), WeightDecay(decay), Scale(schedule))`. What the three eps are, and
    which torch's is, `Adam` says. torch's weight_decay is 0.01 as here, optax's 0.0001, Keras's 0.004.

    Args:
        weight_decay: the share, in units of lr. The other hyperparameters are those of `Adam`.

    Source: Loshchilov and Hutter, Decoupled weight decay regularization, 2019, algorithm 2.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.AdamW(lr=0.1, weight_decay=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.675, -1.644])
    """

    weight_decay: Nonnegative = 0.01

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {**Adam.coefficients(t, hyper), "decay": hyper.lr * hyper.weight_decay}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, v: Array, c: Any) -> tuple[Array, ...]:
        step, m, v = Adam.rule(xp, p, x, m, v, c)
        return step + c.decay * p, m, v


class AMSGrad(Adam):
    """Adam by the largest v so far, so that a rare large gradient is not forgotten.

    ::

        m <- m + (1-beta1)*(g - m)
        v <- v + (1-beta2)*(g*g - v)
        u <- max(u, v)
        lr_t = lr * sqrt(1 - beta2**t) / (1 - beta1**t)
        p <- p - lr_t*m / (sqrt(u) + eps) - lr*weight_decay*p

    The maximum is of the uncorrected v, and the correction is that of the step, as in torch (whose eps is
    `eps_corrected`, as for `Adam`) and Keras. optax takes the maximum of corrected ones: `CorrectedAMSGrad`. The paper
    corrects nothing and has no eps; that is `AMSGrad(lr=lambda t: lr * (1 - beta1**t) / sqrt(1 - beta2**t), eps=0.0)`.
    The decay, which is that of `AdamW`, is another paper's.

    Args:
        weight_decay: decoupled, in units of lr. The others are those of `Adam`, with u for v.

    Source: Reddi, Kale and Kumar, On the convergence of Adam and beyond, 2018, algorithm 2, with Adam's corrections.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.AMSGrad(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.702, -1.701])
    """

    _: KW_ONLY
    weight_decay: Nonnegative = 0.0
    slots: ClassVar[tuple[str, ...]] = ("m", "v", "u")
    squares: ClassVar[tuple[str, ...]] = ("v", "u")

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {**Adam.coefficients(t, hyper), **decoupled(hyper)}

    @staticmethod
    def rule(  # type: ignore[override] # it has a slot more
        xp: Any, p: Array, x: Array, m: Array, v: Array, u: Array, c: Any
    ) -> tuple[Array, ...]:
        m, v = _means(xp, x, m, v, c)
        u = xp.maximum(u, v)
        return decayed(p, c.lr_t * m / (root(xp, u, c) + c.eps), c), m, v, u


class CorrectedAMSGrad(AdamLike):
    """AMSGrad by the largest corrected v, as in optax: the first gradients, whose v is most corrected, weigh more.

    ::

        m <- beta1*m + (1-beta1)*g
        v <- beta2*v + (1-beta2)*g*g
        u <- max(u, v / (1 - beta2**t))
        p <- p - lr * m/(1 - beta1**t) / (sqrt(u + eps_root) + eps)

    Args:
        lr, beta1, beta2, joint: as in `Adam`, with u for v.
        eps, eps_root: against a division by 0, added to the root of u and to u.

    Source: as for `AMSGrad`, with the corrections where `optax.amsgrad` has them.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.CorrectedAMSGrad(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.716, -1.708])
    """

    _: KW_ONLY
    eps_root: Nonnegative = 0.0
    slots: ClassVar[tuple[str, ...]] = ("m", "v", "u")
    squares: ClassVar[tuple[str, ...]] = ("v", "u")

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        lr_t, correction = hyper.lr / one_minus_power(hyper.beta1, t), 1 / one_minus_power(hyper.beta2, t)
        table = {"lr_t": lr_t, "beta1": hyper.beta1, "beta2": hyper.beta2, "correction": correction}
        return {**table, "eps": hyper.eps, **inside(hyper.eps_root)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, v: Array, u: Array, c: Any) -> tuple[Array, ...]:
        _, m, v = moments(xp, x, m, v, c)
        u = xp.maximum(u, xp.bound(c.correction * v, xp.largest(v)))
        return c.lr_t * m / (root(xp, u, c) + c.eps), m, v, u


class Adamax(AdamLike):
    """Adam by the largest gradient, which fades, instead of a mean of squares.

    ::

        m <- beta1*m + (1-beta1)*g
        u <- max(beta2*u, |g| + eps_max)
        p <- p - lr/(1 - beta1**t) * m / (u + eps)

    The paper has no eps, and 0/0 where all gradients were 0: `Adamax(eps=0.0)`. Keras adds its own behind the maximum,
    as here; torch and optax add theirs inside it, where it doesn't fade: `Adamax(eps=0.0, eps_max=1e-8)`.

    Args:
        lr, beta1, beta2, eps, joint: as in `Adam`, with u for v, and no root.
        eps_max: the same as eps, inside the maximum.

    Source: Kingma and Ba, Adam: a method for stochastic optimization, 2015, algorithm 2, where lr is 0.002.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.Adamax(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.715, -1.708])
    """

    _: KW_ONLY
    eps_max: Nonnegative = 0.0
    slots: ClassVar[tuple[str, ...]] = ("m", "u")
    squares: ClassVar[tuple[str, ...]] = ("u",)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        lr_t, eps = hyper.lr / one_minus_power(hyper.beta1, t), {"eps": hyper.eps, "eps_max": hyper.eps_max}
        return {"lr_t": lr_t, "beta1": hyper.beta1, "beta2": hyper.beta2, **eps}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, u: Array, c: Any) -> tuple[Array, ...]:
        m = mean(m, x, c.beta1)
        size = xp.bound(xp.modulus(x), xp.largest(x)) if hasattr(c, "joint") else xp.abs(x)
        u = xp.maximum(c.beta2 * u, size + c.eps_max)
        return c.lr_t * m / (u + c.eps), m, u
