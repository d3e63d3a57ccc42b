"""The best point of methods whose steps need not lower the value: it is kept beside the parameters."""

from __future__ import annotations

import math
from typing import Any

from anyoptim._arrays import Array
from anyoptim.solvers._solver import Run
from anyoptim.solvers._vectors import Kernel

__all__ = ["keep_best", "take_best"]


def _kept(xp: Any, x: Array, p: Array, best: Array, c: Any) -> tuple[Array, ...]:
    """`best <- p`."""
    return p, p


_KEEP = Kernel(_kept, ("p", "best"))


def keep_best(run: Run, value: float) -> None:
    """Keep the parameters as they are in the vector `best`, if no value before was lower than this one."""
    best, kept = run.numbers.get("best", math.nan), run.vectors["best"]
    if value <= best or best != best:
        run.space.run(_KEEP, kept, [run.space.params, kept])
        run.numbers["best"] = value


def take_best(run: Run) -> None:
    """Put the parameters where their value was the lowest."""
    run.put(run.vectors["best"])
    run.numbers["value"] = run.numbers["best"]
