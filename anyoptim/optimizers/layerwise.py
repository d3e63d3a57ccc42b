"""Methods that scale each parameter's step by the length of the parameter."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from anyoptim._arrays import Array
from anyoptim._core._adaptive import Adaptive
from anyoptim._core._chain import Recipe
from anyoptim._core._optimizer import Optimizer
from anyoptim._stage._stage import Stage, itself, parameter
from anyoptim._trace._hyperparameters import KW_ONLY, Flag, Fraction, Nonnegative, Positive
from anyoptim._trace._reductions import Norm, Reduction
from anyoptim._trace._scalars import one_minus_power, sqrt, trust_ratio, where
from anyoptim.optimizers._terms import moments

__all__ = ["LAMB", "LARS"]


class LARS(Optimizer):
    """Momentum with a learning rate for each parameter, by its length and that of its gradient.

    ::

        ratio = trust * |p| / (|g| + weight_decay*|p| + eps)      where |p| and |g| are above 0; else 1
        v <- momentum*v + lr*ratio*(g + weight_decay*p)
        p <- p - v

    Optax's `lars` has |g + weight_decay*p| below the line: `chain(WeightDecay(d), TrustRatio(0.001), Momentum(lr))`.
    Biases and scales are usually spared: `partition` gives them to `Momentum`.

    Args:
        lr: learning rate.
        momentum: the share of the last step that is kept.
        weight_decay: of the loss.
        trust: a factor to the ratio of lengths.
        eps: keeps the division finite.

    Source: You, Gitman and Ginsburg, Large batch training of convolutional networks, 2017, algorithm 1.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.LARS(lr=1.0, trust=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.486, -0.972])
    """

    lr: Nonnegative = 0.1
    momentum: Fraction = 0.9
    weight_decay: Nonnegative = 0.0
    trust: Nonnegative = 0.001
    eps: Nonnegative = 0.0
    slots: ClassVar[tuple[str, ...]] = ("v",)
    reductions: ClassVar[dict[str, Reduction]] = {"of_p": Norm(parameter, "each"), "of_g": Norm(itself, "each")}

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        ratio = hyper.trust * trust_ratio(hyper.of_p, hyper.of_g + hyper.weight_decay * hyper.of_p, hyper.eps)
        ratio = where((hyper.of_p > 0) & (hyper.of_g > 0), ratio, 1.0)
        return {"rate": hyper.lr * ratio, "momentum": hyper.momentum, "decay": hyper.weight_decay}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, v: Array, c: Any) -> tuple[Array, ...]:
        v = c.momentum * v + c.rate * (x + c.decay * p)
        return v, v


class _Direction(Adaptive):
    """The step of LAMB before its length is chosen."""

    beta1: Fraction
    beta2: Fraction
    eps: Nonnegative
    weight_decay: Nonnegative
    slots: ClassVar[tuple[str, ...]] = ("m", "v")

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        root = sqrt(one_minus_power(hyper.beta2, t))
        return {**vars(hyper), "scale": root / one_minus_power(hyper.beta1, t), "eps": hyper.eps * root}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, v: Array, c: Any) -> tuple[Array, ...]:
        _, m, v = moments(xp, x, m, v, c)
        return c.scale * m / (xp.sqrt(v) + c.eps) + c.weight_decay * p, m, v


class _Length(Stage):
    """The length of LAMB's step."""

    lr: Nonnegative
    upper: Positive
    reductions: ClassVar[dict[str, Reduction]] = {"of_p": Norm(parameter, "each"), "of_x": Norm(itself, "each")}

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        phi = where(hyper.of_p > hyper.upper, hyper.upper, hyper.of_p)
        return {"rate": hyper.lr * trust_ratio(phi, hyper.of_x, 0.0)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return x * c.rate


class LAMB(Recipe):
    """Adam whose step is, for each parameter, as long as the parameter times lr.

    ::

        m <- beta1*m + (1-beta1)*g
        v <- beta2*v + (1-beta2)*g*g
        r = m / (1-beta1**t) / (sqrt(v / (1-beta2**t)) + eps) + weight_decay*p
        ratio = min(|p|, upper) / |r|      where both are above 0; else 1
        p <- p - lr*ratio*r

    |p| and |r| are the 2-norms of each parameter by itself. eps is added to the root of the corrected v, as in the
    paper and in optax, whose `lamb` is this.

    It is a chain of two stages, the direction and its length, and its state is nested like a chain's.

    Args:
        lr, beta1, beta2, joint: as in `Adam`.
        eps: keeps the division finite.
        weight_decay: of the parameter.
        upper: of |p| in the ratio (the paper's phi), infinite for none.

    Source: You et al., Large batch optimization for deep learning: training BERT in 76 minutes, 2020, algorithm 2.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.LAMB(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.57 , -1.567])
    """

    lr: Nonnegative = 0.001
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: Nonnegative = 1e-6
    weight_decay: Nonnegative = 0.0
    _: KW_ONLY
    upper: Positive = float("inf")
    joint: Final[Flag] = False

    parts: ClassVar[tuple[type[Stage], ...]] = (_Direction, _Length)
