"""A long run whose every step goes to another stream than the one before, and what it leaves behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyoptim as ao
from benchmarks.gpu.gradients import Gradients, compared, everything, parameters, trained
from benchmarks.gpu.rigs import Host, Rig, present
from benchmarks.problem import Shapes

__all__ = ["OPTIMIZERS", "run", "streams"]

SHAPES: Shapes = {"scalar": (), "odd": (1003,), "unaligned": (499,), "matrix": (37, 53)}
STEPS, STEADY = 10_000, 1_000
"""How many steps, and after how many of them nothing should be added any more."""

OPTIMIZERS: Mapping[str, Callable[[], Any]] = {
    "Adam with a schedule": lambda: ao.Adam(lr=lambda t: 0.01 / t**0.5),
    "clip + Adam + EMA": lambda: ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(), ao.EMA(0.9)),
}


def streams() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """A row for each optimizer and library."""
    gradients = Gradients(SHAPES, "float32", STEPS)
    for name, rig in present().items():
        for optimizer in OPTIMIZERS:
            yield f"{optimizer}, {name}", partial(run, rig, optimizer, gradients)


def run(rig: Rig, name: str, gradients: Gradients, steady: int = STEADY) -> dict[str, Any]:
    """All steps on two streams in turn, each waiting for the other; how far from NumPy, and what memory grew by.

    A gradient is made on the stream of its step and dropped right after the call, while the device is far behind.
    """
    optimizer = OPTIMIZERS[name]()
    params, at = parameters(rig, gradients.start), gradients.on(rig)
    two = [(rig.stream(), rig.event()) for _ in range(2)]
    rig.wait()
    before = (0, 0)
    for step in range(gradients.steps):
        if step == steady:
            rig.wait()
            before = rig.used(), _resident()
        (stream, event), (_, other) = two[step % 2], two[(step + 1) % 2]
        with rig.on(stream):
            if step:
                rig.follow(other)
            optimizer.update(params, {k: rig.copy(g) for k, g in at(step).items()})
            rig.record(event)
    rig.wait()
    grown = rig.used() - before[0], _resident() - before[1]
    found = everything(rig, params, optimizer)
    ((_, wanted),) = trained(Host(), OPTIMIZERS[name](), gradients, [gradients.steps])
    off = compared(found, wanted)
    return {
        "steps": gradients.steps,
        "equal": not off.elements,
        **off._asdict(),
        "device_bytes_grown": grown[0],
        "host_bytes_grown": grown[1],
        "since_step": steady,
    }


def _resident() -> int:
    """The bytes of this process that are in memory, or 0 where the system doesn't say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
