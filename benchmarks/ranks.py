"""What it costs that ranks agree on each step: the update of a rank that meets none but itself, beside one without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks import own
from benchmarks.harness import Case, Contest, measure
from benchmarks.methods import CHAIN
from benchmarks.problem import PARAMETERS, Problem, Shapes
from benchmarks.reference import Reference
from benchmarks.report import Sheet
from benchmarks.updates import TOLERANCES

__all__ = ["SIZES", "Itself", "ranks"]

SIZES: Mapping[str, Shapes] = {
    name: PARAMETERS[name] for name in ("784-50-10 network", "1000 arrays of 1000", "one array of 16M")
}
ALONE, RANK = "without comm", "as a rank"


class Itself:
    """The communicator of one rank, which costs no time of its own."""

    def Get_rank(self) -> int:  # noqa: N802 - MPI's name
        """Its number."""
        return 0

    def Get_size(self) -> int:  # noqa: N802 - MPI's name
        """How many there are."""
        return 1

    def allgather(self, sendobj: Any) -> list[Any]:
        """What all give."""
        return [sendobj]


def ranks(seconds: float, sizes: Mapping[str, Shapes] = SIZES) -> Sheet:
    """The time of an update with `comm`, and without, of a method alone and of a chain that clips."""
    rows: list[list[str | float]] = []
    for method in ("Adam", CHAIN):
        for size, shapes in sizes.items():
            problem, names = Problem(shapes), [ALONE, RANK]
            contest = Contest(names, partial(_case, method, problem))
            timings = measure(f"ranks, {method}, {size}", contest, ALONE, seconds).timings
            alone, rank = (timings[name].median for name in names)
            rows.append([f"{method}, {size}", alone, rank, rank / alone, rank - alone])
    return Sheet(
        ["ms an update", ALONE, RANK, "ratio", "more"],
        rows,
        "Of a rank that meets none but itself: what all checks and the agreement cost, without a network. Medians.",
    )


def _case(method: str, problem: Problem, names: Sequence[str]) -> Case:
    reference = Reference(method, problem)
    comms = {ALONE: None, RANK: Itself()}
    candidates = [own.anyoptim(name, method, problem, reference, comm=comms[name]) for name in names]
    return Case(candidates, problem.draw, TOLERANCES[problem.dtype.name], reference.follow)
