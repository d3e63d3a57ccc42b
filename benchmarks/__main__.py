"""Run the benchmarks, or put the results of the last run into the README."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks import five_lines, report
from benchmarks.harness import Case, measure
from benchmarks.machine import ROOT, machine

SUITES: Mapping[str, Callable[[], dict[str, Callable[[], Case]]]] = {"five_lines": five_lines.cases}
README = ROOT / "README.md"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="about how long to time each case (default: 4)")
    parser.add_argument("--only", default="", metavar="TEXT", help="the cases whose name has TEXT; writes no results")
    parser.add_argument(
        "--readme",
        nargs="?",
        type=Path,
        const=README,
        metavar="FILE",
        help="run nothing; rewrite the table in README.md, or in FILE, from the results as committed",
    )
    options = parser.parse_args()
    if options.readme is None:
        run(options.seconds, options.only)
    else:
        text = options.readme.read_text(encoding="utf-8")
        text = report.between_markers(text, report.markdown(report.load("five_lines")))
        options.readme.write_text(text, encoding="utf-8")


def run(seconds: float, only: str) -> None:
    """Run every case whose name has `only` in it, and print the table."""
    console = Console()
    described = machine()  # before, because the package may be edited meanwhile
    for suite, cases in SUITES.items():
        chosen = [(name, build) for name, build in cases().items() if only in name]
        outcomes = {
            name: measure(name, build(), five_lines.BASELINE, seconds)
            for name, build in track(chosen, description=suite, console=console)
        }
        results = report.record(outcomes, described)
        console.print(report.table(results))
        if not only:
            console.print(f"written: {report.save(suite, results).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
