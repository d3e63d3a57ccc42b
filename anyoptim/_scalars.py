"""Scalar functions for coefficients: exact float64 on the host, traceable under `jax.jit`."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat as compat

__all__ = ["one_minus_power", "sqrt"]


def sqrt(x: Any) -> Any:
    """The square root of a Python number or of a 0-d array."""
    return math.sqrt(x) if isinstance(x, int | float) else compat.array_namespace(x).sqrt(x)


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
