"""anyoptim without Numba beside the five lines, in processes that have done nothing else.

What a process allocated and freed before decides how the C library serves the temporaries of the five lines: from
memory that it keeps, or page by page from the system, at several times the price. Beside torch and JAX it is the
first; a script that has nothing but NumPy gets the second where temporaries are the largest that it ever had.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping

import numpy as np

from benchmarks.machine import ROOT
from benchmarks.problem import PARAMETERS, Shapes
from benchmarks.report import Sheet

__all__ = ["SIZES", "alone"]

SIZES: Mapping[str, Shapes] = {
    size: PARAMETERS[size] for size in ("784-50-10 network", "one array of 1M", "one array of 16M")
}
PROCESSES = 3

SCRIPT = """
import json, sys, time
import numpy as np
import anyoptim as ao

shapes, rounds = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
ours = {k: rng.standard_normal(shape, np.float32) for k, shape in shapes.items()}
p, m, v = ({k: a.copy() * scale for k, a in ours.items()} for scale in (1, 0, 0))
optimizer = ao.Adam(engine="blocked")

def five_lines(g, t):
    lr_t = 0.001 * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t)
    for k in p:
        m[k] += (1 - 0.9) * (g[k] - m[k])
        v[k] += (1 - 0.999) * (g[k] * g[k] - v[k])
        p[k] -= lr_t * m[k] / (np.sqrt(v[k]) + 1e-7)

times = ([], [])
for t in range(1, rounds + 1):
    g = {k: rng.standard_normal(shape, np.float32) for k, shape in shapes.items()}
    for who in rng.permutation(2):
        given = {k: a.copy() for k, a in g.items()}
        began = time.perf_counter()
        optimizer.update(ours, given) if who else five_lines(given, t)
        times[who].append(time.perf_counter() - began)
for k in p:
    np.testing.assert_allclose(ours[k], p[k], rtol=0, atol=1e-6 * rounds**0.5)
print(json.dumps([float(np.median(of[3:])) * 1e3 for of in times]))
"""


def alone(seconds: float, sizes: Mapping[str, Shapes] = SIZES, processes: int = PROCESSES) -> Sheet:
    """Medians over the processes of each one's median step of Adam."""
    rows: list[list[str | float]] = []
    for size, shapes in sizes.items():
        elements = sum(int(np.prod(shape)) for shape in shapes.values())
        rounds = int(np.clip(seconds * 3e7 / elements, 10, 200))
        times = np.median([_process(shapes, rounds) for _ in range(processes)], axis=0)
        rows.append([f"Adam, {size}", *map(float, times), float(times[0] / times[1])])
    return Sheet(
        ["ms a step, NumPy alone", "five lines", "anyoptim without Numba", "ratio"],
        rows,
        f"Medians over {processes} processes, each with these two alone, in turn.",
    )


def _process(shapes: Shapes, rounds: int) -> list[float]:
    given = json.dumps([{k: list(shape) for k, shape in shapes.items()}, rounds])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, given],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    times: list[float] = json.loads(done.stdout)
    return times
