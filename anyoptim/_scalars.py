"""Numbers of the host, which under `jax.jit` may be traced: counts, and functions for coefficients."""

from __future__ import annotations

import math
import operator
from typing import Any

import array_api_compat as compat

from anyoptim._arrays import traced

__all__ = ["count", "integer", "larger", "one_minus_power", "sqrt"]


def sqrt(x: Any) -> Any:
    """The square root of a Python number or of a 0-d array."""
    return math.sqrt(x) if isinstance(x, int | float) else compat.array_namespace(x).sqrt(x)


def larger(a: Any, b: Any) -> Any:
    """`a` where it is larger than `b`, else `b`: of Python numbers or 0-d arrays. A NaN is not larger."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a if a > b else b
    xp = compat.array_namespace(a, b)
    return xp.where(a > b, a, b)


def one_minus_power(beta: Any, t: Any) -> Any:
    """`1 - beta**t` for 0 <= beta < 1 and t >= 1.

    On the host this is that expression in float64. For 0-d arrays, whose float32 would cancel,
    it is `-expm1(t * log(beta))`.
    """
    if isinstance(beta, int | float) and isinstance(t, int):
        return 1 - beta**t
    xp = compat.array_namespace(beta, t)
    log_beta = xp.log(beta) if not isinstance(beta, int | float) else math.log(beta) if beta else -math.inf
    return -xp.expm1(t * log_beta)


def integer(name: str, value: Any) -> int:
    """`value` as a 64-bit unsigned integer. Raises TypeError or ValueError with its name."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; wanted an integer") from None
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{name} is {number}; wanted at least 0 and below 2**64")
    return number


def count(name: str, value: Any) -> Any:
    """`value` as such an integer; a traced one, of which only the dtype and the shape are known, as it is."""
    if not traced(value):
        return integer(name, value)
    if value.ndim or not compat.array_namespace(value).isdtype(value.dtype, "integral"):
        raise TypeError(f"{name} is an array of shape {value.shape} and dtype {value.dtype}; wanted one integer")
    return value
