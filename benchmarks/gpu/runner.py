"""Parts in processes of their own, so that one which crashes, hangs or breaks the device takes nothing else along."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import PARTS, Part, Row
from benchmarks.machine import ROOT

__all__ = ["Child", "attempt", "groups", "run", "save", "work"]

LIMIT = 465.0
"""Seconds for everything."""

LEAST = 5.0
"""Seconds with which it is not worth starting a part."""

TRACEBACK, LOG = 4000, 4000
"""Characters that are kept."""

Results = dict[str, Any]


def save(path: Path, results: Results) -> None:
    """Write results, by way of another file, so that nobody finds half of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def attempt(row: Row) -> dict[str, Any]:
    """What a row finds, or the end of the traceback."""
    try:
        return row()
    except Exception:
        return {"error": traceback.format_exc()[-TRACEBACK:]}


def work(part: Part, out: Path) -> None:
    """Run a part here. What it has found is written after every row."""
    found: Results = {"rows": {}, "error": None}
    began = time.monotonic()
    try:
        for name, row in part.rows():
            start = time.monotonic()
            result = attempt(row)
            found["rows"][name] = {**result, "seconds": round(time.monotonic() - start, 2)}
            save(out, found)
    except Exception:
        found["error"] = traceback.format_exc()[-TRACEBACK:]
    save(out, {**found, "seconds": round(time.monotonic() - began, 2)})


def command(name: str, out: Path) -> list[str]:
    """What runs a part in another process."""
    return [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--out", str(out)]


class Child:
    """A process that runs a part."""

    def __init__(self, name: str, seconds: float, folder: Path) -> None:
        self.out, self.log = folder / f"{name}.json", folder / f"{name}.log"
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        with self.log.open("wb") as log:
            # A session of its own: what it starts in turn ends with it.
            self.process = subprocess.Popen(
                command(name, self.out), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def end(self) -> None:
        """End it, if it hasn't."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def finish(self) -> Results:
        """What it has found when it is done, or when its time is over."""
        error = None
        try:
            code = self.process.wait(max(0.0, self.deadline - time.monotonic()))
            if code:
                error = f"the process ended with {code}"
        except subprocess.TimeoutExpired:
            error = f"ended after {self.seconds:.0f} seconds"
            self.end()
        found: Results = {"rows": {}, "error": None}
        if self.out.exists():
            found = json.loads(self.out.read_text(encoding="utf-8"))
        said = self.log.read_text(encoding="utf-8", errors="replace")[-LOG:]
        return {**found, "error": error or found["error"], "log": said}


def groups(parts: Mapping[str, Part]) -> list[list[str]]:
    """The names of those that run at the same time."""
    together = [name for name, part in parts.items() if part.beside_others]
    return [*([together] if together else []), *([name] for name, part in parts.items() if not part.beside_others)]


def run(
    names: Sequence[str],
    machine: Mapping[str, Any],
    out: Path,
    say: Callable[[str], object],
    parts: Mapping[str, Part] = PARTS,
    start: Callable[[str, float, Path], Any] = Child,
) -> Results:
    """Run the parts of these names. The results are written after every one."""
    began = time.monotonic()
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    results: Results = {"date": today, "machine": dict(machine), "parts": {}}
    with tempfile.TemporaryDirectory() as folder:
        for group in groups({name: part for name, part in parts.items() if name in names}):
            left = LIMIT - (time.monotonic() - began)
            started = {
                name: start(name, min(parts[name].seconds, left), Path(folder)) for name in group if left > LEAST
            }
            try:
                for name in group:
                    none: Results = {"rows": {}, "error": "no time was left", "log": ""}
                    found = started[name].finish() if name in started else none
                    results["parts"][name] = found
                    results["seconds"] = round(time.monotonic() - began, 1)
                    save(out, results)
                    say(_line(name, found, results["seconds"]))
            finally:
                for child in started.values():
                    child.end()
    return results


def _line(name: str, found: Results, seconds: float) -> str:
    wrong = [row for row, result in found["rows"].items() if "error" in result]
    errors = f"; failed: {', '.join(wrong)}" if wrong else ""
    error = f"; {found['error'].strip().splitlines()[-1]}" if found["error"] else ""
    return f"{seconds:6.1f} s  {name}: {len(found['rows'])} rows{errors}{error}"
