"""Methods that divide by the root of squared gradients, summed or averaged."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from anyoptim._arrays import Array
from anyoptim._core._adaptive import Adaptive
from anyoptim._trace._hyperparameters import KW_ONLY, Fraction, Nonnegative, nonnegative
from anyoptim.optimizers._terms import inside, mean, mean_square, root, squarable, square

__all__ = ["AdaDelta", "AdaGrad", "CenteredRMSProp", "RMSProp"]


class AdaGrad(Adaptive):
    """A learning rate for each element, which falls with the squared gradients it has seen.

    ::

        h <- h + g*g
        p <- p - lr*g / (sqrt(h + eps_root) + eps),    with lr / (1 + (t-1)*lr_decay) for lr

    h starts at `initial`, and eps stands outside the root. A g whose square would overflow counts as the largest number
    whose square does not, and h is at most the largest finite number. Keras and optax start h at 0.1, and have their
    eps of 1e-7 inside the root: `AdaGrad(lr, 0.0, initial=0.1, eps_root=1e-7)`. Torch has an eps of 1e-10.

    Args:
        lr: learning rate.
        eps, eps_root: against a division by 0, outside the root and inside it.
        lr_decay: lets lr fall, as torch's.
        initial: what h starts at, finite and at least 0; a number, which stays as it is.
        joint: as in `Adam`, with h for v.

    Source: Duchi, Hazan and Singer, Adaptive subgradient methods for online learning and stochastic
    optimization, 2011, the diagonal form of figure 1, with eps outside the root.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.AdaGrad(lr=0.5)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.156, -0.984])
    """

    lr: Nonnegative = 0.01
    eps: Nonnegative = 1e-7
    _: KW_ONLY
    initial: Final[Annotated[float, nonnegative]] = 0.0
    eps_root: Nonnegative = 0.0
    lr_decay: Nonnegative = 0.0
    slots: ClassVar[tuple[str, ...]] = ("h",)
    squares: ClassVar[tuple[str, ...]] = ("h",)
    starts: ClassVar[dict[str, Any]] = {"h": "initial"}

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        falls = not isinstance(hyper.lr_decay, float) or hyper.lr_decay
        lr = hyper.lr / (1 + (t - 1) * hyper.lr_decay) if falls else hyper.lr
        return {"lr": lr, "eps": hyper.eps, **inside(hyper.eps_root)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, h: Array, c: Any) -> tuple[Array, ...]:
        x = squarable(xp, x)
        h = xp.bound(h + square(xp, x, c), xp.largest(h))
        return c.lr * x / (root(xp, h, c) + c.eps), h


class RMSProp(Adaptive):
    """A learning rate for each element, by the mean of its latest squared gradients.

    ::

        h <- rho*h + (1-rho)*g*g
        p <- p - lr*g / (sqrt(h + eps_root) + eps)

    Keras and optax have their eps inside the root, and a rho of 0.9. With momentum: `chain(RMSProp(), Trace())` is
    Keras's and optax's, `chain(RMSProp(1.0), Trace(), Scale(lr))` torch's.

    Args:
        lr, joint: learning rate; as in `Adam`, with h for v.
        rho: the share of the mean that is kept.
        eps, eps_root: against a division by 0, outside the root and inside it.

    Source: Tieleman and Hinton, lecture 6.5 of Neural networks for machine learning, 2012.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.RMSProp(lr=0.05)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.155, -0.981])
    """

    lr: Nonnegative = 0.01
    rho: Fraction = 0.99
    eps: Nonnegative = 1e-7
    _: KW_ONLY
    eps_root: Nonnegative = 0.0
    slots: ClassVar[tuple[str, ...]] = ("h",)
    squares: ClassVar[tuple[str, ...]] = ("h",)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"lr": hyper.lr, "rho": hyper.rho, "eps": hyper.eps, **inside(hyper.eps_root)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, h: Array, c: Any) -> tuple[Array, ...]:
        x = squarable(xp, x, 1 / xp.sqrt(1 - c.rho))
        h = mean_square(xp, h, x, c.rho, c)
        return c.lr * x / (root(xp, h, c) + c.eps), h


class CenteredRMSProp(RMSProp):
    """RMSProp by the variance of the latest gradients instead of their mean square.

    ::

        s <- rho*(s + (1-rho)*(g-m)*(g-m))
        m <- rho*m + (1-rho)*g
        p <- p - lr*g / (sqrt(s + eps_root) + eps)

    s is the variance: the mean square of the gradients less the square of their mean, `h - m*m` in the paper, in torch,
    optax and Keras. That difference of rounded numbers falls below 0 where gradients hardly change, and has no root;
    the variance has a recursion of its own, in which nothing is subtracted but m from g.

    Its hyperparameters are those of `RMSProp`.

    Source: Graves, Generating sequences with recurrent neural networks, 2013, equations 38 to 41, where momentum and
    an eps inside the root are added.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.CenteredRMSProp(lr=0.05)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.151, -0.974])
    """

    slots: ClassVar[tuple[str, ...]] = ("s", "m")
    squares: ClassVar[tuple[str, ...]] = ("s",)

    @staticmethod
    def rule(  # type: ignore[override] # it has a slot more
        xp: Any, p: Array, x: Array, s: Array, m: Array, c: Any
    ) -> tuple[Array, ...]:
        x, s, m = CenteredRMSProp.means(xp, x, s, m, c)
        return c.lr * x / (root(xp, s, c) + c.eps), s, m

    @staticmethod
    def means(xp: Any, x: Array, s: Array, m: Array, c: Any) -> tuple[Array, Array, Array]:
        """The part of x that can be squared, the new variance, the new mean."""
        x = squarable(xp, x, 0.5 / xp.sqrt(1 - c.rho))
        d = x - m
        return x, c.rho * xp.bound(s + square(xp, d, c, 1 - c.rho), xp.largest(s)), mean(m, x, c.rho)


class AdaDelta(Adaptive):
    """Steps in the units of the parameter: gradients by their own root mean square, times that of the latest steps.

    ::

        h <- rho*h + (1-rho)*g*g
        d = sqrt(s + eps) / sqrt(h + eps) * g
        s <- rho*s + (1-rho)*d*d
        p <- p - lr*d

    Args:
        lr: a factor to the paper's step.
        rho, joint: the share of the means that is kept; as in `Adam`, with h and s for v.
        eps: starts the motion and keeps the division finite.

    Source: Zeiler, ADADELTA: an adaptive learning rate method, 2012, algorithm 1, which has no lr (1).

    >>> w, optimizer = np.array([1.0, -2.0]), ao.AdaDelta(lr=100.0)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.241, -1.124])
    """

    lr: Nonnegative = 1.0
    rho: Fraction = 0.9
    eps: Nonnegative = 1e-6
    slots: ClassVar[tuple[str, ...]] = ("h", "s")
    squares: ClassVar[tuple[str, ...]] = ("h", "s")

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, h: Array, s: Array, c: Any) -> tuple[Array, ...]:
        x = squarable(xp, x, 1 / xp.sqrt(1 - c.rho))
        h = mean_square(xp, h, x, c.rho, c)
        d = xp.sqrt(s + c.eps) / xp.sqrt(h + c.eps) * x
        s = mean_square(xp, s, d, c.rho, c)
        return c.lr * d, h, s
