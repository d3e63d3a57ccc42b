"""The driver's calls through the real cuda-bindings, to a driver of our own that runs kernels on the host."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.libraries import Library

ROOT = Path(__file__).parent.parent

RUN = """
import os
import numpy as np
import anyoptim as ao
from anyoptim._engines import _driver, _nvrtc, cuda
from tests import shim
from tests.libraries import same_bits

real, counts = cuda.device, {}
shim.install()
shim.NUMBER = 0
cuda.device = real

def code(text, architecture):
    assert architecture == 90
    library = shim.library_of(text)
    import re
    heads = re.findall(r"__global__ void(?: __launch_bounds__\\(\\d+\\))?\\s+(\\w+)\\(([^)]*)\\)", text)
    for name, parameters in heads:
        counts[name] = parameters.count(",") + 1
    os.environ["STUB_COUNTS"] = "".join(f"{name}={n};" for name, n in sorted(counts.items(), key=lambda c: -len(c[0])))
    return library._name.encode() + b"\\0"

_nvrtc.code = code
rng = np.random.default_rng(0)
shapes = {"W": (30, 50), "b": (), "long": (20001,), "none": (0, 3)}
here = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
there = {k: shim.asarray(a) for k, a in here.items()}
kept = []
make = lambda engine: ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(lr=0.1), ao.EMA(0.9), engine=engine)
ours, theirs = make("cuda"), make("portable")
for _ in range(10):
    g = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    kept.append({k: shim.asarray(a) for k, a in g.items()})
    ours.update(there, kept[-1])
    theirs.update(here, g)
assert all(same_bits(np.array(there[k]), here[k]) for k in here)
x = rng.normal(size=1001).astype(np.float32)
assert same_bits(np.array(ao.dropout(shim.asarray(x), 0.5, 1)), ao.dropout(x, 0.5, 1))
assert [share.engine for share in ours.explain(there, kept[-1])] == ["cuda"]
"""

FAIL = """
import numpy as np
import anyoptim as ao
from anyoptim._engines import _driver
machine = _driver.device(0)
assert machine.architecture == 90
try:
    machine.launch(machine.event(), 0, 1, 7, (1,))
except _driver.CudaError as error:
    print(error)
"""


def _python(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    stub = folder / "libcuda.so.1"
    source = ROOT / "tests" / "stub_driver.cpp"
    subprocess.run(["g++", "-O1", "-w", "-shared", "-fPIC", "-o", str(stub), str(source), "-ldl"], check=True)
    own = {"LD_LIBRARY_PATH": str(folder), "STUB_DRIVER": str(stub), "STUB_COUNTS": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **own}, capture_output=True, text=True, check=False
    )


@pytest.fixture(autouse=True)
def compiler(need: Callable[[str], Library], nvrtc: Any) -> None:
    """And cuda-bindings."""
    need("cuda-shim")


def test_steps_through_the_driver(tmp_path: Path) -> None:
    """Arguments, grids, streams and copies as a device would get them: the bits say so."""
    done = _python(RUN, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    calls = [line.split() for line in done.stderr.splitlines() if line.startswith("cu")]
    before = {"cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"}
    assert all((depth == "1") == (name not in before) for name, depth, _ in calls)  # in the context, once
    # What may allocate or wait is allowed while somebody's stream is captured; nothing else changes that.
    relaxed = {name: capture for name, _, capture in calls}
    for name in ("cuModuleLoadData", "cuMemAlloc", "cuMemHostAlloc", "cuEventCreate", "cuEventQuery"):
        assert relaxed[name] == "2"
    assert relaxed["cuLaunchKernel"] == relaxed["cuMemcpyHtoDAsync"] == "0"
    count = collections.Counter(name for name, *_ in calls)
    assert count["cuLaunchKernel"] == 10 * 5 + 1  # measure, halve, root, coefficients, step; and dropout
    assert count["cuStreamSynchronize"] == count["cuMemcpyDtoHAsync"] == 0  # nothing waits
    assert count["cuMemAlloc"] < 10
    assert count["cuMemHostAlloc"] < count["cuMemcpyHtoDAsync"]  # every second event is over when it is asked


def test_a_call_that_fails_says_which(tmp_path: Path) -> None:
    done = _python(FAIL, tmp_path)
    assert done.stdout.strip() == "cuLaunchKernel failed: CUDA_ERROR_OF_THE_STUB: as the stub was told", done.stderr
