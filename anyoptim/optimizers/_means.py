"""Running means of a value and of its square, which a huge value does not spoil, nor a small beta."""

from __future__ import annotations

from typing import Any

from anyoptim._arrays import Array

__all__ = ["mean", "mean_square", "moments", "squarable"]


def squarable(xp: Any, x: Array, share: float = 1.0) -> Array:
    """`x`, but no further from 0 than `share` times the largest number whose square is finite.

    All means of a method take this x: were its square alone bounded, the step would be as huge as the gradient.
    """
    return xp.bound(x, share * xp.sqrt(xp.largest(x)))


def mean(m: Array, x: Array, *, a: float, b: float) -> Array:
    """`b*m + a*x` with a = 1 - b: `m + a*(x - m)` would lose a small x where b is near 0."""
    return b * m + a * x


def mean_square(xp: Any, v: Array, x: Array, *, a: float, b: float) -> Array:
    """`b*v + (a*x)*x`, in torch's order, which overflows later than `a*(x*x)`; at most the largest finite number."""
    return xp.bound(b * v + (a * x) * x, xp.largest(v))


def moments(
    xp: Any, x: Array, m: Array, v: Array, *, a1: float, b1: float, a2: float, b2: float
) -> tuple[Array, Array, Array]:
    """What of x `mean_square` can take, the new m and the new v."""
    x = squarable(xp, x, 1 / xp.sqrt(a2))
    return x, mean(m, x, a=a1, b=b1), mean_square(xp, v, x, a=a2, b=b2)
