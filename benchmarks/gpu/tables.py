"""Results as tables for the terminal, the goals last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.markup import escape

from benchmarks.gpu.goals import goals, last_line, ratio
from benchmarks.gpu.graphs import WHEN
from benchmarks.gpu.masks import TORCH
from benchmarks.gpu.steps import COPY, FUSED
from benchmarks.gpu.watch import BUSY, IDLE
from benchmarks.report import Sheet

__all__ = ["caption", "sheets"]

Cells = list[str | float]

SHOWN, WIDTH = 12, 110
"""Failed tests, and characters of each."""


def sheets(results: Mapping[str, Any]) -> list[Sheet]:
    """One for each part that has something to show."""
    parts = results["parts"]
    found = [
        _timed("steps", "a step", parts, FUSED),
        _timed("dropout", "Dropout", parts, TORCH),
        Sheet(
            ["host us a call", "behind", "from idle", "engines"],
            list(_host(parts)),
            "Medians. Behind: without ever waiting for the device. Engines: how many arrays each takes.",
        ),
        Sheet(["part", "what was found"], list(_others(parts)), ""),
        Sheet(
            ["goal", "wanted", "found", ""],
            [[goal.name, goal.wanted, goal.found, "met" if goal.met else "MISSED"] for goal in goals(results)],
            caption(results),
        ),
    ]
    # In square brackets are parameters of tests, and not how to print.
    escaped = [[[escape(c) if isinstance(c, str) else c for c in row] for row in sheet.rows] for sheet in found]
    return [sheet._replace(rows=rows) for sheet, rows in zip(found, escaped, strict=True) if rows]


def caption(results: Mapping[str, Any]) -> str:
    """The machine, the versions and the date."""
    m = results["machine"]
    libraries = ("cupy-cuda13x", "cupy-cuda12x", "torch", "cuda-bindings", "numpy", "numba")
    versions = ", ".join(f"{name} {m[name]}" for name in libraries if m.get(name, "missing") != "missing")
    return (
        f"{m['gpu']} (compute capability {m['capability']}, {m['gpu_memory_gib']} GiB), driver {m['driver']}, "
        f"CUDA {m['cuda']}, Python {m['python']}, {versions}, anyoptim at {m['commit']}, {results['date']}, "
        f"{results.get('seconds', 0):.0f} s. Ratios are of device times on a busy device, of "
        "medians of interleaved turns."
    )


def _timed(part: str, heading: str, parts: Mapping[str, Any], rival: str) -> Sheet:
    rows: list[Cells] = []
    for case, row in parts.get(part, {}).get("rows", {}).items():
        for who, result in row.get("candidates", {}).items():
            against = [ratio(row, who, other, state) for other, state in ((COPY, BUSY), (rival, BUSY), (rival, IDLE))]
            rows.append(
                [
                    f"{case}: {who}",
                    *(result[state]["device_ms"][1] for state in (BUSY, IDLE)),
                    result[IDLE]["host_us"][1],
                    row["bytes"] / result[BUSY]["device_ms"][1] / 1e6,
                    *("" if number is None else number for number in against),
                ]
            )
    headings = [heading, "busy ms", "idle ms", "host us", "GB/s", "of the copy", f"x {rival}", "x from idle"]
    note = (
        "Medians on the device. Busy: behind about 2 ms of other work, during which the host gets ahead, if it is fast "
        "enough. Idle: with nothing before, so that the device waits for the host."
    )
    return Sheet(headings, rows, note)


def _host(parts: Mapping[str, Any]) -> Iterator[Cells]:
    for name, row in parts.get("host", {}).get("rows", {}).items():
        if "error" not in row:
            engines = ", ".join(f"{engine} {n}" for engine, (n, _) in row.get("engines", {}).items())
            yield [name, row["behind"][1], row["idle"][1], engines]


def _others(parts: Mapping[str, Any]) -> Iterator[Cells]:
    for name, part in parts.items():
        if part["error"]:
            yield [name, last_line(part["error"])]
        for row, result in part["rows"].items():
            said = _said(name, result)
            if said:
                yield [f"{name}: {row}", said]


def _said(part: str, result: Mapping[str, Any]) -> str:
    """A row in a line, or nothing."""
    if "error" in result:
        return last_line(result["error"])
    return _SAID[part](result) if part in _SAID else ""


def _tests(result: Mapping[str, Any]) -> str:
    # The end of a long name, so that there is room for the reason.
    each = [f"{test[-WIDTH // 2 :]}: {''.join(why.splitlines()[:1])}" for test, why in result.get("failed", [])]
    failed = "".join(f"\n{line[:WIDTH]}" for line in each[:SHOWN]) + ("\n..." if len(each) > SHOWN else "")
    numbers = ", ".join(f"{result[k]} {k}" for k in ("tests", "failures", "errors", "skipped") if k in result)
    return f"{numbers or 'no report'}{'' if result['in_time'] else ', ended before its end'}{failed}"


def _sanitizer(result: Mapping[str, Any]) -> str:
    if "missing" in result:
        return str(result["missing"])
    return "clean" if result["clean"] else f"ended with {result['code']}: {last_line(result['tail'])}"


def _graphs(result: Mapping[str, Any]) -> str:
    each = {when: result[when] for when in WHEN if when in result}
    return "; ".join(f"{when}: {off['elements']} elements off, {off['ulp']:.3g} ulp" for when, off in each.items())


def _streams(result: Mapping[str, Any]) -> str:
    grown = f"{result['device_bytes_grown']} bytes more on the device, {result['host_bytes_grown']} on the host"
    return f"{grown}, after {result['steps'] - result['since_step']} steps"


def _bits(result: Mapping[str, Any]) -> str:
    """Who else than the CUDA engine ran it."""
    return ", ".join(f"{engine}: {' '.join(of)}" for engine, of in result["engines"].items() if engine != "cuda")


def _left_out(result: Mapping[str, Any]) -> str:
    return "; ".join(f"{who} left out: {why}" for who, why in result["left_out"].items())


_SAID: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "tests": _tests,
    "host-tests": _tests,
    "sanitizer": _sanitizer,
    "graphs": _graphs,
    "streams": _streams,
    "bits": _bits,
    "steps": _left_out,
    "dropout": _left_out,
}
"""By the name of the part."""
