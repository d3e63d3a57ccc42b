"""Methods that move along the gradient: as it is, with momentum, averaged, or with noise."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from anyoptim import random
from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import KW_ONLY, Domain, Fraction, Hyper, Nonnegative
from anyoptim._trace._scalars import power, sqrt, where
from anyoptim.stages.layers import real_only

__all__ = ["ASGD", "SGD", "SGLD", "HeavyBall", "HeavyBallNesterov", "Momentum", "Nesterov", "TextbookNesterov"]


class SGD(Optimizer):
    """Stochastic gradient descent.

    ::

        p <- p - lr*g

    Args:
        lr: learning rate.

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

    Here lr is inside v, so that a change of lr takes effect over the next 1/(1-momentum) steps; torch keeps it outside.

    Args:
        lr: learning rate.
        momentum: the share of the last step that is kept.

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
        lr: learning rate.
        momentum: the share of the sum of gradients that is kept.
        dampening: the share of each gradient but the first that is left out.

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


class ASGD(Optimizer):
    """Averaged stochastic gradient descent: a falling learning rate, and the mean of where it led, to evaluate with.

    ::

        eta = lr / (1 + lambd*lr*(t-1))**alpha
        p <- p - eta*(g + lambd*p)
        average <- average + mu*(p - average),    mu = 1 / max(1, t-1-t0)

    This is torch's, whose ax is the slot `average` here, which `eval_params` gives: p itself until t0, and from then on
    the mean since. t counts the steps of this parameter, from 1. The average is of p as this rule moves it: where other
    stages come after it, `chain(ASGD(), ..., SWA(t0 + 2))` has that of p as it is in the end.

    Args:
        lr: learning rate.
        lambd: decay of p, which also lets eta fall.
        alpha: the power with which eta falls.
        t0: the step after which p is averaged.

    Source: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992; for eta Xu, Towards
    optimal one pass large scale learning with averaged stochastic gradient descent, 2011.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.ASGD(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.512, -1.024])
    """

    lr: Nonnegative = 0.01
    lambd: Nonnegative = 1e-4
    alpha: Nonnegative = 0.75
    t0: Nonnegative = 1e6
    slots: ClassVar[tuple[str, ...]] = ("average",)
    starts: ClassVar[dict[str, Any]] = {"average": "p"}
    evaluate: ClassVar[Any] = staticmethod(lambda xp, p, average, hyper: average)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        late = t - 1 - hyper.t0
        eta = hyper.lr / power(1 + hyper.lambd * hyper.lr * (t - 1), hyper.alpha)
        return {"eta": eta, "lambd": hyper.lambd, "mu": 1 / where(late > 1, late, 1.0)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, average: Array, c: Any) -> tuple[Array, ...]:
        step = c.eta * (x + c.lambd * p)
        moved = p - step
        # p itself, whatever it is, and not what rounding leaves of it.
        return step, xp.where(c.mu < 1.0, average + c.mu * (moved - average), moved)


_Word = Annotated[Hyper, Domain(lambda x: 0 <= x < 2**32 and x == int(x), "a whole number, at least 0 and below 2**32")]

_HALF = 1 << 16


class SGLD(Optimizer):
    """Gradient descent with noise, whose parameters in the end are samples: stochastic gradient Langevin dynamics.

    ::

        p <- p - lr*g + sqrt(2*lr*temperature) * noise

    With g the gradient of minus the logarithm of a density, small lr and temperature 1, p are samples of it. The noise
    is that of `anyoptim.random.normal`: it depends on the seed, the path of the parameter, the count of its steps and
    the element, and on nothing else. It works on whole arrays (`portable`). Complex parameters are refused.

    Args:
        lr: half of the paper's step size.
        temperature: of the noise.
        seed: of the noise, a whole number, at least 0 and below 2**32.
        stream: the same, for one parameter among others: what it is here, `overrides` replaces by a hash of the path.

    Source: Welling and Teh, Bayesian learning via stochastic gradient Langevin dynamics, 2011, equation 4.

    >>> w, sampler, samples = np.zeros(100), ao.SGLD(lr=0.1), []
    >>> for _ in range(1000):
    ...     samples.append(sampler.update(w, w).copy())  # minus the logarithm of a normal density is w @ w / 2
    >>> round(float(np.std(samples[100:])), 1)
    1.0
    """

    lr: Nonnegative = 0.01
    temperature: Nonnegative = 1.0
    _: KW_ONLY
    seed: _Word = 0
    stream: _Word = 0
    array_rule = True
    refusal = real_only("SGLD")  # the two parts of a complex element would have the same noise

    def overrides(self, path: str, p: Array) -> Mapping[str, Hyper]:
        """Give each parameter a stream of noise of its own."""
        return {"stream": zlib.crc32(path.encode())}

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        # In halves, which the arithmetic of float32 holds exactly.
        size, halves = sqrt(2 * hyper.lr * hyper.temperature), {"low": t % _HALF, "high": t // _HALF}
        return {"lr": hyper.lr, "size": size, "seed": hyper.seed, "stream": hyper.stream, **halves}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        low, high = (int(n) if isinstance(n, float) else xp.astype(n, xp.uint32) for n in (c.low, c.high))
        call = low + high * _HALF
        return c.lr * x - c.size * random.normal(p.shape, (int(c.seed) << 32) + int(c.stream), call, like=p)
