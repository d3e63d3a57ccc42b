"""A line through the parameters: a search goes along it, and leaves them at the point it has found."""

from __future__ import annotations

import math
from typing import Any

from anyoptim._arrays import Array
from anyoptim.solvers._function import Function, Point
from anyoptim.solvers._vectors import Kernel, Space, Vector
from anyoptim.solvers.line_searches import LineSearch, Trial

__all__ = ["Line"]


def _trial(xp: Any, d: Array, p: Array, origin: Array, c: Any) -> tuple[Array, ...]:
    """`p <- origin + t*d`; at t = 0 the origin itself, whatever d is."""
    return xp.where(c.t == 0, origin, origin + c.t * d), origin


_TRIAL = Kernel(_trial, ("p", "origin"))


class Line:
    """The points `origin + t*scale*d`, for step lengths t."""

    def __init__(
        self, function: Function, origin: Vector, d: Vector, start: Trial, *, scale: float = 1.0, slopes: bool = True
    ) -> None:
        """Begin at the origin, where the value and the slope are those of `start`; `slopes` are wanted elsewhere."""
        self.function, self.origin, self.d = function, origin, d
        self.scale, self.slopes = scale, slopes
        self.trials = [start]
        """What was found, in the order of evaluations."""
        self.point = Point(start.value, ())
        """What the function gave at the last trial."""

    @property
    def last(self) -> Trial:
        """The last trial."""
        return self.trials[-1]

    @property
    def best(self) -> Trial:
        """The trial with the lowest value, the first of several."""
        return min((trial for trial in self.trials if trial.value == trial.value), key=lambda trial: trial.value)

    def search(self, line_search: LineSearch, first: float, below: float | None = None) -> bool:
        """Follow a search from a first step length. Returns whether it has found a point: the parameters are there.

        It compares values with that of the start, or with another one that they are to be `below`. Where it has found
        none, and where an exception comes in between, the parameters are at the best point seen.
        """
        start = self.last
        steps = line_search.steps(start.value if below is None else below, start.slope, first)
        found: tuple[float, float] | None = None
        try:
            while True:
                try:
                    length = next(steps) if found is None else steps.send(found)
                except StopIteration as end:
                    accepted = bool(end.value)
                    break
                trial = self.at(length)
                found = trial.value, trial.slope
        except BaseException:
            self.back()
            raise
        if not accepted:
            self.back()
        return accepted

    def at(self, length: float) -> Trial:
        """What is found at a step length, where the parameters are then."""
        self.move(length)
        self.point = point = self.function()
        slope = math.nan
        if self.slopes and math.isfinite(point.value):
            (slope,) = self.function.space.products((self.d, point.gradients))
        self.trials.append(Trial(length, point.value, self.scale * slope))
        return self.last

    def move(self, length: float) -> None:
        """Put the parameters at a step length."""
        space = self.function.space
        space.run(_TRIAL, self.d, [space.params, self.origin], t=self.scale * length)
        self.function.put()

    def back(self) -> None:
        """Put the parameters at the best point that was seen."""
        self.move(self.best.t)

    def failure(self) -> tuple[str, bool]:
        """Why no point was found, and whether that means that there is nothing left to gain."""
        start, *trials = self.trials
        finite = [trial for trial in trials if math.isfinite(trial.value)]
        if not finite:
            nearest = min(trial.t for trial in trials) * abs(self.scale) if trials else math.nan
            return (
                f"the value is not finite along the negative gradient, as near as a step length of {nearest:.3g}",
                False,
            )
        lowest = min(abs(trial.value) for trial in finite)
        resolution = max(space_eps(self.function.space), 2.0**-52) * max(abs(start.value), lowest)
        told = [trial for trial in finite if trial.t * -start.slope > 16 * resolution]
        shortest = min(told, default=min(finite))
        expected, found = shortest.t * -start.slope, shortest.value - start.value
        # The slopes at both ends tell what the value does between them, wherever the minimum lies.
        between = shortest.t * (start.slope + shortest.slope) / 2 if shortest.slope == shortest.slope else -expected
        if told and abs(found - between) > max(abs(between), 16 * resolution):
            return (
                f"the value does not fall along the negative gradient: over a step length of {shortest.t:.3g} it "
                f"changes by {found:.3g}, where the gradient says {-expected:.3g}; ao.check_grad tells if the gradient "
                "is right",
                False,
            )
        if len(told) < len(finite):
            nearest = min(finite).t * -start.slope
            return (
                f"the gradient promises a fall by {nearest:.3g}, which the rounding of the value, {start.value:.6g}, "
                "hides: this is as far as the precision goes",
                True,
            )
        return (
            f"the line search has found no lower value in {len(trials)} evaluations, the nearest at a step length of "
            f"{shortest.t:.3g}, where it changes by {found:.3g}; wanted one with more evaluations",
            False,
        )


def space_eps(space: Space) -> float:
    """The relative rounding of the coarsest parameters."""
    of = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "complex64": 2.0**-23}
    return max((of.get(p.dtype, 2.0**-52) for p in space.ps), default=2.0**-52)
