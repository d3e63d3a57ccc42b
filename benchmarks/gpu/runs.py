"""Long runs on a device beside NumPy's: every method, two streams in turn, CUDA graphs. To the last bit."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyoptim as ao
from benchmarks.gpu.gradients import Gradients, compared, everything, parameters, trained
from benchmarks.gpu.rigs import Rig, present
from benchmarks.harness import Arrays
from benchmarks.problem import Shapes
from tests.support.chains import CHAINS
from tests.support.libraries import METHODS

__all__ = ["LONG_RUNS", "SHAPES", "SUBJECTS", "Rows", "bits", "graphs", "replayed", "steps", "streamed", "streams"]

Rows = Iterator[tuple[str, Callable[[], dict[str, Any]]]]
Make = Callable[[], Any]

SHAPES: Shapes = {"scalar": (), "odd": (1003,), "unaligned": (4999,), "matrix": (37, 53), "none": (0, 3)}
LONG: Shapes = {**SHAPES, "long": (70_001,)}

STEPS = 1000
CHECKS = (1, 10, 100, STEPS, STEPS + 1)
"""After which steps everything is compared; before the last one there was no infinity and no NaN."""
SUBJECTS: Mapping[str, Make] = {**METHODS, **{name: partial(make, None) for name, make in CHAINS.items()}}

CHAINED = "clip + Adam + EMA"
LONG_RUNS: Mapping[str, Make] = {
    "Adam": lambda: ao.Adam(lr=lambda t: 0.01 / t**0.5),
    CHAINED: lambda: ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(), ao.EMA(0.9)),
}
LONG_STEPS, STEADY = 10_000, 1_000
"""How many steps, and after how many of them nothing should be added any more."""

REPLAYED: Mapping[str, tuple[Make, Callable[[Any], Any]]] = {
    "Adam": (ao.Adam, lambda optimizer: optimizer),
    CHAINED: (LONG_RUNS[CHAINED], lambda optimizer: optimizer.stages[1]),
}
"""Optimizers, and which part of each has the lr."""
WARM_UP, REPLAYS, LATER = 5, 100, 0.01
"""Called steps, replayed ones, and what lr becomes after half of these."""


def bits() -> Rows:
    """A row for each dtype, method or chain, and library."""
    there = present()
    for dtype in ("float32", "float64"):
        gradients = Gradients(LONG, dtype, STEPS)
        for subject in SUBJECTS:
            for name, rig in there.items():
                yield f"{subject}, {dtype}, {name}", partial(steps, rig, subject, gradients)


@functools.lru_cache(maxsize=1)
def _wanted(subject: str, gradients: Gradients, checks: tuple[int, ...]) -> dict[int, Arrays]:
    return dict(trained(Rig(), SUBJECTS[subject](), gradients, checks))


def steps(rig: Rig, subject: str, gradients: Gradients, checks: tuple[int, ...] = CHECKS) -> dict[str, Any]:
    """The first difference that was found, if there is one, and who ran the steps."""
    optimizer, wanted = SUBJECTS[subject](), _wanted(subject, gradients, checks)
    shares = optimizer.explain(parameters(rig, gradients.start), gradients.on(rig)(0))
    for step, found in trained(rig, optimizer, gradients, checks):
        off = compared(found, wanted[step])
        if not off["equal"]:
            break
    return {**off, "after": step, "engines": {share.engine: list(share.parameters) for share in shares}}


def streams() -> Rows:
    """A row for each optimizer and library."""
    gradients = Gradients(SHAPES, "float32", LONG_STEPS)
    for name, rig in present().items():
        for subject in LONG_RUNS:
            yield f"{subject}, {name}", partial(streamed, rig, subject, gradients)


def streamed(rig: Rig, subject: str, gradients: Gradients, steady: int = STEADY) -> dict[str, Any]:
    """All steps on two streams in turn, each waiting for the other; how far from NumPy, and what memory grew by.

    A gradient is made on the stream of its step and dropped right after the call, while the device is far behind.
    """
    optimizer = LONG_RUNS[subject]()
    params, at = parameters(rig, gradients.start), gradients.on(rig)
    two, last, before = (rig.stream(), rig.stream()), None, (0, 0)
    rig.wait()
    for step in range(gradients.steps):
        if step == steady:
            rig.wait()
            before = rig.used(), _resident()
        with two[step % 2]():
            if step:
                rig.follow(last)
            optimizer.update(params, {k: rig.copy(g) for k, g in at(step).items()})
            last = rig.mark()
    rig.wait()
    grown = rig.used() - before[0], _resident() - before[1]
    ((_, wanted),) = trained(Rig(), LONG_RUNS[subject](), gradients, [gradients.steps])
    off = compared(everything(rig, params, optimizer), wanted)
    return {**off, "device_bytes_grown": grown[0], "host_bytes_grown": grown[1]}


def _resident() -> int:
    """The bytes of this process that are in memory, or 0 where the system doesn't say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def graphs() -> Rows:
    """A row for each optimizer and library."""
    gradients = Gradients(LONG, "float32", WARM_UP + REPLAYS)
    for name, rig in present().items():
        for subject in REPLAYED:
            yield f"{subject}, {name}", partial(replayed, rig, subject, gradients)


def replayed(rig: Rig, subject: str, gradients: Gradients, warm_up: int = WARM_UP) -> dict[str, Any]:
    """How far replayed steps are from called ones: before lr changes, or at the end."""
    make, part = REPLAYED[subject]
    at, ours, theirs = gradients.on(rig), make(), make()
    params, others = (parameters(rig, gradients.start) for _ in range(2))
    given = {k: rig.copy(g) for k, g in at(0).items()}
    step_of: Callable[[], object] = partial(ours.update, params, given)
    half = (warm_up + gradients.steps) // 2
    for step in range(gradients.steps):
        for k, g in at(step).items():
            rig.assign(given[k], g)
        rig.wait()
        if step == warm_up:
            step_of = rig.captured(step_of)
        step_of()
        rig.wait()
        theirs.update(others, given)
        if step == half or step + 1 == gradients.steps:
            rig.wait()
            off = compared(*(everything(rig, p, o) for p, o in ((params, ours), (others, theirs))))
            if not off["equal"]:
                break
            part(ours).lr = part(theirs).lr = LATER
    return {**off, "after": step + 1, "steps": [int(o.state.step) for o in (ours, theirs)]}
