"""The price of parameters that rest: after hundreds of gradients of 0, Adam's m is subnormal there, and slow."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import anyoptim as ao
from benchmarks import torch_peers
from benchmarks.harness import Candidate, Case, checked, play
from benchmarks.methods import NUMBERS
from benchmarks.names import ANYOPTIM, BLOCKED, FUSED
from benchmarks.problem import Drawn, Problem, Shapes
from benchmarks.reference import Reference
from benchmarks.report import Sheet
from benchmarks.updates import TOLERANCES

__all__ = ["slowdown"]

MATRIX: Shapes = {"w": (400, 250)}
AWAKE, STEPS = 10, 5000
"""Steps with gradients for all rows, and after them with gradients of 0 for half of the rows."""


class _Subject(NamedTuple):
    candidate: Candidate
    m: Callable[[], NDArray[Any]]


def slowdown(seconds: float, shapes: Shapes = MATRIX, steps: int = STEPS) -> Sheet:
    """The time of a step after half of the rows have been resting for so many steps, beside one where none rests."""
    problem = Problem(shapes)
    awake, resting = _medians(problem, 0, seconds), _medians(problem, steps, seconds)
    rows: list[list[str | float]] = [
        [who, awake[who][0], slow, slow / awake[who][0], share] for who, (slow, share) in resting.items()
    ]
    return Sheet(
        ["a step of Adam", "all rows move (ms)", "half rest (ms)", "slowdown", "subnormal m (%)"],
        rows,
        f"One matrix of {problem.size:,} float32 elements; {steps:,} steps with gradients of 0 for half of its rows.",
    )


def _medians(problem: Problem, rests: int, seconds: float) -> dict[str, tuple[float, float]]:
    """For each candidate the milliseconds of a step, and the percentage of m that is subnormal."""
    rng = np.random.default_rng(0)
    reference = Reference("Adam", problem)
    subjects = _subjects(problem, reference)

    def step(drawn: Drawn) -> None:
        for candidate, _ in subjects:
            candidate.turn(candidate.take(drawn))
        reference.follow(drawn)

    for _ in range(AWAKE):
        step(problem.draw(rng))
    for _ in range(rests):
        step(_half(problem.draw(rng)))

    def draw(rng: np.random.Generator) -> Drawn:
        return _half(problem.draw(rng)) if rests else problem.draw(rng)

    case = Case([s.candidate for s in subjects], draw, TOLERANCES[problem.dtype.name], reference.follow)
    times = play(case, max(20, round(100 * seconds)), rng)
    checked("subnormals", case)
    return {c.name: (statistics.median(times[c.name][""]) / 1e6, _subnormal(m())) for c, m in subjects}


def _half(drawn: Drawn) -> Drawn:
    """With gradients of 0 for the upper rows."""
    grads = drawn.fresh()
    for g in grads.values():
        g[: len(g) // 2] = 0
    return Drawn(grads, drawn.norm)


def _subnormal(m: NDArray[Any]) -> float:
    return 100 * float(np.mean((m != 0) & (np.abs(m) < np.finfo(m.dtype).tiny)))


def _subjects(problem: Problem, reference: Reference) -> list[_Subject]:
    engines: dict[str, ao.EngineName] = {ANYOPTIM: "compiled", BLOCKED: "blocked"}
    ours = [
        _ours(name, engine, flush, problem, reference) for name, engine in engines.items() for flush in (False, True)
    ]
    return [*ours, _torch(problem, reference)] if torch_peers.installed() else ours


def _ours(name: str, engine: ao.EngineName, flush: bool, problem: Problem, reference: Reference) -> _Subject:
    params = problem.start()
    optimizer: Any = ao.Adam(**NUMBERS["Adam"], engine=None if flush else engine)
    if flush:
        optimizer = ao.chain(optimizer, ao.FlushSubnormals(), engine=engine)
    optimizer.compile(params)

    def m() -> NDArray[Any]:
        kept: NDArray[Any] = (optimizer.state.slots[0] if flush else optimizer.state.slots)["m"]["w"]
        return kept

    named = f"{name}, with FlushSubnormals" if flush else name
    update = partial(optimizer.update, params)
    return _Subject(Candidate(named, update, lambda: reference.deviation(params, {}), Drawn.fresh), m)


def _torch(problem: Problem, reference: Reference) -> _Subject:
    import torch

    p = torch.nn.Parameter(torch.from_numpy(problem.start()["w"]))
    adam = torch_peers.optimizer("Adam", [p], fused=True)

    def take(drawn: Drawn) -> None:
        p.grad = torch.from_numpy(drawn.arrays["w"].copy())

    def off() -> float:
        return reference.deviation({"w": p.detach().numpy()}, {})

    def m() -> NDArray[Any]:
        kept: NDArray[Any] = adam.state[p]["exp_avg"].numpy()
        return kept

    ways = {"": partial(torch.set_num_threads, 1)}
    return _Subject(Candidate(FUSED, lambda _: adam.step(), off, take, ways), m)
