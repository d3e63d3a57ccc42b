"""What a process pays before its first step: kernels compiled or loaded, short runs as whole processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from benchmarks.machine import ROOT
from benchmarks.report import Sheet

__all__ = ["MEASURED", "Process", "startup"]

PROCESSES = 3

# As short as the runs that people start by hand.

KERNEL = """
import time
import numba
import numpy as np
import anyoptim as ao
params = {"w": np.ones(1000, np.float32)}
optimizer = ao.Adam()
numba.core.registry.cpu_target.target_context.refresh()
numba.core.registry.cpu_target.typing_context.refresh()
began = time.perf_counter()
optimizer.compile(params)
print(time.perf_counter() - began)
"""

LOADED = """
import time
import numpy as np
import anyoptim as ao
params = {"w": np.ones(1000, np.float32)}
optimizer = ao.Adam()
began = time.perf_counter()
optimizer.compile(params)
print(time.perf_counter() - began)
"""

LONGEST = """
import time
import numpy as np
import anyoptim as ao
p, g = (np.random.default_rng(k).normal(size=6_000_000).astype(np.float32) for k in range(2))
optimizer, seconds, after = ao.Adam(), [], 0
while after < 50 and len(seconds) < 5000:
    began = time.perf_counter()
    optimizer.update(p, g)
    seconds.append(time.perf_counter() - began)
    (share,) = optimizer.explain(p, g)
    after += share.engine == "compiled"
assert after == 50
print(max(seconds[1:]) - 3 * np.median(seconds))
"""

DEFERRED = """
import time
import numba
began = time.perf_counter()
numba.core.registry.cpu_target.target_context.refresh()
numba.core.registry.cpu_target.typing_context.refresh()
print(time.perf_counter() - began)
"""

TWO_FLOATS = """
import anyoptim as ao
params = {{"x": -7.0, "y": 2.0}}
optimizer = ao.Adam(lr=0.3, engine={engine!r})
for _ in range(30):
    optimizer.update(params, {{"x": params["x"] / 10, "y": 2 * params["y"]}})
"""

DIGITS = """
import numpy as np
import train_digits as example
digits, generator = example.load(), np.random.default_rng(0)
params, order = example.initial_params(generator), example.shuffled(generator, 25, len(digits.x_train))
optimizer = example.METHODS["adam"].optimizer(lr=example.METHODS["adam"].lr, engine={engine!r})
*_, last = example.train(example.Network(params), optimizer, digits, order)
assert last.test_accuracy > 0.9
"""


class Process(NamedTuple):
    script: str
    new_cache: bool = False
    """Whether nothing was compiled by an earlier process."""


MEASURED: Mapping[str, Process] = {
    "compile a kernel, in the first process": Process(KERNEL, new_cache=True),
    "load it, in later ones": Process(LOADED),
    "the longest step beside compiling": Process(LONGEST, new_cache=True),
    "import anyoptim": Process("import anyoptim"),
    "import numba": Process("import numba"),
    "what that defers until it is used": Process(DEFERRED),
    "30 steps on two floats": Process(TWO_FLOATS.format(engine=None)),
    "30 steps on two floats, blocked": Process(TWO_FLOATS.format(engine="blocked")),
    "the digits": Process(DIGITS.format(engine=None)),
    "the digits, in the first process": Process(DIGITS.format(engine=None), new_cache=True),
    "the digits, blocked": Process(DIGITS.format(engine="blocked")),
    "the digits, compiled": Process(DIGITS.format(engine="compiled")),
    "the digits, compiled, in the first process": Process(DIGITS.format(engine="compiled"), new_cache=True),
}


def startup(_: float, measured: Mapping[str, Process] = MEASURED, processes: int = PROCESSES) -> Sheet:
    """Medians over processes in random order; whole processes, but for what a script times itself."""
    order = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in measured}
    with tempfile.TemporaryDirectory() as kept:
        for process in {p.script: p for p in measured.values()}.values():
            _seconds(process.script, kept, kept)  # so that later processes find what they load
        for _ in range(processes):
            for name in order.permutation(list(measured)):
                with tempfile.TemporaryDirectory() as new:
                    times[name].append(_seconds(measured[name].script, new if measured[name].new_cache else kept, kept))
    rows: list[list[str | float]] = [
        [name, *(float(q) for q in np.percentile(seconds, (50, 0, 100)))] for name, seconds in times.items()
    ]
    return Sheet(
        ["start-up", "median (s)", "least (s)", "most (s)"],
        rows,
        f"Over {processes} processes each, from their start to their end; but a kernel without Numba's imports, "
        "and these, deferred to Numba's first use, without the rest; and of the longest step, of 6M elements, what it "
        "takes beyond three times the median step of that process, which begins by *blocked* and ends compiled. "
        "The digits are those of `examples/train_digits.py`, with Adam.",
    )


def _seconds(script: str, cache: str, fonts: str) -> float:
    """What the script prints, or else how long its process took."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    # Matplotlib, which the digits import, would list the machine's fonts anew in each new cache.
    own = {"XDG_CACHE_HOME": cache, "MPLCONFIGDIR": fonts, "PYTHONPATH": path}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, env={**os.environ, **own}, stdout=subprocess.PIPE, text=True
    )
    took = time.perf_counter() - began
    return float(done.stdout) if done.stdout else took
