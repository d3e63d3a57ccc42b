"""A line through the parameters: a search goes along it, and leaves them at the point it has found."""

from __future__ import annotations

import math
from typing import Any

from anyoptim._arrays import Array
from anyoptim._search.line_searches import LineSearch, Trial
from anyoptim.solvers._box import Box
from anyoptim.solvers._function import Point
from anyoptim.solvers._solver import Run
from anyoptim.solvers._vectors import Kernel, Vector

__all__ = ["Line", "check_search"]


def _trial(xp: Any, d: Array, p: Array, origin: Array, c: Any) -> tuple[Array, ...]:
    """`p <- origin + t*d`; at t = 0 the origin itself, whatever d is."""
    return xp.where(c.t == 0, origin, origin + c.t * d), origin


_TRIAL = Kernel(_trial, ("p", "origin"))


def check_search(line_search: Any) -> None:
    """Raise TypeError for what is no line search."""
    if not isinstance(line_search, LineSearch):
        raise TypeError(f"line_search is {line_search!r}; wanted a line search, such as ao.solvers.StrongWolfe()")


class Line:
    """The points `origin + t*scale*d`, for step lengths t."""

    def __init__(
        self,
        run: Run,
        d: Vector,
        slope: float,
        *,
        scale: float = 1.0,
        slopes: bool = True,
        box: Box | None = None,
    ) -> None:
        """Begin at the origin of the run, where the value is known.

        Args:
            run: the function, the origin and its value.
            d: the direction.
            slope: that of the value along the line, at the origin.
            scale: by what step lengths are multiplied.
            slopes: whether slopes are wanted at trials.
            box: the bounds of the parameters, if there are any.
        """
        self.run, self.d = run, d
        self.scale, self.slopes, self.box = scale, slopes, box
        self.trials = [Trial(0.0, run.value, slope)]
        """What was found, in the order of evaluations."""
        self.point = Point(run.value, ())
        """What the function gave at the last trial."""
        run.numbers["largest_value"] = max(run.numbers["largest_value"], abs(run.value))

    @property
    def last(self) -> Trial:
        """The last trial."""
        return self.trials[-1]

    @property
    def best(self) -> Trial:
        """The trial with the lowest value, the first of several, of those from which it can go on."""
        start, *trials = self.trials
        return min((start, *filter(self.usable, trials)), key=lambda trial: trial.value)

    def search(
        self, line_search: LineSearch, first: float, longest: float = math.inf, *, below: float | None = None
    ) -> bool:
        """Follow a search from a first step length. Returns whether it has found a point: the parameters are there.

        It compares values with that of the start, or with another one that they are to be `below`. Where it has found
        none, and where an exception comes in between, the parameters are at the best point seen.
        """
        start = self.last
        if below is None:
            steps = line_search.steps(start.value, start.slope, first, longest, 4 * self.run.space.rounding)
        else:
            steps = line_search.steps(below, start.slope, first, longest)
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
        if accepted:
            self.run.numbers["value"] = self.last.value
        else:
            self.back()
        return accepted

    def at(self, length: float) -> Trial:
        """What is found at a step length, where the parameters are then."""
        self.move(length)
        self.point = point = self.run.begun()
        slope = math.nan
        if self.slopes and math.isfinite(point.value):
            (slope,) = self.run.space.products((self.d, point.gradients))
        self.trials.append(Trial(length, point.value, self.scale * slope))
        return self.last

    def move(self, length: float) -> None:
        """Put the parameters at a step length."""
        space, origin, t = self.run.space, self.run.vectors["origin"], self.scale * length
        if self.box is None:
            space.run(_TRIAL, self.d, [space.params, origin], t=t)
        else:
            self.box.move(self.d, origin, t)
        self.run.begun.put()

    def usable(self, trial: Trial) -> bool:
        """Whether the value is finite, and the slope where it is asked for."""
        return math.isfinite(trial.value) and (math.isfinite(trial.slope) or not self.slopes)

    def back(self) -> None:
        """Put the parameters at the best point that was seen."""
        best = self.best
        self.move(best.t)
        self.run.numbers["value"] = best.value

    def failure(self) -> tuple[str, bool]:
        """Why no point was found, and whether that means that there is nothing left to gain."""
        start, *trials = sorted(self.trials, key=lambda trial: trial.t)
        rounding = self.run.space.rounding * abs(start.value)
        # A sum of squares near its least value 0, say, has more: residuals are rounded as what they are differences of.
        largest = self.run.numbers["largest_value"]
        of_terms = self.run.space.rounding * math.sqrt(abs(start.value)) * math.sqrt(largest)
        finite = [trial for trial in trials if math.isfinite(trial.value)]
        for t, value, slope in finite:
            found, predicted = value - start.value, t * (start.slope + (slope if slope == slope else start.slope)) / 2
            larger = max(abs(found), abs(predicted))
            if larger > 100 * rounding:
                if abs(found - predicted) <= larger / 2:
                    if t > finite[0].t:
                        break
                    return (
                        f"the line search has found no lower value in {len(trials)} evaluations, the nearest at a step "
                        f"length of {t:.3g}, where it changes by {found:.3g}; wanted one with more evaluations",
                        False,
                    )
                if larger <= 100 * of_terms:
                    return (
                        f"over a step length of {t:.3g} the value changes by {found:.3g}, where its gradient says "
                        f"{predicted:.3g}: the rounding of a sum of terms that were as large as the value has been, "
                        f"{largest:.3g}, or a wrong gradient, which ao.check_grad tells",
                        False,
                    )
                return (
                    f"the gradient does not fit the value: over a step length of {t:.3g} along its negative the value "
                    f"changes by {found:.3g}, where it says {predicted:.3g}; ao.check_grad tells where it is wrong",
                    False,
                )
        if len(finite) < len(trials):
            wall = min(trial.t for trial in trials if not math.isfinite(trial.value)) * abs(self.scale)
            return (
                f"a wall: the value is not finite as near as a step length of {wall:.3g}",
                False,
            )
        return f"what there is to gain is less than the rounding of the value, {start.value:.6g}", True
