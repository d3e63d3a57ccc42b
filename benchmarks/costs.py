"""What a step costs beside its arithmetic: time for the call and for each parameter, and memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from functools import partial

import numpy as np

from benchmarks import own
from benchmarks.harness import Candidate, Case, Contest, measure
from benchmarks.methods import METHODS
from benchmarks.names import ANYOPTIM, BASELINE, BLOCKED
from benchmarks.problem import PARAMETERS, Problem, Shapes
from benchmarks.reference import Reference
from benchmarks.report import Sheet
from benchmarks.updates import BUILDERS

__all__ = ["allocations", "fixed"]

ENGINES = ("compiled", "blocked")
COUNTS = (1, 4, 16, 64, 256, 1000)


def fixed(seconds: float, counts: Sequence[int] = COUNTS) -> Sheet:
    """The time of an Adam step on empty arrays: what is left is the checks and the calls."""
    names = (BASELINE, *ENGINES)
    microseconds: dict[str, list[float]] = {who: [] for who in names}
    for n in counts:
        problem = Problem({f"w{i}": (0,) for i in range(n)})
        outcome = measure(f"{n} empty arrays", Contest(names, partial(_engines, problem)), BASELINE, seconds / 4)
        for who in names:
            microseconds[who].append(outcome.timings[who].median * 1e3)
    rows: list[list[str | float]] = []
    for who, y in microseconds.items():
        # Each relative to its size, so that the few parameters count as much as the many.
        each, call = np.polyfit(counts, y, 1, w=1 / np.array(y))
        rows.append([who, *y, float(call), float(each)])
    return Sheet(
        ["µs a step of Adam", *(f"{n} parameter{'s' if n > 1 else ''}" for n in counts), "fixed", "per parameter"],
        rows,
        "On empty arrays, checks included. The last two columns are fitted to the others.",
    )


def _engines(problem: Problem, who: Sequence[str]) -> Case:
    reference = Reference("Adam", problem)
    candidates = [
        own.five_lines(name, "Adam", problem, reference)
        if name == BASELINE
        else own.anyoptim(name, "Adam", problem, reference, engine=name)
        for name in who
    ]
    return Case(candidates, problem.draw, 0, reference.follow, settle=0.0)


def allocations(_: float, shapes: Shapes = PARAMETERS["one array of 16M"]) -> Sheet:
    """The peak of what Python and NumPy allocate within one step, after others that have made the slots."""
    problem, rng = Problem(shapes), np.random.default_rng(0)
    names = (BASELINE, BLOCKED, ANYOPTIM)

    def peaks(method: str) -> list[float]:
        reference = Reference(method, problem)
        return [_peak(BUILDERS[who](who, method, problem, reference), problem, rng) / 1024 for who in names]

    return Sheet(
        ["KiB that a step allocates", *names],
        [[method, *peaks(method)] for method in METHODS],
        f"The peak in one step on {problem.size:,} float32 elements, slots apart, as tracemalloc sees it.",
    )


def _peak(candidate: Candidate, problem: Problem, rng: np.random.Generator) -> float:
    for _ in range(2):
        candidate.turn(candidate.take(problem.draw(rng)))
    given = candidate.take(problem.draw(rng))
    tracemalloc.start()
    try:
        candidate.turn(given)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
