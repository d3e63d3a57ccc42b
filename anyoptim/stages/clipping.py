"""Stages that clip gradients."""

from __future__ import annotations

from typing import Any, ClassVar

from anyoptim._arrays import Array
from anyoptim._stage._stage import Stage, itself
from anyoptim._trace._hyperparameters import Nonnegative, Positive
from anyoptim._trace._reductions import Norm, Reduction
from anyoptim._trace._scalars import ratio_up_to_one

__all__ = ["ClipGlobalNorm", "ClipValue"]


class ClipGlobalNorm(Stage):
    """Shorten the gradient of all parameters together, where it is longer than `max_norm`.

    ::

        norm = sqrt(sum of x*x over all elements of all parameters)
        x <- x * min(max_norm / norm, 1)

    The norm is that of the parameters that move at this step. Its bits are the same on all engines, in whatever order
    elements lie and however arrays are cut, and the squares of no elements are too large or too small (JAX without x64
    adds in float32, in its own order). Complex elements count with both parts. A gradient that is longer than
    `max_norm` by more than the range of its dtype, 1e38 times in float32, comes out less exact, and too long; an
    infinite norm makes every finite element 0; a NaN changes nothing but what it is in. torch's `clip_grad_norm_`
    divides by norm + 1e-6 instead, which shortens the gradient by about 1e-6/norm more, and makes everything NaN where
    the norm is NaN.

    Args:
        max_norm: the length that is allowed, above 0 (infinite for none).

    Source: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, 2013, algorithm 1.

    >>> optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(lr=1.0))
    >>> optimizer.update(np.zeros(2), np.array([3.0, 4.0]))
    array([-0.6, -0.8])
    """

    max_norm: Positive
    reductions: ClassVar[dict[str, Reduction]] = {"norm": Norm(itself)}

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"scale": ratio_up_to_one(hyper.max_norm, hyper.norm)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return x * c.scale


class ClipValue(Stage):
    """Cut off what is longer than `limit`, element by element.

    ::

        x <- min(max(x, -limit), limit)

    A NaN stays. Complex elements are cut in both parts.

    Args:
        limit: finite and at least 0.

    >>> optimizer = ao.chain(ao.ClipValue(1.0), ao.SGD(lr=1.0))
    >>> optimizer.update(np.zeros(2), np.array([0.5, 4.0]))
    array([-0.5, -1. ])
    """

    limit: Nonnegative

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return xp.minimum(xp.maximum(x, -c.limit), c.limit)
