"""A function of a few numbers that solvers are tested with, and where they begin."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["START", "rosenbrock"]


def rosenbrock(x: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
    """The chained function, of a real vector."""
    off, near = x[1:] - x[:-1] ** 2, 1 - x[:-1]
    grad = np.zeros_like(x)
    grad[1:] = 20 * off
    grad[:-1] -= 40 * x[:-1] * off + 2 * near
    return float(np.sum(10 * off**2 + near**2, dtype=np.float64)), grad


START = np.array([-1.2, 1.0, 0.5, -0.3, 0.8, 1.5])
