"""Results as tables for the terminal; the last one has what was asked for, and whether they have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from rich.markup import escape

from benchmarks.gpu.steps import COPY, DIRECTIONS, DROPOUT, FIVE, MASKS, MODEL, OURS, SIZES
from benchmarks.names import FUSED
from benchmarks.report import Sheet

__all__ = ["Goal", "goals", "sheets"]

Row = Mapping[str, Any]
MISSING: Row = {"error": "not measured"}

MICROSECONDS, BYTES = 100.0, 64 << 20
"""A call with 161 gradients, and what the memory of a long run's process may grow by."""
RATIOS: list[tuple[str, str, str, float]] = [
    ("steps", "Adam, GPT-2", COPY, 0.9),
    ("steps", "Adam, GPT-2", FUSED, 1.0),
    ("steps", "Adam, ResNet-50", FUSED, 1.5),
    ("steps", "Adam, 1000 arrays of 1000", FUSED, 3.0),
    *(("steps", f"Adam, {size}", FIVE, 4.0) for size in SIZES),
    *(("dropout", f"{way}, {n}M", COPY, 0.85) for way in DIRECTIONS for n in MASKS),
    *(("dropout", f"{way}, {n}M", DROPOUT, 1.0) for way in DIRECTIONS for n in MASKS),
]
"""In which part and row, against whom, and how many times as fast."""


class Goal(NamedTuple):
    """A row of the table."""

    name: str
    wanted: str
    found: str
    met: bool


def goals(results: Mapping[str, Any]) -> list[Goal]:
    """Those of the parts that were run."""
    parts = {name: part["rows"] for name, part in results["parts"].items()}
    return [*_ratios(parts), *_right(parts), *_host(parts)]


def _ratios(parts: Mapping[str, Any]) -> Iterator[Goal]:
    for part, name, rival, least in RATIOS:
        for ours in OURS.values() if part in parts else ():
            row = parts[part].get(name, MISSING)
            found, ratio = _failed(row), 0.0
            if not found:
                out = [f"{who}: {why}" for who, why in row["left_out"].items() if who in {ours, rival}]
                found = "; ".join(out)
            if not found:
                ratio = row["timings"][rival]["median"] / row["timings"][ours]["median"]
                found = f"{ratio:.3g}"
            yield Goal(f"{name}: {ours} against {rival}", f">= {least:g}", found, ratio >= least)


def _right(parts: Mapping[str, Any]) -> Iterator[Goal]:
    for part, (wanted, wrong) in _WRONG.items():
        if part in parts:
            rows = parts[part] or {"": MISSING}
            each = {name: _failed(row) or wrong(row) for name, row in rows.items()}
            shown = "; ".join(f"{name}: {said}" for name, said in each.items() if said)
            yield Goal(part, wanted, shown or f"in all {len(rows)}", not shown)


def _host(parts: Mapping[str, Any]) -> Iterator[Goal]:
    for ours in OURS.values() if "host" in parts else ():
        row = parts["host"].get(f"Adam, {MODEL}: {ours}", MISSING)
        why, name = _failed(row), f"a call with {MODEL}'s gradients: {ours}"
        worst = MICROSECONDS if why else max(row[state][1] for state in ("behind", "idle"))
        yield Goal(name, f"< {MICROSECONDS:g} us", why or f"{worst:.3g} us", worst < MICROSECONDS)


def _failed(row: Row) -> str:
    """Of a traceback what was raised."""
    return str((row["error"].strip().splitlines() or ["?"])[-1]) if "error" in row else ""


def _bits(row: Row) -> str:
    if not row["equal"]:
        return f"{row['elements']} elements off, at most {row['ulp']:.3g} ulp ({', '.join(row['where'][:3])})"
    grown = max(row.get(f"{where}_bytes_grown", 0) for where in ("device", "host"))
    return f"{grown >> 20} MiB more" if grown > BYTES else ""


def _tests(row: Row) -> str:
    failed = "".join(f"\n{test[-60:]}: {why[:60]}" for test, why in row.get("failed", [])[:12])
    numbers = ", ".join(f"{row.get(kind, '?')} {kind}" for kind in ("tests", "failures", "errors"))
    return "" if row["code"] == 0 else f"{numbers}{'' if row['in_time'] else ', ended before its end'}{failed}"


def _sanitizer(row: Row) -> str:
    return "" if "missing" in row or row["code"] == 0 else f"ended with {row['code']}: {row['tail'][-200:]}"


_WRONG: Mapping[str, tuple[str, Callable[[Row], str]]] = {
    "bits": ("NumPy's bits", _bits),
    "graphs": ("the bits of calls", _bits),
    "streams": ("NumPy's bits, no growth", _bits),
    "tests": ("no failure", _tests),
    "sanitizer": ("clean, if there is one", _sanitizer),
}
"""By the name of a part: what is wanted of its rows, and what is wrong with one, or nothing."""


def sheets(results: Mapping[str, Any]) -> list[Sheet]:
    """One for each part that has something to show."""
    parts = {name: part["rows"] for name, part in results["parts"].items()}
    errors = [[name, _failed(part)] for name, part in results["parts"].items() if part["error"]]
    calls = {name: row for name, row in parts.get("host", {}).items() if "error" not in row}
    host = [[name, row["behind"][1], row["idle"][1], str(row["engines"])] for name, row in calls.items()]
    last = [[goal.name, goal.wanted, goal.found, "met" if goal.met else "MISSED"] for goal in goals(results)]
    note = (
        "Medians of turns of some steps each, until the device has done them. torch is handed its gradients within a "
        "turn; optax waits for each step."
    )
    behind = "Behind: without ever waiting for the device. Engines: how many arrays each takes."
    found = [
        Sheet(["ms a step", "who", "median", "of the copy"], [*_times(parts)], note),
        Sheet(["us a call on the host", "behind", "from idle", "engines"], host, behind),
        Sheet(["part", "how it ended"], errors, ""),
        Sheet(["goal", "wanted", "found", ""], last, _caption(results)),
    ]
    # In square brackets are parameters of tests, and not how to print.
    escaped = [[[escape(c) if isinstance(c, str) else c for c in row] for row in sheet.rows] for sheet in found]
    return [sheet._replace(rows=rows) for sheet, rows in zip(found, escaped, strict=True) if rows]


def _times(parts: Mapping[str, Any]) -> Iterator[list[str | float]]:
    for part in ("steps", "dropout"):
        for name, row in parts.get(part, {}).items():
            for who, timing in row.get("timings", {}).items():
                yield [name, who, timing["median"] / row["steps"], row["ratios"][who]]


def _caption(results: Mapping[str, Any]) -> str:
    """The machine, the versions and the date."""
    told = ", ".join(f"{k} {v}" for k, v in results["machine"].items() if v != "missing")
    return f"{told}; {results['date']}, {results.get('seconds', 0):.0f} s."
