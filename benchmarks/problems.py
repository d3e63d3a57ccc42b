"""Propose a row of tests/reference/methods.py, or write docs/problems.md: what methods reach on three problems."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track

from benchmarks.machine import ROOT
from tests.reference.methods import METHODS
from tests.reference.problems import PROBLEMS, TOLERANCE, Problem, Run, excess, make
from tests.support.libraries import DISCOVERED

__all__ = ["DOCUMENT", "document", "row", "search"]

DOCUMENT = ROOT / "docs" / "problems.md"

RATES = tuple(digit * 10.0**power for power in range(-5, 2) for digit in (1, 2, 5))
"""The learning rates that are tried, constant and with a cosine's fall to 0."""

MOVED = 1e-12
"""Gradients off by such a share, at random, must lead to the same loss, to a tenth of the tolerance: or else it would
be another one on another machine, whose products add in another order."""

WORTH = 2.0
"""How much lower the loss must be with the fall for it to be proposed."""


@dataclass(frozen=True)
class Trial:
    """A loss and the hyperparameters that led to it."""

    loss: float
    hyper: Mapping[str, float]


def search(name: str, problem: Problem, given: Mapping[str, float]) -> Run:
    """The learning rate that leads to the least loss, of those with which gradients a little off lead there, too."""

    def best(kind: str) -> Trial | None:
        tried = sorted(
            (Trial(excess(make(name, hyper, problem.steps), problem), hyper) for hyper in _candidates(kind, given)),
            key=lambda trial: trial.loss,
        )
        return next((trial for trial in tried if _steady(name, problem, trial)), None)

    found = [trial for kind in ("lr", "cosine") if (trial := best(kind)) is not None]
    if not found:
        raise ValueError(f"{name} reaches nothing on {problem.title} that gradients off by {MOVED} lead to as well")
    constant, *falling = found
    trial = falling[0] if falling and falling[0].loss * WORTH < constant.loss else constant
    return Run(float(f"{trial.loss:.3g}"), trial.hyper)


def _candidates(kind: str, given: Mapping[str, float]) -> Iterator[Mapping[str, float]]:
    for rate in RATES:
        yield {kind: float(f"{rate:.1g}"), **given}


def _steady(name: str, problem: Problem, trial: Trial) -> bool:
    again = excess(make(name, trial.hyper, problem.steps), problem, moved=MOVED)
    return abs(again - trial.loss) <= TOLERANCE / 10 * trial.loss


def row(runs: tuple[Run, ...]) -> str:
    """The line for a row of tests/reference/methods.py."""
    calls = (
        f"run({', '.join([f'{of.loss:.3g}', *(f'{k}={value!r}' for k, value in of.hyper.items())])})" for of in runs
    )
    return f"reached=({', '.join(calls)}),"


def document() -> str:
    """The page."""
    problems = [build() for build in PROBLEMS.values()]
    headings = ["", *(f"{problem.title}: {problem.steps:,} steps" for problem in problems)]
    starts = ["*at the start*", *(f"{problem.loss(problem.start()):.3g}" for problem in problems)]
    lines = [headings, ["---"] * len(headings), starts]
    lines += [[f"`{name}`", *map(_cell, of.reached)] for name, of in sorted(METHODS.items())]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"""# What the methods reach

The loss above the least there is, on three small problems in float64 (tests/reference/problems.py), and the
hyperparameters that are not the defaults. Every learning rate is one of 1, 2 or 5 times a power of ten, constant or,
where that at least halves the loss, falling to 0 along a cosine ("falling"): the one that reaches least, of those for
which gradients that are off by {MOVED:g} lead to the same loss. So the table compares methods at their best learning
rate, on problems without noise, and says little about networks.

The tests run every row again, and allow {TOLERANCE:.0%} of the loss.

{table}

Made by `python -m benchmarks.problems`; `python -m benchmarks.problems --search NAME` looks for the learning rates.
"""


def _cell(of: Run) -> str:
    names = {"cosine": "falling lr"}
    return f"{of.loss:.3g} at " + ", ".join(f"{names.get(k, k)} {value:g}" for k, value in of.hyper.items())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.problems", description=__doc__)
    parser.add_argument("--search", nargs="+", default=[], metavar="NAME", help="propose the rows of these methods")
    parser.add_argument(
        "--with",
        nargs="+",
        default=[],
        dest="given",
        metavar="NAME=NUMBER",
        help="hyperparameters that are not to have their defaults in the search",
    )
    options = parser.parse_args()
    given = {name: float(value) for name, _, value in (text.partition("=") for text in options.given)}
    for name in options.search:
        if name not in DISCOVERED:
            parser.error(f"{name} is no method; wanted one of {', '.join(DISCOVERED)}")
    console = Console()
    wanted = list(itertools.product(options.search, PROBLEMS))
    found = {
        (name, problem): search(name, PROBLEMS[problem](), given)
        for name, problem in track(wanted, description="search", console=console, disable=not wanted)
    }
    for name in options.search:
        print(f"{name}: {row(tuple(found[name, problem] for problem in PROBLEMS))}")
    if not options.search:
        DOCUMENT.write_text(document(), encoding="utf-8")
        console.print(f"written: {DOCUMENT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
