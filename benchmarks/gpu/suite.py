"""What others check, in processes of their own: the tests that want a device, and NVIDIA's sanitizer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import ROOT

__all__ = ["SCRIPT", "Process", "host_tests", "junit", "process", "pytest", "sanitized", "sanitizer", "tests"]

ON_DEVICE, ON_HOST = "cupy or torch-cuda", "cuda and not (cupy or torch-cuda)"
"""Which tests: those on arrays of a device; the others about CUDA, which compile kernels and run them on the host."""
REQUIRED = "cupy,torch-cuda"
TESTS_SECONDS, HANGS = 200.0, 60
"""How long all tests may take, and after how many seconds in one the stacks of its threads are printed."""

TOOLS = ("memcheck", "racecheck")
TOOL_SECONDS = 70.0
FOLDERS = ("/usr/local/cuda/bin", "/opt/cuda/bin")
"""Where the sanitizer may lie if it isn't on the PATH."""

LISTED, TAIL = 80, 6000
"""Failures, and characters of output, that are kept."""

SCRIPT = """
import sys
import anyoptim as ao
from benchmarks.gpu.gradients import Gradients, compared, trained
from benchmarks.gpu.rigs import CuPy, Host

STEPS = 20
rig = {"cupy": CuPy, "numpy": Host}[sys.argv[1]]()
if rig.name == "cupy":
    rig.xp.cuda.set_allocator(None)  # memory of a pool has no ends that a tool could see
shapes = {"scalar": (), "odd": (1003,), "unaligned": (499,), "matrix": (37, 53), "long": (20_001,)}
gradients = Gradients(shapes, "float32", STEPS)
wrong = 0
for make in (ao.Adam, lambda: ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(), ao.EMA(0.9))):
    (_, found), (_, wanted) = (next(trained(r, make(), gradients, [STEPS])) for r in (rig, Host()))
    off = compared(found, wanted)
    print("beside NumPy:", off, flush=True)
    wrong += off.elements
sys.exit(3 if wrong else 0)
"""


class Process(NamedTuple):
    """How a process ended."""

    code: int | None
    """None if it was ended because its time was over."""
    output: str

    def tail(self) -> str:
        """The end of what it wrote."""
        return self.output[-TAIL:]


def process(command: Sequence[str], seconds: float, **environment: str) -> Process:
    """Run a command in the repository. After so many seconds it is interrupted, and soon after that killed."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    with tempfile.TemporaryFile() as file:
        running = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT)
        code: int | None
        try:
            code = running.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
            running.send_signal(signal.SIGINT)  # which pytest answers with what it has found so far
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
        file.seek(0)
        return Process(code, file.read().decode(errors="replace"))


def tests() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """One row: the tests of the libraries that have arrays on a device."""
    yield ON_DEVICE, partial(pytest, ON_DEVICE, TESTS_SECONDS)


def host_tests() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """One row: the other tests that are about CUDA."""
    yield ON_HOST, partial(pytest, ON_HOST, TESTS_SECONDS)


def pytest(chosen: str, seconds: float, required: str = REQUIRED, *more: str) -> dict[str, Any]:
    """Run the tests of these names; what failed, and the end of the output."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        options = ["-q", "-p", "no:cacheprovider", "-k", chosen, "--continue-on-collection-errors", "--durations=10"]
        timed = ["-o", f"faulthandler_timeout={HANGS}", f"--junit-xml={report}"]
        command = [sys.executable, "-m", "pytest", *options, *timed, *(more or ["tests"])]
        # The tests of other libraries are not chosen; should JAX be met all the same, it leaves some memory.
        done = process(command, seconds, ANYOPTIM_REQUIRE=required, XLA_PYTHON_CLIENT_PREALLOCATE="false")
        found = junit(report.read_text(encoding="utf-8")) if report.exists() else {}
    return {"code": done.code, "in_time": done.code is not None, **found, "tail": done.tail()}


def junit(text: str) -> dict[str, Any]:
    """The numbers of a report, and which tests failed."""
    suites = list(ET.fromstring(text).iter("testsuite"))  # noqa: S314 - pytest wrote it
    numbers = {kind: sum(int(suite.get(kind, 0)) for suite in suites) for kind in _KINDS}
    failed = [
        [f"{case.get('classname')}::{case.get('name')}", (trouble.get("message") or "")[:300]]
        for suite in suites
        for case in suite.iter("testcase")
        for trouble in (*case.iter("failure"), *case.iter("error"))
    ]
    return {**numbers, "failed": failed[:LISTED]}


_KINDS = ("tests", "failures", "errors", "skipped")


def sanitizer() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """A row for each tool."""
    for tool in TOOLS:
        yield tool, partial(sanitized, tool)


def sanitized(tool: str, library: str = "cupy") -> dict[str, Any]:
    """A short run under the tool, if it is installed, and the end of what that says."""
    paths = os.pathsep.join([os.environ.get("PATH", ""), *FOLDERS])
    found = shutil.which("compute-sanitizer", path=paths)
    if found is None:
        return {"missing": "compute-sanitizer is not installed"}
    options = ["--tool", tool, "--error-exitcode", "9", "--print-limit", "20"]
    done = process([found, *options, sys.executable, "-c", SCRIPT, library], TOOL_SECONDS)
    return {"code": done.code, "clean": done.code == 0, "tail": done.tail()}
