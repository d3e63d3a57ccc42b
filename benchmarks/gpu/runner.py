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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.runs import Rows
from benchmarks.machine import ROOT

__all__ = ["Child", "Part", "run", "work"]

LIMIT, KEPT = 465.0, 4000
"""Seconds for everything, and characters of a traceback or of what was printed."""

Results = dict[str, Any]


class Part(NamedTuple):
    """Rows of results, each made when it is called for."""

    title: str
    rows: Callable[[], Rows]
    seconds: float
    """After which it is ended."""
    alone: bool = True
    """Whether it measures times or memory, so that no other may run meanwhile."""


def save(path: Path, results: Results) -> None:
    """Write results, by way of another file, so that nobody finds half of them."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def work(part: Part, out: Path) -> None:
    """Run a part here. What it has found is written after every row; of one that fails, the traceback."""
    found: Results = {}
    save(out, found)
    for name, row in part.rows():
        start = time.monotonic()
        try:
            found[name] = row()
        except Exception:
            found[name] = {"error": traceback.format_exc()[-KEPT:]}
        found[name]["seconds"] = round(time.monotonic() - start, 2)
        save(out, found)


def command(name: str, out: Path) -> list[str]:
    """What runs a part in another process."""
    return [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--out", str(out)]


class Child:
    """A process that runs a part."""

    def __init__(self, name: str, seconds: float, folder: Path) -> None:
        self.out, self.log = folder / f"{name}.json", folder / f"{name}.log"
        self.deadline = time.monotonic() + seconds
        # JAX would take most of the device's memory at once. A session of its own: what it starts ends with it.
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command(name, self.out), cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def end(self) -> None:
        """End it, if it hasn't."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def finish(self) -> Results:
        """What it has found when it is done, or when its time is over."""
        try:
            code = self.process.wait(max(0.0, self.deadline - time.monotonic()))
            error = f"the process ended with {code}" if code else ""
        except subprocess.TimeoutExpired:
            error = "its time was over"
            self.end()
        rows = json.loads(self.out.read_text(encoding="utf-8")) if self.out.exists() else {}
        return {"rows": rows, "error": error, "log": self.log.read_text(encoding="utf-8", errors="replace")[-KEPT:]}


def run(parts: Mapping[str, Part], machine: Mapping[str, Any], out: Path, say: Callable[[str], object]) -> Results:
    """Run these parts, first together those that may. The results are written after every one."""
    began = time.monotonic()
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    results: Results = {"date": today, "machine": dict(machine), "parts": {}}
    beside = [name for name, part in parts.items() if not part.alone]
    with tempfile.TemporaryDirectory() as folder:
        for group in (beside, *([name] for name, part in parts.items() if part.alone)):
            left = LIMIT - (time.monotonic() - began)
            started = {name: Child(name, min(parts[name].seconds, left), Path(folder)) for name in group}
            try:
                for name, child in started.items():
                    found = results["parts"][name] = child.finish()
                    results["seconds"] = round(time.monotonic() - began, 1)
                    save(out, results)
                    failed = sum("error" in row for row in found["rows"].values())
                    rows = f"{len(found['rows'])} rows, {failed} of them failed {found['error']}"
                    say(f"{results['seconds']:6.1f} s  {name}: {rows}")
            finally:
                for child in started.values():
                    child.end()
    return results
