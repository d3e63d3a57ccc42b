"""Stages that work on whole arrays: on rows and columns of a parameter."""

from __future__ import annotations

from typing import Any

from anyoptim._arrays import Array
from anyoptim._stage._stage import ParameterStage, Stage
from anyoptim._trace._hyperparameters import Positive

__all__ = ["AdaptiveClip", "Centralize", "UnitNorm", "is_complex", "real_only"]


def is_complex(p: Array) -> bool:
    """Whether an array has complex elements, which a rule of whole arrays would see as two arrays."""
    return "complex" in str(p.dtype)


def real_only(name: str) -> Any:
    """A method `refusal` that refuses complex parameters."""

    def refusal(self: Any, p: Array) -> str | None:
        return f"is complex; {name} wants real parameters" if is_complex(p) else None

    return refusal


def row_norms(xp: Any, a: Array) -> Array:
    """The 2-norm of each row, over all axes but the first, with these axes kept; of a vector that of each element."""
    if a.ndim < 2:
        return xp.abs(a)
    return xp.sqrt(xp.sum(a * a, axis=tuple(range(1, a.ndim)), keepdims=True))


class AdaptiveClip(Stage):
    """Shorten each row of a gradient that is longer than a share of the row of the parameter.

    ::

        |p| and |x| are norms by row (the first axis; what follows is one row), of a vector those of each element
        x <- x * min(share * max(|p|, eps) / |x|, 1)

    Weights here have their outputs along the first axis, as torch's; for others, the rows are those of the inputs.
    It works on whole arrays, by the array library's own functions (`portable`). Complex parameters are refused. Optax's
    `adaptive_grad_clip` takes a vector as one row.

    Args:
        share: of the parameter's row, above 0.
        eps: what |p| is at least, so that zeros can move, above 0.

    Source: Brock, De, Smith and Simonyan, High-performance large-scale image recognition without normalization, 2021,
    equation 3.

    >>> optimizer = ao.chain(ao.AdaptiveClip(0.1), ao.SGD(lr=1.0))
    >>> optimizer.update(np.array([[3.0, 4.0]]), np.array([[30.0, 40.0]])).round(3)
    array([[2.7, 3.6]])
    """

    share: Positive = 0.01
    eps: Positive = 1e-3
    array_rule = True
    refusal = real_only("AdaptiveClip")

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        of_p, of_x = row_norms(xp, p), row_norms(xp, x)
        longest = c.share * xp.maximum(of_p, xp.full_like(of_p, c.eps))
        return xp.where(of_x > longest, x * (longest / xp.where(of_x > 0, of_x, longest)), x)


class Centralize(Stage):
    """Take the mean from each row of a gradient, so that steps keep the means of weights.

    ::

        x <- x - mean of x over all axes but the first

    Vectors and numbers stay as they are. It works on whole arrays, by the array library's own functions (`portable`).

    Source: Yong, Huang, Hua and Zhang, Gradient centralization: a new optimization technique for deep neural networks,
    2020, equation 1.

    >>> optimizer = ao.chain(ao.Centralize(), ao.SGD(lr=1.0))
    >>> optimizer.update(np.zeros((1, 3)), np.array([[1.0, 2.0, 6.0]]))
    array([[ 2.,  1., -3.]])
    """

    array_rule = True

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return x if x.ndim < 2 or 0 in x.shape else x - xp.mean(x, axis=tuple(range(1, x.ndim)), keepdims=True)


class UnitNorm(ParameterStage):
    """Give each row of a parameter the length 1 after its step.

    ::

        p <- p / |p|        |p| by row: over all axes but the first; of a vector as a whole

    Rows of zeros stay. It works on whole arrays, by the array library's own functions (`portable`). Numbers and complex
    parameters are refused.

    >>> optimizer = ao.chain(ao.SGD(lr=1.0), ao.UnitNorm())
    >>> optimizer.update(np.zeros((2, 2)), np.array([[-3.0, -4.0], [0.0, 2.0]])).round(3)
    array([[ 0.6,  0.8],
           [ 0. , -1. ]])
    """

    array_rule = True

    def refusal(self, p: Array) -> str | None:
        """Refuse complex parameters, and single numbers."""
        if is_complex(p):
            return "is complex; UnitNorm wants real parameters"
        return None if p.ndim else "is a number; UnitNorm wants vectors or rows"

    @staticmethod
    def rule(xp: Any, p: Array, c: Any) -> Array:
        length = row_norms(xp, p) if p.ndim > 1 else xp.sqrt(xp.sum(p * p, keepdims=True))
        return p / xp.where(length > 0, length, length + 1)
