"""What a step costs the host, which only has to tell the device what to do."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gpu.rigs import present
from benchmarks.gpu.steps import FOREACH, FUSED, OURS, Table, case
from benchmarks.gpu.watch import Watch, quartiles
from benchmarks.harness import Candidate
from benchmarks.methods import CHAIN, METHODS
from benchmarks.problem import PARAMETERS, Problem, Shapes

__all__ = ["MODEL", "SHAPES", "costs", "host"]

MODEL = "ResNet-50"
"""The list with 161 parameters."""

SHAPES: Mapping[str, Shapes] = {
    **{f"{n} arrays of 1000": {f"w{i}": (1000,) for i in range(n)} for n in (1, 16, 160)},
    MODEL: PARAMETERS[MODEL],
}
STEPS, WARM_UP = 120, 20


CANDIDATES = {**{name: library for library, name in OURS.items()}, FUSED: "torch-cuda", FOREACH: "torch-cuda"}
"""And the library of each."""


def host() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """A row for Adam on each list of shapes, by each candidate; and for the chain on one."""
    tables = {name: Table(rig) for name, rig in present().items()}
    cases = [*(("Adam", size) for size in SHAPES), (CHAIN, MODEL)]
    for method, size in cases:
        for who, library in CANDIDATES.items():
            if library in tables:
                yield f"{method}, {size}: {who}", partial(costs, method, Problem(SHAPES[size]), tables, who)


def costs(method: str, problem: Problem, tables: Mapping[str, Table], who: str, steps: int = STEPS) -> dict[str, Any]:
    """Quartiles of the microseconds that a call takes, with new gradients each time, and which engines it is for.

    One call after another without ever waiting for the device, and then with waiting before each call.
    """
    library = CANDIDATES[who]
    table = tables[library]
    (candidate,) = case(method, problem, tables, [who]).candidates
    found: dict[str, Any] = {
        "behind": quartiles(_times(candidate, problem, steps, lambda: None)),
        "idle": quartiles(_times(candidate, problem, steps, table.rig.wait)),
    }
    if who == OURS[library]:
        params, grads = table.rig.parameters(problem.start()), table.fresh(problem.draw(np.random.default_rng(0)))
        shares = METHODS[method].ours().explain(params, grads)
        found["engines"] = {share.engine: [len(share.parameters), share.reason] for share in shares}
    del candidate
    gc.collect()
    table.rig.free()
    return found


def _times(candidate: Candidate, problem: Problem, steps: int, before: Callable[[], object]) -> list[float]:
    """The microseconds of each call after a warm-up."""
    turn, rng = candidate.turn, np.random.default_rng(0)
    assert isinstance(turn, Watch)  # noqa: S101 - for the type checker
    times = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(WARM_UP + steps):
            given = candidate.take(problem.draw(rng))
            before()
            began = time.perf_counter_ns()
            turn.turn(given)
            times.append((time.perf_counter_ns() - began) / 1e3)
    finally:
        gc.enable()
        turn.rig.wait()
    return times[WARM_UP:]
