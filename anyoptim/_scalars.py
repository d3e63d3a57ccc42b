"""Numbers of the host: counts, and functions for coefficients.

They may be 0-d arrays, under `jax.jit` traced ones, or symbols, of what is known on a device alone.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import array_api_compat as compat

from anyoptim._arrays import traced
from anyoptim._trace import Symbol, operation

__all__ = ["count", "integer", "one_minus_power", "ratio_up_to_one", "sqrt"]


def sqrt(x: Any) -> Any:
    """The square root of a Python number, a 0-d array or a symbol."""
    if isinstance(x, Symbol):
        return operation("sqrt", x)
    return math.sqrt(x) if isinstance(x, int | float) else compat.array_namespace(x).sqrt(x)


def ratio_up_to_one(a: Any, b: Any) -> Any:
    """`a/b` where that is less than 1, else 1.0: of Python numbers, 0-d arrays or symbols, above 0; b may be NaN."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a / b if a < b else 1.0
    if isinstance(a, Symbol) or isinstance(b, Symbol):
        return operation("where", operation("less", a, b), a / b, 1.0)
    xp = compat.array_namespace(a, b)
    return xp.where(a < b, a / b, xp.ones_like(a / b))


def one_minus_power(beta: Any, t: Any) -> Any:
    """`1 - beta**t` for 0 <= beta < 1 and t >= 1.

    On the host, and for symbols, this is that expression in float64. For 0-d arrays, whose float32 would cancel,
    it is `-expm1(t * log(beta))`.
    """
    if isinstance(beta, Symbol) or isinstance(t, Symbol):
        return operation("one_minus_power", beta, t)
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
