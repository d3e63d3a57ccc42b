"""Run the benchmarks, or put the results of the last run into the README, docs/benchmarks.md and the picture."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import track

from benchmarks import (
    alone,
    costs,
    dropout,
    groups,
    jax_steps,
    ranks,
    replays,
    report,
    rows,
    solvers,
    startup,
    subnormals,
    updates,
)
from benchmarks.harness import measure
from benchmarks.machine import ROOT, machine
from benchmarks.names import BASELINE
from benchmarks.picture import draw
from benchmarks.report import Sheet

SHEETS: Mapping[str, Callable[[float], Sheet]] = {
    "NumPy alone": alone.alone,
    "fixed cost": costs.fixed,
    "allocations": costs.allocations,
    "dropout": dropout.dropout,
    "groups": groups.groups,
    "ranks": ranks.ranks,
    "replays": replays.replays,
    "rows": rows.rows,
    "JAX": jax_steps.jax_steps,
    "evaluations of solvers": solvers.counts,
    "iterations of L-BFGS": solvers.iterations,
    "start-up": startup.startup,
    "subnormals": subnormals.slowdown,
}
README = ROOT / "README.md"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long to time each case (default: 2)")
    parser.add_argument("--only", default="", metavar="TEXT", help="the cases whose name has TEXT; writes no results")
    parser.add_argument(
        "--again",
        default="",
        metavar="TEXT",
        help="measure these cases again, where something disturbed them, and say so",
    )
    parser.add_argument(
        "--readme",
        action="store_true",
        help="run nothing; rewrite README.md's table, docs/benchmarks.md and its picture from the results as committed",
    )
    options = parser.parse_args()
    if options.readme:
        rewrite()
    else:
        run(options.seconds, options.only or options.again, bool(options.again))


def rewrite() -> None:
    """Rewrite what is made of the results."""
    results = report.load()
    text = report.between_markers(README.read_text(encoding="utf-8"), report.summary(results))
    README.write_text(text, encoding="utf-8")
    report.DOCUMENT.write_text(report.document(results), encoding="utf-8")
    draw(report.shares(results), report.TITLE, report.PICTURE)


def run(seconds: float, only: str, again: bool = False) -> None:
    """Run every case whose name has `only` in it, print the tables, and write them if these are all, or again."""
    console = Console()
    described = machine()  # before, because the package may be edited meanwhile
    contests = {name: c for name, c in updates.cases().items() if only in name}
    others = {name: make for name, make in SHEETS.items() if only in name}
    outcomes = {
        name: measure(name, contest, BASELINE, seconds)
        for name, contest in track(contests.items(), description="steps", console=console)
    }
    measured = {name: make(seconds) for name, make in track(others.items(), description="costs", console=console)}
    results = report.record(outcomes, measured, described)
    for sheet in report.sheets(results):
        console.print(report.table(sheet))
    console.print(report.caption(results))
    if again:
        results = report.replaced(report.load(), results)
    if again or not only:
        report.save(results)
        console.print(f"written: {report.RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
