"""Adam with another v than the mean of squared gradients; and RAdam, which trusts that mean by degrees."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from anyoptim._arrays import Array
from anyoptim._trace._hyperparameters import KW_ONLY, Nonnegative, nonnegative
from anyoptim._trace._scalars import log, one_minus_power, sqrt, where
from anyoptim.optimizers._terms import decayed, decoupled, inside, mean, mean_square, moments, root, squarable, square
from anyoptim.optimizers.adam import AdamLike

__all__ = ["AdaBelief", "CorrectedYogi", "RAdam", "Yogi"]


class AdaBelief(AdamLike):
    """Adam by how far gradients are from their mean: long steps where they come as expected.

    ::

        m <- beta1*m + (1-beta1)*g
        s <- beta2*s + (1-beta2)*(g-m)*(g-m) + eps_root
        p <- p - lr * m/(1 - beta1**t) / (sqrt(s/(1 - beta2**t)) + eps)

    eps_root is added to s at every step and stays there, so that it adds up to `eps_root/(1-beta2)`. In the paper both
    eps are one number; optax has both, with the defaults of here.

    Args:
        lr, beta1, beta2, joint: as in `Adam`, with s for v.
        eps, eps_root: against a division by 0, added to the root of the corrected s and to s.

    Source: Zhuang et al., AdaBelief optimizer: adapting stepsizes by the belief in observed gradients, 2020,
    algorithm 2.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.AdaBelief(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.652, -1.651])
    """

    eps: Nonnegative = 1e-16
    eps_root: Nonnegative = 1e-16
    slots: ClassVar[tuple[str, ...]] = ("m", "s")
    squares: ClassVar[tuple[str, ...]] = ("s",)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {**AdamLike.coefficients(t, hyper), "eps_root": hyper.eps_root}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, s: Array, c: Any) -> tuple[Array, ...]:
        _, m, s = AdaBelief.means(xp, x, m, s, c)
        return c.lr_t * m / (xp.sqrt(s) + c.eps), m, s

    @staticmethod
    def means(xp: Any, x: Array, m: Array, s: Array, c: Any) -> tuple[Array, Array, Array]:
        """The part of x that can be squared, the new mean and the new variance."""
        x = squarable(xp, x, 0.5 / xp.sqrt(1 - c.beta2))
        m = mean(m, x, c.beta1)
        return x, m, mean_square(xp, s, x - m, c.beta2, c) + c.eps_root


class Yogi(AdamLike):
    """Adam whose v moves by a share of the squared gradient alone, towards it, however far away that is.

    ::

        m <- beta1*m + (1-beta1)*g
        v <- v - (1-beta2)*sign(v - g*g)*g*g
        p <- p - lr*m / (sqrt(v) + eps)

    v starts at `initial`. The paper corrects neither m nor v for where they start; optax corrects both, and starts
    m at `initial`, too: `CorrectedYogi` with another start of m.

    Args:
        lr, joint: learning rate; as in `Adam`.
        beta1, beta2: decay of m, and 1 less the share of a squared gradient by which v moves.
        eps: keeps the division finite and steps short.
        initial: v before the first step, finite and at least 0; it can't be changed later.

    Source: Zaheer et al., Adaptive methods for nonconvex optimization, 2018, algorithm 2.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.Yogi(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([-0.148, -0.791])
    """

    lr: Nonnegative = 0.01
    eps: Nonnegative = 1e-3
    _: KW_ONLY
    initial: Final[Annotated[float, nonnegative]] = 1e-6
    starts: ClassVar[dict[str, Any]] = {"v": "initial"}

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"lr_t": hyper.lr, "beta1": hyper.beta1, "beta2": hyper.beta2, "eps": hyper.eps}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, v: Array, c: Any) -> tuple[Array, ...]:
        x = squarable(xp, x, 0.5)  # v may be larger than the square that it moves towards
        m = mean(m, x, c.beta1)
        squared = square(xp, x, c)
        v = v - (1 - c.beta2) * (xp.sign(v - squared) * squared)
        return c.lr_t * m / (xp.sqrt(v) + c.eps), m, v


class CorrectedYogi(Yogi):
    """Yogi with Adam's corrections, as most libraries have it.

    ::

        m <- beta1*m + (1-beta1)*g
        v <- v - (1-beta2)*sign(v - g*g)*g*g
        p <- p - lr * m/(1 - beta1**t) / (sqrt(v/(1 - beta2**t)) + eps)

    optax starts m at `initial` as well, which is forgotten as m forgets; here m starts at 0.

    Its hyperparameters are those of `Yogi`.

    Source: as for `Yogi`.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.CorrectedYogi(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.702, -1.701])
    """

    coefficients = staticmethod(AdamLike.coefficients)


class RAdam(AdamLike):
    """Adam that leaves v alone until it has seen enough gradients, and trusts it by degrees from then on.

    ::

        m <- beta1*m + (1-beta1)*g
        v <- beta2*v + (1-beta2)*g*g
        rho_inf = 2/(1-beta2) - 1
        rho = rho_inf - 2*t*beta2**t / (1 - beta2**t)
        r = sqrt((rho-4) * (rho-2) * rho_inf / ((rho_inf-4) * (rho_inf-2) * rho))
        lr_t = lr * sqrt(1 - beta2**t) / (1 - beta1**t)
        p <- p - r*lr_t*m / (sqrt(v) + eps)              where rho > threshold
        p <- p - lr/(1 - beta1**t) * m                   before
        p <- p - lr*weight_decay*p                       beside either

    rho is the number of gradients that v is a mean of, as good as. It passes 5 at the sixth step for a beta2 of 0.999,
    and never for one of 2/3 or less. The paper's threshold is 4 and there is no eps; torch has the threshold and the
    eps of here, optax a threshold of 5 and its eps at the root of the corrected v: `RAdam(eps=0.0,
    eps_corrected=1e-8)`. With all three of them the divisor is as in `Adam`.

    Args:
        lr, beta1, beta2, eps, eps_corrected, eps_root, joint: as in `Adam`.
        threshold: what rho must be above; below 4, where r has no root, it is 4.
        weight_decay: decoupled, in units of lr.

    Source: Liu et al., On the variance of the adaptive learning rate and beyond, 2020, algorithm 2.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.RAdam(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.462, -0.925])
    """

    _: KW_ONLY
    threshold: Nonnegative = 5.0
    eps_corrected: Nonnegative = 0.0
    eps_root: Nonnegative = 0.0
    weight_decay: Nonnegative = 0.0

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        c2 = one_minus_power(hyper.beta2, t)
        corrected = sqrt(c2)
        rho = 1 + _growth(hyper.beta2, t) - _growth(hyper.beta2, 1)
        enough = (rho > hyper.threshold) & (rho > 4)
        # Of what is not asked for, there must be a root nevertheless.
        rho, rho_inf = where(enough, rho, 5.0), where(enough, 2 / (1 - hyper.beta2) - 1, 5.0)
        r = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        return {
            "lr_t": hyper.lr * where(enough, r * corrected, 1.0) / one_minus_power(hyper.beta1, t),
            "beta1": hyper.beta1,
            "beta2": hyper.beta2,
            "trust": where(enough, 1.0, 0.0),
            "eps": where(enough, hyper.eps + corrected * hyper.eps_corrected, 1.0),
            **inside(hyper.eps_root, c2),
            **decoupled(hyper),
        }

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, v: Array, c: Any) -> tuple[Array, ...]:
        _, m, v = moments(xp, x, m, v, c)
        return decayed(p, c.lr_t * m / (c.trust * root(xp, v, c) + c.eps), c), m, v


def _growth(beta: Any, t: Any) -> Any:
    """rho, but for a number that depends on beta alone.

    rho is the difference of two numbers of the size of 1/(1-beta), which float32, of `jax.jit`, would leave nothing of.
    With `y = -log(beta)*t/2` both are hyperbolic cotangents, and what is left of them is `t * (1 - coth(y) + 1/y)`.
    """
    y = -log(beta) * t / 2
    fraction: Any = 17.0  # the continued fraction of coth(y) - 1/y, for y < 1 exact to the last digit
    for odd in range(15, 1, -2):
        fraction = odd + y * y / fraction
    c = one_minus_power(beta, t)
    return t * where(y < 1, 1 - y / fraction, 1 / y - 2 * (1 - c) / c)
