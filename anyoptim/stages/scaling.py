"""Stages that scale each parameter's value by norms or counts of it."""

from __future__ import annotations

from typing import Any, ClassVar

from anyoptim._arrays import Array
from anyoptim._stage._stage import GradientStage, Stage, itself, parameter
from anyoptim._trace._hyperparameters import KW_ONLY, Nonnegative, Positive
from anyoptim._trace._reductions import Count, Norm, Reduction, Size
from anyoptim._trace._scalars import ratio_up_to_one, trust_ratio, where

__all__ = ["Cautious", "ClipNorm", "TrustRatio"]


class ClipNorm(Stage):
    """Shorten the gradient of each parameter by itself, where it is longer than `max_norm`.

    ::

        length = sqrt(sum of x*x over the elements of the parameter)
        x <- x * min(max_norm / length, 1)

    Like Keras's `clipnorm`; optax's `clip_by_block_rms` divides the length by the root of the number of elements.
    `ClipGlobalNorm` takes all parameters together. An infinite length makes every finite element 0.

    Args:
        max_norm: the length that is allowed, above 0 (infinite for none).

    >>> optimizer = ao.chain(ao.ClipNorm(1.0), ao.SGD(lr=1.0))
    >>> optimizer.update(np.zeros(2), np.array([3.0, 4.0]))
    array([-0.6, -0.8])
    """

    max_norm: Positive
    reductions: ClassVar[dict[str, Reduction]] = {"length": Norm(itself, "each")}

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"scale": ratio_up_to_one(hyper.max_norm, hyper.length)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return x * c.scale


class TrustRatio(Stage):
    """Make each parameter's step as long as a share of the parameter.

    ::

        x <- x * share * |p| / (|x| + eps)        where |p| and |x| are above 0; else x stays
        |p| is taken as min(max(|p|, lower), upper)

    Before a method this is LARS's scaling (`LARS` is the whole method), after it LAMB's.

    Args:
        share: of the parameter's length, finite and at least 0.
        eps: added to the length of x, finite and at least 0.
        lower: what |p| is at least, finite and at least 0.
        upper: what |p| is at most, above 0, infinite for no bound.

    Source: You, Gitman and Ginsburg, Large batch training of convolutional networks, 2017, equation 6; You et al.,
    Large batch optimization for deep learning: training BERT in 76 minutes, 2020, section 3, whose phi is the bounds.

    >>> optimizer = ao.chain(ao.SGD(lr=1.0), ao.TrustRatio(0.1))
    >>> optimizer.update(np.array([3.0, 4.0]), np.array([1.0, 0.0])).round(3)
    array([2.5, 4. ])
    """

    share: Nonnegative = 1.0
    eps: Nonnegative = 0.0
    _: KW_ONLY
    lower: Nonnegative = 0.0
    upper: Positive = float("inf")
    reductions: ClassVar[dict[str, Reduction]] = {"of_p": Norm(parameter, "each"), "of_x": Norm(itself, "each")}

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        of_p, of_x = hyper.of_p, hyper.of_x
        bounded = where(of_p < hyper.lower, hyper.lower, where(of_p > hyper.upper, hyper.upper, of_p))
        return {"ratio": where((bounded > 0) & (of_x > 0), hyper.share * trust_ratio(bounded, of_x, hyper.eps), 1.0)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return x * c.ratio


class Cautious(GradientStage):
    """Drop what of a step goes against the gradient, and lengthen the rest instead.

    ::

        kept = how many elements of the parameter have x*g > 0, of n
        x <- x * n / (kept + 1)        where x*g > 0; else 0

    g is the gradient with which the chain began, x the step: the stage comes after the method, such as
    `chain(AdamW(), Cautious())`, but before what is to be spared, such as decoupled `WeightDecay`. Complex elements are
    two, the one part kept and the other dropped, perhaps.

    Source: Liang, Chen, Liu and Liu, Cautious optimizers: improving training with one line of code, 2024, algorithm 1.

    >>> w, optimizer = np.zeros(2), ao.chain(ao.Momentum(lr=1.0), ao.Cautious())
    >>> for g in ([1.0, 1.0], [1.0, -0.1]):
    ...     w = optimizer.update(w, np.array(g))
    >>> w.round(3)
    array([-2.567, -0.667])
    """

    reductions: ClassVar[dict[str, Reduction]] = {
        "kept": Count(lambda xp, p, x, g: x * g > 0, "each"),
        "size": Size("each"),
    }

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"scale": hyper.size / (hyper.kept + 1)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, g: Array, c: Any) -> Array:
        return xp.where(x * g > 0, x * c.scale, 0.0)
