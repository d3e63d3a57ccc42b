"""An update that a CUDA graph has recorded, replayed beside one that was called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import anyoptim as ao
from benchmarks.gpu.gradients import Gradients, compared, everything, parameters
from benchmarks.gpu.rigs import Rig, present
from benchmarks.problem import Shapes

__all__ = ["OPTIMIZERS", "WHEN", "graphs", "replayed"]

SHAPES: Shapes = {"scalar": (), "odd": (1003,), "unaligned": (499,), "matrix": (37, 53), "long": (70_001,)}
WARM_UP, REPLAYS = 5, 100
WHEN = ("before lr changes", "after")
LATER = 0.01
"""What lr becomes after half of the replays."""

OPTIMIZERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "Adam": (lambda: ao.Adam(lr=0.001), lambda optimizer: optimizer),
    "clip + Adam + EMA": (
        lambda: ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(lr=0.001), ao.EMA(0.9)),
        lambda optimizer: optimizer.stages[1],
    ),
}
"""Optimizers, and which part of each has the lr."""


def graphs() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """A row for each optimizer and library."""
    gradients = Gradients(SHAPES, "float32", WARM_UP + REPLAYS)
    for name, rig in present().items():
        for optimizer in OPTIMIZERS:
            yield f"{optimizer}, {name}", partial(replayed, rig, optimizer, gradients)


def replayed(rig: Rig, name: str, gradients: Gradients, warm_up: int = WARM_UP) -> dict[str, Any]:
    """How far replayed steps are from called ones: before lr changes, and at the end."""
    make, part = OPTIMIZERS[name]
    at = gradients.on(rig)
    ours, theirs = make(), make()
    params, others = (parameters(rig, gradients.start) for _ in range(2))
    given = {k: rig.copy(g) for k, g in at(0).items()}
    rows: dict[str, Any] = {}

    def fill(step: int) -> None:
        for k, g in at(step).items():
            rig.assign(given[k], g)
        rig.wait()

    def compare(when: str) -> None:
        rig.wait()
        off = compared(*(everything(rig, p, o) for p, o in ((params, ours), (others, theirs))))
        rows[when] = off._asdict()

    for step in range(warm_up):
        fill(step)
        ours.update(params, given)
        theirs.update(others, given)
    rig.wait()
    replay = rig.captured(partial(ours.update, params, given))
    half = (warm_up + gradients.steps) // 2
    for step in range(warm_up, gradients.steps):
        if step == half:
            compare(WHEN[0])
            part(ours).lr = part(theirs).lr = LATER
        fill(step)
        replay()
        rig.wait()
        theirs.update(others, given)
    compare(WHEN[1])
    return {"replays": gradients.steps - warm_up, "steps": [int(o.state.step) for o in (ours, theirs)], **rows}
