"""Preconditioners: functions of a user's, which are to be near to the inverse of the second derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from anyoptim._arrays import Array
from anyoptim.solvers._solver import Run

__all__ = ["Preconditioner", "check_definite", "preconditioned"]

Preconditioner = Callable[[Any], Any]
"""A function of gradients in the container of the parameters: a container like it, of M*g."""


def preconditioned(run: Run, of: Preconditioner, x: Sequence[Array]) -> Sequence[Array]:
    """M*x, an array for each parameter that moves."""
    return run.begun.mapped("preconditioner", of, x)


def check_definite(zx: float, xx: float) -> None:
    """Raise ValueError where z, which is to be M*x, is that for no positive definite M, from z*x and x*x."""
    if zx <= 0 < xx:
        raise ValueError(
            f"preconditioner gave z with z*g = {zx:.3g} for a gradient g; wanted more than 0, as of M*g with a "
            "positive definite M"
        )
