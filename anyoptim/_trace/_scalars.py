"""Functions of scalars, for counts and coefficients.

A scalar is a Python number, a 0-d array, which `jax.jit` may trace, or a symbol of what only a device knows.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from anyoptim._arrays import library, traced
from anyoptim._trace._symbols import Symbol, operation

__all__ = [
    "at_least",
    "at_most",
    "beyond",
    "cos",
    "count",
    "exp",
    "expm1",
    "finite",
    "floating",
    "following",
    "integer",
    "largest",
    "log",
    "maximum",
    "minimum",
    "one_minus_power",
    "power",
    "quotient",
    "ratio_up_to_one",
    "remainder",
    "signed",
    "sqrt",
    "times",
    "trust_ratio",
    "where",
    "whole_number",
]


def _namespace(*scalars: Any) -> Any:
    """The namespace of the first of these that is an array."""
    return library(next(x for x in scalars if not isinstance(x, int | float))).xp


def sqrt(x: Any) -> Any:
    """The square root of a number, traced or not.

    >>> ao.scalars.sqrt(9.0)
    3.0
    """
    if type(x) is float or isinstance(x, int | float):  # the quick question first
        return math.sqrt(x)
    return operation("sqrt", x) if isinstance(x, Symbol) else _namespace(x).sqrt(x)


def cos(x: Any) -> Any:
    """The cosine of a number, traced or not; not of what only a CUDA device knows.

    >>> ao.scalars.cos(0.0)
    1.0
    """
    return math.cos(x) if isinstance(x, int | float) else _namespace(x).cos(x)


def log(x: Any) -> Any:
    """The natural logarithm of a number, traced or not; minus infinity for 0.

    >>> ao.scalars.log(1.0), ao.scalars.log(0.0)
    (0.0, -inf)
    """
    if isinstance(x, Symbol):
        return operation("log", x)
    if isinstance(x, int | float):
        return math.log(x) if x else -math.inf
    return _namespace(x).log(x)


def exp(x: Any) -> Any:
    """The exponential of a number, traced or not; infinite where that is too large for a float.

    >>> ao.scalars.exp(0), ao.scalars.exp(1000.0)
    (1.0, inf)
    """
    if isinstance(x, Symbol):
        return operation("power", math.e, x)
    if not isinstance(x, int | float):
        return _namespace(x).exp(x)
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def expm1(x: Any) -> Any:
    """`exp(x) - 1` of a number, traced or not, right near 0 too; infinite where that is too large for a float.

    >>> ao.scalars.expm1(1e-20)
    1e-20
    """
    if isinstance(x, Symbol):
        return operation("expm1", x)
    if not isinstance(x, int | float):
        return _namespace(x).expm1(x)
    try:
        return math.expm1(x)
    except OverflowError:
        return math.inf


def where(condition: Any, a: Any, b: Any) -> Any:
    """`a` where the condition, traced or not, holds, else `b`: instead of `if`.

    Both are computed before, also the one that is not taken: so a divisor is to be chosen, and not a quotient.

    >>> norm = 0.0
    >>> 5.0 / ao.scalars.where(norm > 0, norm, 1.0)
    5.0
    """
    if isinstance(condition, bool | np.bool_):
        return a if condition else b
    if isinstance(condition, Symbol) or isinstance(a, Symbol) or isinstance(b, Symbol):
        return operation("where", condition, a, b)
    return _namespace(condition).where(condition, a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two numbers, traced or not; of two equal ones the first, as Python's `min`.

    >>> ao.scalars.minimum(3, 10)
    3
    """
    return where(b < a, b, a)


def maximum(a: Any, b: Any) -> Any:
    """The larger of two numbers, traced or not; of two equal ones the first, as Python's `max`.

    >>> ao.scalars.maximum(3, 10)
    10
    """
    return where(b > a, b, a)


def finite(x: Any) -> Any:
    """Whether a scalar is neither infinite nor NaN: a bool for a Python number, a 0-d array for a 0-d array."""
    return math.isfinite(x) if isinstance(x, int | float) else _namespace(x).isfinite(x)


def signed(n: Any) -> Any:
    """An integer as a signed one that meets Python's: itself, or a 0-d array of its library's default integers."""
    if isinstance(n, int):
        return n
    xp = _namespace(n)
    return xp.astype(n, xp.asarray(0).dtype)


def floating(n: Any) -> Any:
    """An integer as a float: a Python one, or a 0-d array of the widest dtype that its library has."""
    return float(n) if isinstance(n, int | float) else _namespace(n).astype(n, library(n).widest_float())


def largest(n: Any) -> int:
    """An upper bound of the integer `n`: itself, or the largest number that the dtype of a 0-d array holds."""
    return n if isinstance(n, int) else int(_namespace(n).iinfo(n.dtype).max)


def beyond(n: Any, k: float) -> bool:
    """Whether a traced count n can never be k, because its dtype does not hold so large a number. No int is one."""
    return not isinstance(n, int) and k > largest(n)


def at_least(n: Any, k: int) -> Any:
    """`n >= k` for a count n, traced or not, and an integer k of any size."""
    return False if beyond(n, k) else n >= k


def at_most(n: Any, k: float) -> Any:
    """The smaller of a count n, traced or not, and a k of any size."""
    return n if beyond(n, k) else where(n < k, n, k)


def quotient(n: Any, k: float) -> Any:
    """`n // k` for a count n of at least 0, traced or not, and a k of any size above 0."""
    return 0 if beyond(n, k) else n // k


def following(n: Any) -> Any:
    """`n + 1` for a count. The largest number of a 0-d array's dtype stays, where adding 1 would wrap around.

    A number below 0 has wrapped around: JAX without x64 makes such numbers of a host's count from 2**31 on.
    """
    if isinstance(n, int | Symbol):
        return n + 1
    return _saturated(n, (n >= 0) & (n < _top(n)), n + 1)


def times(n: Any, k: int) -> Any:
    """`n*k` for a count n of at least 0 and an integer k of at least 1; the largest number, where it would wrap."""
    return n * k if isinstance(n, int) else _saturated(n, n <= _top(n) // k, n * k)


def _top(n: Any) -> Any:
    """The largest number of the dtype of `n`. That of an unsigned dtype need not fit the library's default integers."""
    return _namespace(n).full_like(n, largest(n))


def _saturated(n: Any, fits: Any, result: Any) -> Any:
    return _namespace(n).where(fits, result, _top(n))


def power(base: Any, x: Any) -> Any:
    """`base**x` for a base above 0, both traced or not; infinite where that is too large for a float.

    For 0-d arrays, whose float32 would round a base before it is multiplied by itself, it is `exp(x * log(base))`.

    >>> ao.scalars.power(2, 3)
    8.0
    """
    if isinstance(base, Symbol) or isinstance(x, Symbol):
        return operation("power", base, x)
    if not (isinstance(base, int | float) and isinstance(x, int | float)):
        xp = _namespace(base, x)
        return xp.exp(floating(x) * (math.log(base) if isinstance(base, int | float) else xp.log(floating(base))))
    try:
        return float(base) ** x
    except OverflowError:
        return math.inf


def remainder(n: Any, k: int) -> Any:
    """`n % k` for an integer n of at least 0, traced or not, and a Python integer k above 0.

    >>> ao.scalars.remainder(7, 5)
    2
    """
    if isinstance(n, Symbol):
        return operation("remainder", n, k)
    return n if beyond(n, k) else n % k


def ratio_up_to_one(a: Any, b: Any) -> Any:
    """`a/b` where that is less than 1, else 1.0, for scalars above 0; b may be NaN."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a / b if a < b else 1.0
    if isinstance(a, Symbol) or isinstance(b, Symbol):
        return operation("where", operation("less", a, b), a / b, 1.0)
    xp = _namespace(a, b)
    return xp.where(a < b, a / b, xp.ones_like(a / b))


def trust_ratio(a: Any, b: Any, eps: Any) -> Any:
    """`a / (b + eps)` where a and b are above 0, else 1.0."""
    positive = b > 0
    return where((a > 0) & positive, a / where(positive, b + eps, 1.0), 1.0)


def one_minus_power(beta: Any, t: Any) -> Any:
    """`1 - beta**t` for 0 <= beta < 1 and t >= 1, traced or not: by what a mean that began at 0 is to be divided.

    On the host, and for symbols, this is that expression in float64. For 0-d arrays, whose float32 would cancel,
    it is `-expm1(t * log(beta))`.

    >>> ao.scalars.one_minus_power(0.5, 3)
    0.875
    """
    if (type(beta) is float and type(t) is int) or (isinstance(beta, int | float) and isinstance(t, int)):
        return 1 - beta**t  # asked first and most quickly, because it is so at nearly every step
    if isinstance(beta, Symbol) or isinstance(t, Symbol):
        return operation("one_minus_power", beta, t)
    return -expm1(t * log(beta))


def integer(name: str, value: Any) -> int:
    """`value` as a 64-bit unsigned integer. Raises TypeError or ValueError with its name."""
    if isinstance(value, bool | np.bool_):  # NumPy before 2.3 takes its own for an index
        raise TypeError(f"{name} is {value}; wanted an integer")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; wanted an integer") from None
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{name} is {number}; wanted at least 0 and below 2**64")
    return number


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """`value` as an integer that is at least `least`. Raises TypeError or ValueError with its name."""
    number = integer(name, value)
    if number < least:
        raise ValueError(f"{name} is {number}; wanted at least {least}")
    return number


def count(name: str, value: Any) -> Any:
    """`value` as a 64-bit unsigned integer; a traced one, of which only dtype and shape can be checked, as it is."""
    if not traced(value):
        return integer(name, value)
    if value.ndim or not _namespace(value).isdtype(value.dtype, "integral"):
        raise TypeError(f"{name} is an array of shape {value.shape} and dtype {value.dtype}; wanted one integer")
    return value
