"""Results as JSON, and tables made of that JSON alone: for the terminal and for the README."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.five_lines import ANYOPTIM, BASELINE, LIMIT
from benchmarks.harness import Outcome
from benchmarks.machine import ROOT

__all__ = ["BEGIN", "END", "between_markers", "load", "markdown", "record", "rows", "save", "table"]

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
RESULTS = ROOT / "benchmarks" / "results"

HEADINGS = ("case", f"{BASELINE} (ms)", f"{ANYOPTIM} (ms)", "ratio", "of the limit")

Record = dict[str, Any]


def record(outcomes: Mapping[str, Outcome], machine: Mapping[str, str | int]) -> Record:
    """Outcomes by case, with the machine they depend on. Times are in milliseconds."""
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return {"date": today, "machine": dict(machine), "cases": {name: asdict(o) for name, o in outcomes.items()}}


def save(name: str, results: Record) -> Path:
    """Write the results of a benchmark."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


def load(name: str) -> Record:
    """The results of a benchmark as they were last written."""
    results: Record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return results


def rows(results: Record) -> list[tuple[str, ...]]:
    """The cells under `HEADINGS`, one row for each case."""
    found: list[tuple[str, ...]] = []
    for name, case in results["cases"].items():
        base, ours, limit = (case["timings"][who]["median"] for who in (BASELINE, ANYOPTIM, LIMIT))
        found.append((name, _three(base), _three(ours), f"{case['ratios'][ANYOPTIM]:.2f}", f"{limit / ours:.0%}"))
    return found


def table(results: Record) -> Table:
    """The results for the terminal. After each median stands half of the middle half's range."""
    shown = Table(title=caption(results), title_justify="left", title_style="")
    shown.add_column(HEADINGS[0], no_wrap=True)
    for heading in HEADINGS[1:]:
        shown.add_column(heading, justify="right")
    for (name, base, ours, *rest), case in zip(rows(results), results["cases"].values(), strict=True):
        spread = {who: (t["upper"] - t["lower"]) / 2 / t["median"] for who, t in case["timings"].items()}
        shown.add_row(name, f"{base} ±{spread[BASELINE]:.0%}", f"{ours} ±{spread[ANYOPTIM]:.0%}", *rest)
    return shown


def markdown(results: Record) -> str:
    """The results for the README."""
    lines = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1)), *rows(results)]
    return "\n".join(["| " + " | ".join(cells) + " |" for cells in lines] + ["", caption(results)])


def caption(results: Record) -> str:
    """The machine, the versions, the date and the command."""
    m = results["machine"]
    return (
        f"Medians of interleaved turns, float32 unless said; a ratio above 1 means that {ANYOPTIM} is faster. "
        f"{m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB, {m['os']}, Python {m['python']}, "
        f"NumPy {m['numpy']}, anyoptim {m['anyoptim']} at {m['commit']}, {results['date']}. "
        "Made by `python -m benchmarks`, then `python -m benchmarks --readme`."
    )


def between_markers(text: str, inserted: str) -> str:
    """The text with other lines between its two markers. Raises ValueError where they aren't there once each."""
    if not (text.count(BEGIN) == text.count(END) == 1 and text.index(BEGIN) < text.index(END)):
        raise ValueError(f"wanted one line {BEGIN} and after it one line {END}, for the table to go between")
    return f"{text.partition(BEGIN)[0]}{BEGIN}\n{inserted}\n{END}{text.partition(END)[2]}"


def _three(milliseconds: float) -> str:
    """Three significant digits, never as a power of ten."""
    return f"{float(f'{milliseconds:.3g}'):g}"
