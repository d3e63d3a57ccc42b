"""The best point of methods whose steps need not lower the value: it is kept beside the parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from anyoptim._arrays import Array
from anyoptim.solvers._solver import Run
from anyoptim.solvers._vectors import COPY

__all__ = ["keep_best", "take_best"]


def keep_best(run: Run, point: Sequence[Array], value: float) -> None:
    """Keep a point, the parameters say, in the vector `best`, if its value is finite and lower than that of the last.

    Where the value of the next point is known, it is enough to keep those from which the value rises.
    """
    if math.isfinite(value) and value < run.numbers.get("best", math.inf):
        run.space.run(COPY, point, [run.vectors["best"]])
        run.numbers["best"] = value


def take_best(run: Run) -> None:
    """Put the parameters at the point that is kept, if its value is lower than theirs, or theirs is not finite."""
    best = run.numbers.get("best", math.inf)
    if math.isfinite(best) and (best < run.value or not math.isfinite(run.value)):
        run.put(run.vectors["best"])
        run.numbers["value"] = best
