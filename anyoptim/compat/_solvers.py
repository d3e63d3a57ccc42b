"""What solvers of other frameworks share: steps that may raise the value, and searches that keep a gradient."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import NamedTuple

from anyoptim._arrays import Array
from anyoptim.solvers import Iteration, Run, Solver, Trial
from anyoptim.solvers._best import keep_best, take_best
from anyoptim.solvers._function import Point
from anyoptim.solvers._line import Line
from anyoptim.solvers._solver import TAKE
from anyoptim.solvers._vectors import COPY, Vector

__all__ = ["Asked", "Straying", "followed", "stepped", "take"]


class Asked(NamedTuple):
    """A step length to be tried."""

    t: float
    keep: bool
    """Whether the gradient of the trial before is to be kept, in the place of one that was kept earlier."""


class Straying(Solver):
    """A solver whose steps need not lower the value: the best point is kept, and `minimize` ends there."""

    def kept_vectors(self) -> tuple[str, ...]:
        return ("best",)

    def note(self, run: Run) -> None:
        """Keep the point where the parameters are, if there is none that is better."""
        keep_best(run, run.space.params, run.value)

    def iterate(self) -> Iteration:
        self.note(self.run)
        return super().iterate()

    def end(self) -> None:
        """Put the parameters at the best point that was seen."""
        take_best(self.run)


def take(run: Run, point: Point) -> None:
    """Go on from where the parameters are, with what was found there."""
    run.space.run(TAKE, point.gradients, [run.space.params, run.vectors["origin"], run.vectors["g"]])
    run.measure(point.value)


def stepped(line: Line, t: float) -> str:
    """Take a step of this length. Returns why that was not possible, if so: the value must be finite there."""
    try:
        last = line.at(t)
    except BaseException:
        line.back()
        raise
    if math.isfinite(last.value):
        return ""
    line.back()
    return f"the value after a step of length {t:.3g} is {last.value}"


def followed(
    run: Run, line: Line, steps: Generator[Asked, Trial, Trial], kept: Vector
) -> tuple[Trial, Sequence[Array]]:
    """Follow a search to the trial that it returns. Returns that and the gradient there, which may be `kept`."""
    asked = next(steps)
    try:
        while True:
            if asked.keep:
                run.space.run(COPY, line.point.gradients, [kept])
            trial = line.at(asked.t)
            try:
                asked = steps.send(trial)
            except StopIteration as end:
                found: Trial = end.value
                break
    except BaseException:
        line.back()
        raise
    if found is trial:
        return found, line.point.gradients
    line.move(found.t)
    return found, kept if found.t else run.vectors["g"]
