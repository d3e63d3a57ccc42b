"""Methods that move along the gradient, or a mean of gradients."""

from __future__ import annotations

from typing import Any, ClassVar

from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import Fraction, Nonnegative
from anyoptim._trace._scalars import where

__all__ = ["SGD", "HeavyBall", "HeavyBallNesterov", "Momentum", "Nesterov", "TextbookNesterov"]


class SGD(Optimizer):
    """Stochastic gradient descent.

    ::

        p <- p - lr*g

    Args:
        lr: learning rate, finite and at least 0.

    Source: Robbins and Monro, A stochastic approximation method, 1951, with a constant step.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.SGD(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.512, -1.024])
    """

    lr: Nonnegative = 0.01

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return c.lr * x


class Momentum(Optimizer):
    """Gradient descent with (heavy-ball) momentum, in the form of Keras and of the textbooks.

    ::

        v <- momentum*v - lr*g
        p <- p + v

    Here lr is inside v, so that a change of lr takes effect over the next 1/(1-momentum) steps;
    torch keeps it outside.

    Args:
        lr: learning rate, finite and at least 0.
        momentum: the share of the last step that is kept, in [0, 1).

    Source: Polyak, Some methods of speeding up the convergence of iteration methods, 1964, equation 9;
    in these letters Sutskever et al., On the importance of initialization and momentum, 2013, section 2.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.Momentum(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.062, -0.124])
    """

    lr: Nonnegative = 0.01
    momentum: Fraction = 0.9
    slots: ClassVar[tuple[str, ...]] = ("v",)

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, v: Array, c: Any) -> tuple[Array, ...]:
        v = c.momentum * v - c.lr * x
        return -v, v


class Nesterov(Momentum):
    """Momentum that looks ahead: the gradient is taken as that of the point where momentum will have led.

    ::

        v <- momentum*v - lr*g
        p <- p + momentum*v - lr*g

    The parameters are those after the look ahead, as in Keras; torch's form is `HeavyBallNesterov`.

    Its hyperparameters are those of `Momentum`.

    Source: Sutskever et al., On the importance of initialization and momentum, 2013, equations 3 and 4, in the
    variables of Bengio, Boulanger-Lewandowski and Pascanu, Advances in optimizing recurrent networks, 2013, equation 7.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.Nesterov(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([-0.108,  0.217])
    """

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, v: Array, c: Any) -> tuple[Array, ...]:
        step = c.lr * x
        v = c.momentum * v - step
        return step - c.momentum * v, v


class TextbookNesterov(Momentum):
    """Nesterov's momentum as a textbook and Chainer have it, which weighs the newest gradient more than `Nesterov`.

    ::

        v <- momentum*v - lr*g
        p <- p + momentum*momentum*v - (1+momentum)*lr*g

    With the v of before the step this would be `Nesterov`; with the new one, as here, the step is longer by
    `momentum*momentum*lr*g` and momentum by a factor of momentum smaller.

    Its hyperparameters are those of `Momentum`.

    Source: Saito, Deep Learning from Scratch, 2016, its common/optimizer.py; Chainer's NesterovAG.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.TextbookNesterov(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([-0.169,  0.337])
    """

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, v: Array, c: Any) -> tuple[Array, ...]:
        v = c.momentum * v - c.lr * x
        return (1 + c.momentum) * c.lr * x - c.momentum * c.momentum * v, v


class HeavyBall(Optimizer):
    """Momentum with the learning rate outside, as in torch, so that a change of lr takes effect at once.

    ::

        b <- momentum*b + (1-dampening)*g        b <- g at the first step
        p <- p - lr*b

    Args:
        lr: learning rate, finite and at least 0.
        momentum: the share of the sum of gradients that is kept, in [0, 1).
        dampening: the share of each gradient but the first that is left out, in [0, 1).

    Source: Polyak, Some methods of speeding up the convergence of iteration methods, 1964, equation 9.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.HeavyBall(lr=0.1, dampening=0.5)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.252, -0.504])
    """

    lr: Nonnegative = 0.01
    momentum: Fraction = 0.9
    dampening: Fraction = 0.0
    slots: ClassVar[tuple[str, ...]] = ("b",)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"lr": hyper.lr, "momentum": hyper.momentum, "new": where(t == 1, 1.0, 1 - hyper.dampening)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, b: Array, c: Any) -> tuple[Array, ...]:
        b = c.momentum * b + c.new * x
        return c.lr * b, b


class HeavyBallNesterov(HeavyBall):
    """Nesterov's momentum with the learning rate outside, as in torch.

    ::

        b <- momentum*b + (1-dampening)*g        b <- g at the first step
        p <- p - lr*(g + momentum*b)

    At a constant lr, without dampening, these are the parameters of `Nesterov`.

    Its hyperparameters are those of `HeavyBall`.

    Source: as for `Nesterov`.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.HeavyBallNesterov(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([-0.108,  0.217])
    """

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, b: Array, c: Any) -> tuple[Array, ...]:
        b = c.momentum * b + c.new * x
        return c.lr * (x + c.momentum * b), b
