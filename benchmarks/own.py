"""The five lines in NumPy, and anyoptim by its engines."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.harness import Arrays, Candidate
from benchmarks.methods import CHAINS, METHODS
from benchmarks.problem import Drawn, Problem
from benchmarks.reference import Reference

__all__ = ["anyoptim", "averages", "five_lines"]


def averages(method: str, optimizer: Any) -> Arrays:
    """The averages that an optimizer of anyoptim keeps: none but in a chain, where they are the last stage's."""
    kept: Arrays = optimizer.state.slots[-1]["average"] if method in CHAINS else {}
    return kept


def five_lines(name: str, method: str, problem: Problem, reference: Reference) -> Candidate:
    """The method by hand."""
    params, scale = problem.start(), METHODS[method].scale
    by_hand = METHODS[method].by_hand()

    def off() -> float:
        return reference.deviation(params, by_hand.average if method in CHAINS else {})

    turn = partial(by_hand.update, params, **({} if scale == 1 else {"scale": scale}))
    return Candidate(name, turn, off, partial(Drawn.fresh, scale=scale))


def anyoptim(
    name: str, method: str, problem: Problem, reference: Reference, *, engine: str | None = None, comm: Any = None
) -> Candidate:
    """anyoptim on an engine, or on the one it chooses once it has its kernels; as a rank of a communicator."""
    params = problem.start()
    optimizer = METHODS[method].ours(engine=engine)
    optimizer.comm = comm
    optimizer.compile(params)

    def off() -> float:
        return reference.deviation(params, averages(method, optimizer))

    return Candidate(name, partial(optimizer.update, params), off, partial(Drawn.fresh, scale=METHODS[method].scale))
