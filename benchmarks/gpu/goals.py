"""What was asked for, and whether the results have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks.gpu.bits import DTYPES, SUBJECTS
from benchmarks.gpu.host import MODEL
from benchmarks.gpu.masks import DIRECTIONS, TORCH
from benchmarks.gpu.masks import SIZES as DROPOUT_SIZES
from benchmarks.gpu.steps import COPY, FIVE, FUSED, OURS, SIZES
from benchmarks.gpu.streams import OPTIMIZERS
from benchmarks.gpu.watch import BUSY, IDLE

__all__ = ["Goal", "goals", "last_line", "ratio"]

Rows = Mapping[str, Mapping[str, Any]]

MISSING = "not measured"

RIVALS: list[tuple[str, str, float]] = [
    ("GPT-2", COPY, 0.9),
    ("GPT-2", FUSED, 1.0),
    ("ResNet-50", FUSED, 1.5),
    ("1000 arrays of 1000", FUSED, 3.0),
]
"""Of Adam: on which shapes, against whom, and how many times as fast."""

AGAINST_FIVE, MICROSECONDS = 5.0, 150.0
AGAINST_COPY, AGAINST_TORCH = 0.85, 1.0
"""Of Dropout."""


class Goal(NamedTuple):
    """A row of the table."""

    name: str
    wanted: str
    found: str
    met: bool


def goals(results: Mapping[str, Any]) -> list[Goal]:
    """Those of the parts that were run."""
    return [goal for name, part in results["parts"].items() if name in _OF for goal in _OF[name](part["rows"])]


def ratio(row: Mapping[str, Any] | None, ours: str, theirs: str, state: str) -> float | None:
    """The median of their times on the device over ours: above 1 means that we are faster."""
    candidates = (row or {}).get("candidates", {})
    if ours not in candidates or theirs not in candidates:
        return None
    mine, other = (candidates[who][state]["device_ms"][1] for who in (ours, theirs))
    return float(other / mine)


def last_line(error: str) -> str:
    """Of a traceback what was raised."""
    return (error.strip().splitlines() or [""])[-1]


def _bits(rows: Rows) -> Iterator[Goal]:
    for subject in SUBJECTS:
        names = [f"{dtype}, {library}" for dtype in DTYPES for library in OURS]
        found = {name: _equality(rows.get(f"{subject}, {name}")) for name in names}
        yield _equal(f"bits of {subject}", found)


def _equal(name: str, found: Mapping[str, str]) -> Goal:
    """Of each case what is wrong, or nothing."""
    who = {how: [case for case, what in found.items() if what == how] for how in found.values() if how}
    off = [how if len(cases) == len(found) else f"{'; '.join(cases)}: {how}" for how, cases in who.items()]
    return Goal(name, "NumPy's", "; ".join(off) or f"NumPy's in all {len(found)}", not off)


def _equality(row: Mapping[str, Any] | None) -> str:
    """What is wrong, or nothing."""
    if row is None:
        return MISSING
    if "error" in row:
        return last_line(row["error"])
    if row["equal"]:
        return ""
    where = f" after step {row['after']}" if "after" in row else ""
    return f"{row['elements']} elements, at most {row['ulp']:.3g} ulp{where} ({', '.join(row['where'][:3])})"


def _steps(rows: Rows) -> Iterator[Goal]:
    for size, rival, least in RIVALS:
        for ours in OURS.values():
            yield _faster(f"Adam, {size}: {ours} against {rival}", rows.get(f"Adam, {size}"), ours, rival, least)
    for size in SIZES:
        ours = OURS["cupy"]
        yield _faster(f"Adam, {size}: {ours} against {FIVE}", rows.get(f"Adam, {size}"), ours, FIVE, AGAINST_FIVE)
    yield _right("every timed step does the work", rows)


def _faster(name: str, row: Mapping[str, Any] | None, ours: str, theirs: str, least: float) -> Goal:
    """By the time on a device with something to do before; what it is on an idle one stands beside it."""
    busy, idle = (ratio(row, ours, theirs, state) for state in (BUSY, IDLE))
    wanted = f">= {least:g}"
    if busy is None or idle is None:
        return Goal(name, wanted, _why(row, ours, theirs), met=False)
    return Goal(name, wanted, f"{busy:.3g} ({idle:.3g} from idle)", busy >= least)


def _why(row: Mapping[str, Any] | None, *who: str) -> str:
    """Why there is no figure."""
    if row is None:
        return MISSING
    if "error" in row:
        return last_line(row["error"])
    left_out = row.get("left_out", {})
    return "; ".join(f"{name}: {left_out[name]}" for name in who if name in left_out) or MISSING


def _right(name: str, rows: Rows) -> Goal:
    wrong = [
        f"{case}: {who} by {result['deviation']:.3g}"
        for case, row in rows.items()
        for who, result in row.get("candidates", {}).items()
        if not result["deviation"] <= row["tolerance"]
    ]
    timed = sum(len(row.get("candidates", {})) for row in rows.values())
    return Goal(name, "within tolerance", "; ".join(wrong) or f"{timed} of {timed}", bool(timed) and not wrong)


def _host(rows: Rows) -> Iterator[Goal]:
    for ours in OURS.values():
        row = rows.get(f"Adam, {MODEL}: {ours}")
        name, wanted = f"a call with {MODEL}'s parameters: {ours}", f"< {MICROSECONDS:g} us"
        if row is None or "error" in row:
            yield Goal(name, wanted, _why(row), met=False)
            continue
        behind, idle = (row[state][1] for state in ("behind", "idle"))
        yield Goal(name, wanted, f"{behind:.3g} us ({idle:.3g} from idle)", max(behind, idle) < MICROSECONDS)


def _dropout(rows: Rows) -> Iterator[Goal]:
    for direction in DIRECTIONS:
        for ours in OURS.values():
            for rival, least in ((COPY, AGAINST_COPY), (TORCH, AGAINST_TORCH)):
                yield _slowest(f"Dropout {direction}: {ours} against {rival}", rows, direction, ours, rival, least)
    yield _right("every timed Dropout does the work", rows)


def _slowest(name: str, rows: Rows, direction: str, ours: str, rival: str, least: float) -> Goal:
    """The worst of the sizes."""
    each = {size: rows.get(f"{direction}, {size}") for size in DROPOUT_SIZES}
    found = [_faster(name, row, ours, rival, least) for row in each.values()]
    ratios = {size: ratio(row, ours, rival, BUSY) for size, row in each.items()}
    numbers = [f"{number:.3g} at {size}" for size, number in ratios.items() if number is not None]
    gone = next((goal.found for goal, number in zip(found, ratios.values(), strict=True) if number is None), None)
    shown = ", ".join([*numbers, *([gone] if gone else [])])
    return Goal(name, f">= {least:g}", shown, all(goal.met for goal in found))


def _streams(rows: Rows) -> Iterator[Goal]:
    for optimizer in OPTIMIZERS:
        found = {library: _equality(rows.get(f"{optimizer}, {library}")) for library in OURS}
        yield _equal(f"bits on two streams: {optimizer}", found)


_OF: Mapping[str, Callable[[Rows], Iterator[Goal]]] = {
    "bits": _bits,
    "steps": _steps,
    "host": _host,
    "dropout": _dropout,
    "streams": _streams,
}
"""By the name of the part."""
