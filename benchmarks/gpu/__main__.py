"""Everything that has to be seen on an NVIDIA GPU: bits, tests, times, streams, graphs. The goals come last."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.gpu import goals, runner, runs, steps, suite
from benchmarks.gpu.runner import Part
from benchmarks.machine import ROOT, machine
from benchmarks.report import table

__all__ = ["PARTS", "main"]

OUT = ROOT / "benchmarks" / "gpu_results.json"

PARTS: Mapping[str, Part] = {
    "bits": Part("a thousand steps of every method and chain give NumPy's bits", runs.bits, 190, alone=False),
    "tests": Part("the tests about CUDA, on CuPy's arrays and torch's tensors", suite.tests, 190, alone=False),
    "graphs": Part("updates that CUDA graphs replay", runs.graphs, 80, alone=False),
    "sanitizer": Part("NVIDIA's compute-sanitizer finds nothing", suite.sanitizer, 160, alone=False),
    "steps": Part("a step of Adam and of a chain, beside torch, optax, CuPy and a copy", steps.steps, 150),
    "host": Part("what a call costs the host", steps.host, 25),
    "dropout": Part("Dropout, beside torch and a copy", steps.masks, 45),
    "streams": Part("10,000 steps on two streams, and what memory grows by", runs.streams, 50),
}
"""By name."""


def described() -> dict[str, Any]:
    """The machine, its first device, and the versions of what is measured."""
    from cuda.core import Device, system

    Device(0).set_current()
    found = {"gpu": Device(0).name, "capability": ".".join(map(str, Device(0).compute_capability))}
    found["cuda"] = ".".join(map(str, system.get_user_mode_driver_version()))
    for name in ("cupy-cuda13x", "cupy-cuda12x", "cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc", "optax"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return {**machine(), **found}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 if all goals of the parts are met, 1 if one is missed, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    told = "; ".join(f"{name}: {part.title}" for name, part in PARTS.items())
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=tuple(PARTS), metavar="PART", help=told)
    parser.add_argument("--out", type=Path, default=OUT, help="where the results go, after every part")
    parser.add_argument("--commit", default="", help="which commit this is, where the folder has no history")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        runner.work(PARTS[options.part], options.out)
        return 0
    try:
        there = {**described(), **({"commit": options.commit} if options.commit else {})}
    except Exception as error:  # of the import of cuda.core, the loader, or the driver
        print(f"no NVIDIA GPU can be used here: {error}", file=sys.stderr)
        return 2
    parts = {name: PARTS[name] for name in PARTS if name in options.parts}
    results = runner.run(parts, there, options.out, lambda line: print(line, flush=True))
    console = Console(width=140)
    for sheet in goals.sheets(results):
        console.print(table(sheet))
    return 0 if all(goal.met for goal in goals.goals(results)) else 1


if __name__ == "__main__":
    sys.exit(main())
