"""Everything that has to be seen on an NVIDIA GPU: bits, tests, times, streams, graphs. The goals come last."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.gpu.device import NoDeviceError, described, device
from benchmarks.gpu.goals import goals
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.runner import run, work
from benchmarks.gpu.tables import sheets
from benchmarks.machine import ROOT
from benchmarks.report import table

__all__ = ["main"]

OUT = ROOT / "benchmarks" / "gpu_results.json"
WIDTH = 140


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 if all goals of the parts are met, 1 if one is missed, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="where the results go, after every part")
    parser.add_argument("--parts", default=",".join(PARTS), metavar="A,B", help="run these alone")
    parser.add_argument("--list", action="store_true", help="list the parts and run nothing")
    parser.add_argument("--commit", default="", help="which commit this is, where the folder has no history")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.list:
        for name, part in PARTS.items():
            print(f"{name:10} {part.title}")
        return 0
    names = options.parts.split(",")
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        parser.error(f"no part has the name {', '.join(unknown)}; wanted some of {', '.join(PARTS)}")
    if options.part:
        work(PARTS[options.part], options.out)
        return 0
    try:
        found = device()
    except NoDeviceError as error:
        print(f"no NVIDIA GPU can be used here: {error}", file=sys.stderr)
        return 2
    results = run(names, described(found, options.commit), options.out, lambda line: print(line, flush=True))
    console = Console(width=WIDTH)
    for sheet in sheets(results):
        console.print(table(sheet))
    return 0 if all(goal.met for goal in goals(results)) else 1


if __name__ == "__main__":
    sys.exit(main())
