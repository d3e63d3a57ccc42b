"""What others check, in processes of their own: the tests that are about CUDA, and NVIDIA's sanitizer."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.runs import Rows
from benchmarks.machine import ROOT

__all__ = ["pytest", "sanitized", "sanitizer", "tests"]

CHOSEN, REQUIRED = "cuda or cupy", "cupy,torch-cuda"
"""Which tests: on arrays of a device, which have to be there, and those that need none."""
TESTS_SECONDS, HANGS, TOOL_SECONDS = 175.0, 60, 70.0
"""How long all tests may take, after how many seconds in one its stacks are printed, and how long a tool may take."""
TOOLS, FOLDERS = ("memcheck", "racecheck"), ("/usr/local/cuda/bin", "/opt/cuda/bin")
"""Of the sanitizer, and where it may lie if it isn't on the PATH."""
LISTED, TAIL = 80, 6000
"""Failures, and characters of output, that are kept."""

SCRIPT = """
import sys
from benchmarks.gpu.gradients import Gradients, compared, trained
from benchmarks.gpu.rigs import CuPy, Rig
from benchmarks.gpu.runs import LONG_RUNS, SHAPES

STEPS = 20
rig = {"cupy": CuPy, "numpy": Rig}[sys.argv[1]]()
if rig.name == "cupy":
    rig.xp.cuda.set_allocator(None)  # memory of a pool has no ends that a tool could see
gradients, equal = Gradients({**SHAPES, "long": (20_001,)}, "float32", STEPS), True
for make in LONG_RUNS.values():
    (_, found), (_, wanted) = (next(trained(r, make(), gradients, [STEPS])) for r in (rig, Rig()))
    off = compared(found, wanted)
    print("beside NumPy:", off, flush=True)
    equal = equal and off["equal"]
sys.exit(0 if equal else 3)
"""


def process(command: Sequence[str], seconds: float, **environment: str) -> dict[str, Any]:
    """Run a command in the repository: its code, None if its time was over, and the end of what it wrote."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryFile() as file:
        environment = {**os.environ, "PYTHONPATH": path, **environment}
        running = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
        code: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = running.wait(seconds)
        if code is None:
            running.send_signal(signal.SIGINT)  # which pytest answers with what it has found so far
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(10)
            running.kill()
            running.wait()
        file.seek(0)
        return {"code": code, "in_time": code is not None, "tail": file.read().decode(errors="replace")[-TAIL:]}


def tests() -> Rows:
    """One row: the tests that are about CUDA."""
    yield CHOSEN, partial(pytest, CHOSEN, TESTS_SECONDS, REQUIRED, "-n", "8", "tests")


def pytest(chosen: str, seconds: float, required: str, *more: str) -> dict[str, Any]:
    """Run the tests of these names; what failed, and the end of the output."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        options = ["-q", "-p", "no:cacheprovider", "-k", chosen, "--continue-on-collection-errors", "--durations=10"]
        timed = ["-o", f"faulthandler_timeout={HANGS}", f"--junit-xml={report}"]
        command = [sys.executable, "-m", "pytest", *options, *timed, *more]
        done = process(command, seconds, ANYOPTIM_REQUIRE=required)
        return {**done, **(_junit(report.read_text(encoding="utf-8")) if report.exists() else {})}


def _junit(text: str) -> dict[str, Any]:
    """The numbers of a report, and which tests failed."""
    suites = list(ET.fromstring(text).iter("testsuite"))  # noqa: S314 - pytest wrote it
    kinds = ("tests", "failures", "errors", "skipped")
    failed = [
        [f"{case.get('classname')}::{case.get('name')}", (trouble.get("message") or "")[:300]]
        for suite in suites
        for case in suite.iter("testcase")
        for trouble in (*case.iter("failure"), *case.iter("error"))
    ]
    return {**{kind: sum(int(s.get(kind, 0)) for s in suites) for kind in kinds}, "failed": failed[:LISTED]}


def sanitizer() -> Rows:
    """A row for each tool."""
    for tool in TOOLS:
        yield tool, partial(sanitized, tool)


def sanitized(tool: str, library: str = "cupy") -> dict[str, Any]:
    """A short run under the tool, if it is installed, and the end of what that says."""
    found = shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), *FOLDERS]))
    if found is None:
        return {"missing": "compute-sanitizer is not installed"}
    options = ["--tool", tool, "--error-exitcode", "9", "--print-limit", "20"]
    return process([found, *options, sys.executable, "-c", SCRIPT, library], TOOL_SECONDS)
