"""Results as JSON, and tables made of that JSON alone: for the terminal, the README and docs/benchmarks.md."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from rich.table import Table

from benchmarks.harness import Outcome
from benchmarks.machine import PEERS, ROOT
from benchmarks.methods import CHAIN
from benchmarks.names import ANYOPTIM, BASELINE, BLOCKED, FUSED, LIMIT, OPTAX, TORCH
from benchmarks.problem import PARAMETERS

__all__ = [
    "DOCUMENT",
    "PICTURE",
    "RESULTS",
    "SHOWN",
    "Record",
    "Sheet",
    "between_markers",
    "caption",
    "document",
    "load",
    "record",
    "replaced",
    "save",
    "shares",
    "sheets",
    "summary",
    "table",
]

RESULTS = ROOT / "benchmarks" / "results.json"
DOCUMENT, PICTURE = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks.png"

SHOWN = ("Adam", CHAIN)
"""The methods in the picture and beside their peers; the README has the first. All are in the document."""

CANDIDATES = (BASELINE, *TORCH, OPTAX, BLOCKED, ANYOPTIM, LIMIT)

Record = dict[str, Any]


class Sheet(NamedTuple):
    """A table of numbers: the first heading says of what."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str | float]]
    note: str

    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [[c if isinstance(c, str) else _three(c) for c in row] for row in self.rows]


def record(outcomes: Mapping[str, Outcome], measured: Mapping[str, Sheet], machine: Mapping[str, str | int]) -> Record:
    """Outcomes by case and other tables by name, with the machine they depend on. Times of cases are milliseconds."""
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "machine": dict(machine),
        "cases": {name: asdict(o) for name, o in outcomes.items()},
        "sheets": {name: sheet._asdict() for name, sheet in measured.items()},
    }


def save(results: Record) -> None:
    """Write the results."""
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def replaced(old: Record, new: Record) -> Record:
    """The old results with the new ones in their places, and what was measured again, at which commit."""
    at = str(new["machine"]["commit"])
    if new["machine"]["cpu"] != old["machine"]["cpu"]:
        at += f" on {new['machine']['cpu']}"
    again = {**old.get("again", {}), **dict.fromkeys([*new["cases"], *new["sheets"]], at)}
    return {
        **old,
        "cases": {**old["cases"], **new["cases"]},
        "sheets": {**old["sheets"], **new["sheets"]},
        "again": again,
    }


def load() -> Record:
    """The results as they were last written."""
    results: Record = json.loads(RESULTS.read_text(encoding="utf-8"))
    return results


def sheets(results: Record) -> list[Sheet]:
    """All the tables: first the medians of all candidates, and then what else was measured."""
    found = [Sheet(**sheet) for sheet in results["sheets"].values()]
    if not results["cases"]:
        return found
    rows: list[list[str | float]] = []
    for name, case in results["cases"].items():
        medians = {who: _with_spread(t) for who, t in case["timings"].items()}
        rows.append([name, *(medians.get(who, "") for who in CANDIDATES), _share(case, ANYOPTIM)])
    note = (
        "Medians, and half of the middle half's range. torch, and the limit, in the better of one thread and all: "
        "all where the time is marked *. The last column is the limit's time over anyoptim's."
    )
    return [Sheet(["ms a step", *CANDIDATES, "of the limit"], rows, note), *found]


def _with_spread(timing: Mapping[str, Any]) -> str:
    mark = "" if timing["way"] in {"", "1 thread"} else "*"
    return f"{_three(timing['median'])}{mark} ±{(timing['upper'] - timing['lower']) / 2 / timing['median']:.0%}"


def _share(case: Mapping[str, Any], who: str) -> str:
    return f"{case['timings'][LIMIT]['median'] / case['timings'][who]['median']:.0%}"


def table(sheet: Sheet) -> Table:
    """A table for the terminal."""
    shown = Table(caption=sheet.note, caption_justify="left", caption_style="")
    for i, heading in enumerate(sheet.headings):
        shown.add_column(heading, justify="right" if i else "left", no_wrap=not i)
    for cells in sheet.cells():
        shown.add_row(*cells)
    return shown


def summary(results: Record) -> str:
    """The table for the README: the first method on each shape list, beside the five lines and the peers."""
    m = results["machine"]
    note = (
        f"Medians, float32, {m['cpu']}, {m['cores']} cores, {results['date']}. A ratio above 1 means that {ANYOPTIM} "
        "is faster. The limit is the time to stream the bytes that a step must read and write, each once, as a share "
        f"of {ANYOPTIM}'s time.{_left_out(results)}"
    )
    return _markdown(_beside_peers(results, SHOWN[:1], note))


def _beside_peers(results: Record, methods: Sequence[str], note: str) -> Sheet:
    """Anyoptim's times on each shape list, and how many times as long the five lines and the peers take."""
    rivals = (BASELINE, FUSED, OPTAX)
    rows: list[list[str | float]] = []
    for method in methods:
        for size in PARAMETERS:
            case = results["cases"][f"{method}, {size}"]
            ours = case["timings"][ANYOPTIM]["median"]
            times = [
                f"{case['ratios'][ANYOPTIM] / case['ratios'][who]:.2f}" if who in case["ratios"] else ""
                for who in rivals
            ]
            rows.append([f"{method}, {size}", ours, *times, _share(case, ANYOPTIM)])
    headings = ["a step of", f"{ANYOPTIM} (ms)", *(f"against {who}" for who in rivals), "of the limit"]
    return Sheet(headings, rows, note)


TITLE = "How much of the memory's speed an optimizer step reaches"


def document(results: Record) -> str:
    """All tables as a page."""
    note = f"A ratio above 1 means that {ANYOPTIM} is faster. The last column is the limit's time over {ANYOPTIM}'s."
    beside = _beside_peers(results, SHOWN, note)
    tables = map(_markdown, [beside, *sheets(results)])
    parts = ["# Benchmarks", f"![{TITLE}]({PICTURE.name})", caption(results), *tables]
    return "\n\n".join(parts) + "\n"


def shares(results: Record) -> dict[str, dict[str, dict[str, float]]]:
    """For the picture: by method, by parameters and by candidate, the limit's time over the candidate's."""
    return {
        method: {
            size: {
                who: timings[LIMIT]["median"] / timings[who]["median"]
                for who in CANDIDATES
                if who in timings and who != LIMIT
            }
            for size in PARAMETERS
            for timings in [results["cases"][f"{method}, {size}"]["timings"]]
        }
        for method in SHOWN
    }


def _markdown(sheet: Sheet) -> str:
    lines = [sheet.headings, ["---", *["---:"] * (len(sheet.headings) - 1)], *sheet.cells()]
    return "\n".join(["| " + " | ".join(cells) + " |" for cells in lines] + ["", sheet.note])


def caption(results: Record) -> str:
    """The machine, the versions, the date and the command."""
    m = results["machine"]
    versions = ", ".join(f"{name} {m[name]}" for name in ("numba", *PEERS, "jax"))
    again = results.get("again", {})
    commits = ", ".join(dict.fromkeys(again.values()))
    once_more = f" Measured again by themselves: {len(again)}, at {commits}, named in {RESULTS.name}." if again else ""
    return (
        f"Medians of interleaved turns, float32 unless said; a ratio above 1 means that {ANYOPTIM} is faster. "
        "The limit is the time to stream the bytes that a step must read and write, each once. "
        f"{m['cpu']}, {m['cores']} cores, "
        f"{m['memory_gib']} GiB, {m['os']}, Python {m['python']}, NumPy {m['numpy']}, {versions}, "
        f"anyoptim {m['anyoptim']} at {m['commit']}, {results['date']}.{_left_out(results)}{once_more} "
        "Made by `python -m benchmarks`, then `python -m benchmarks --readme`."
    )


def _left_out(results: Record) -> str:
    missing = [name for name in PEERS if results["machine"][name] == "missing"]
    return "".join(f" {name} is not installed there: its candidates are left out." for name in missing)


def between_markers(text: str, inserted: str, name: str = "benchmarks") -> str:
    """The text with other lines between its two markers. Raises ValueError where they aren't there once each."""
    begin, end = (f"<!-- {name}:{which} -->" for which in ("begin", "end"))
    if not (text.count(begin) == text.count(end) == 1 and text.index(begin) < text.index(end)):
        raise ValueError(f"wanted one line {begin} and after it one line {end}, for the table to go between")
    return f"{text.partition(begin)[0]}{begin}\n{inserted}\n{end}{text.partition(end)[2]}"


def _three(number: float) -> str:
    """Three significant digits, never as a power of ten."""
    return f"{float(f'{number:.3g}'):,.10g}"
