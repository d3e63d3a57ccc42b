"""How many evaluations solvers need, and what an iteration takes beside the user's function, in time and memory."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import anyoptim as ao
from benchmarks import torch_peers
from benchmarks.harness import WrongResultError
from benchmarks.machine import CORES, ROOT
from benchmarks.names import ANYOPTIM, threads
from benchmarks.report import Sheet
from tests.reference.evaluations import LARGE, MOST, TYPICAL, Case, Solver, evaluations, scipy_solver
from tests.reference.minimization.problem import Function, Problem

__all__ = ["CONTESTANTS", "counts", "iterate", "iterations"]

MEMORY, ITERATIONS = 10, 20
SIZE = 16_000_000
VISITS = 2
REACHED = 1e-3
"""What is left of the value at the start after those iterations, at most. Without memory it is more than 1e-2."""

SCIPY = "SciPy L-BFGS-B"
TORCH, TORCH_WOLFE = "torch LBFGS", "torch LBFGS, strong_wolfe"


def counts(_: float, cases: Mapping[str, Case] = {**TYPICAL, **LARGE}) -> Sheet:
    """The evaluations that each solver needs until the function is so small."""
    solvers: Mapping[str, Solver] = {
        SCIPY: scipy_solver("L-BFGS-B"),
        "ao.LBFGS": _ours(ao.LBFGS(memory_size=MEMORY)),
        "SciPy CG": scipy_solver("CG"),
        "ao.NonlinearCG": _ours(ao.NonlinearCG()),
    }
    rows: list[list[str | float]] = []
    sums = dict.fromkeys(solvers, 0.0)
    for name, (problem, targets) in cases.items():
        found = {who: evaluations(problem, targets, solver) for who, solver in solvers.items()}
        rows += [
            [f"{name}, to {target:.3g}", *(n if math.isfinite(n) else "never" for n in numbers)]
            for target, *numbers in zip(targets, *found.values(), strict=True)
        ]
        sums = {who: total + sum(found[who]) for who, total in sums.items()}
    return Sheet(
        ["evaluations", *solvers],
        [*rows, ["in all", *sums.values()]],
        "Of value and gradient together, until the value is no more, float64, from the same start; L-BFGS with "
        f"{MEMORY} pairs in memory. Runs of hundreds of evaluations change by some per cent with the rounding.",
    )


def _ours(method: Any) -> Solver:
    def solve(function: Function, problem: Problem) -> Any:
        return ao.minimize(function, problem.start.copy(), method=method, stop=ao.Stop(evaluations=MOST))

    return solve


class _Quadratic:
    """Half the sum of s*(x-z)**2, s from 1 to 0.01, which is not charged to those who ask for it.

    It takes x of float32 or float64 and gives a gradient of that dtype, always in the same array, a piece at a time: it
    needs no memory that a solver might seem to need.
    """

    PIECE = 1 << 16

    def __init__(self, n: int, dtype: str) -> None:
        rng = np.random.default_rng(0)
        self.s = np.logspace(0, -2, n, dtype=np.float32)
        self.z = rng.normal(size=n).astype(np.float32)
        self.grad = np.zeros(n, dtype)
        self.values: list[float] = []
        self.beside: list[float] = []
        """The seconds between leaving the function and entering it again."""
        self._left = math.nan

    def __call__(self, x: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        self.beside.append(time.perf_counter() - self._left)
        value = 0.0
        for i in range(0, x.size, self.PIECE):
            piece = slice(i, i + self.PIECE)
            r = x[piece] - self.z[piece]
            g = np.multiply(self.s[piece], r, out=self.grad[piece])
            value += float((g * r).sum(dtype=np.float64)) / 2
        self.values.append(value)
        self._left = time.perf_counter()
        return value, self.grad


Run = Callable[[_Quadratic, NDArray[np.float32]], object]


def _anyoptim(function: _Quadratic, x: NDArray[np.float32]) -> None:
    # By name, for what is small, too: so all is compiled once it has run on something small.
    method = ao.LBFGS(memory_size=MEMORY, engine="compiled")
    ao.minimize(function, x, method=method, stop=ao.Stop(steps=ITERATIONS))


def _scipy(function: _Quadratic, x: NDArray[np.float32]) -> None:
    import scipy.optimize

    options = {"maxcor": MEMORY, "maxiter": ITERATIONS, "ftol": 0.0, "gtol": 0.0}
    scipy.optimize.minimize(function, x, jac=True, method="L-BFGS-B", options=options)


def _torch(function: _Quadratic, x: NDArray[np.float32], line_search: str | None = None) -> None:
    import torch

    p = torch.nn.Parameter(torch.from_numpy(x))
    p.grad = torch.from_numpy(function.grad)
    optimizer = torch.optim.LBFGS(
        [p],
        max_iter=ITERATIONS,
        max_eval=MOST,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        history_size=MEMORY,
        line_search_fn=line_search,
    )
    seen = p.detach().numpy()
    optimizer.step(lambda: function(seen)[0])


def _torch_wolfe(function: _Quadratic, x: NDArray[np.float32]) -> None:
    _torch(function, x, "strong_wolfe")


CONTESTANTS: Mapping[str, tuple[Run, str]] = {
    SCIPY: (_scipy, "float64"),
    TORCH: (_torch, "float32"),
    TORCH_WOLFE: (_torch_wolfe, "float32"),
    ANYOPTIM: (_anyoptim, "float32"),
}
"""What each runs, and in what dtype it asks the function."""


class Iteration(NamedTuple):
    """What an iteration of one process took."""

    milliseconds: float
    """The median, once the memory is full, beside the function: of an iteration that asks it once, as nearly all do."""
    parameters: float
    """The largest memory of the run, beside the parameters and one gradient, in copies of the float32 parameters."""
    left: float
    """What is left of the function's value at the start."""


def iterate(who: str, size: int) -> Iteration:
    """Run that solver in this process, of which nothing else has taken memory. Raises WrongResultError."""
    run, dtype = CONTESTANTS[who]
    run(_Quadratic(1000, dtype), np.zeros(1000, np.float32))  # imports and compilers
    function, x = _Quadratic(size, dtype), np.empty(size, np.float32)
    x.fill(0)  # zeros would be no memory until they are read
    function(x)
    start = function.values.pop()
    function.beside.clear()
    before = _resident("VmRSS")
    run(function, x)
    peak = (_resident("VmHWM") - before) / x.nbytes
    left = min(function.values) / start
    if len(function.values) > ITERATIONS + 10:
        raise WrongResultError(f"{who} took {len(function.values)} evaluations for {ITERATIONS} iterations")
    if not left <= REACHED:
        raise WrongResultError(f"{who} has {left:.3g} left of the value at the start; wanted at most {REACHED}")
    return Iteration(statistics.median(function.beside[-(ITERATIONS - MEMORY - 4) :]) * 1e3, peak, left)


def _resident(which: str) -> float:
    """Bytes of memory that this process has, or has had at most; NaN where the system does not say."""
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return math.nan
    return 1024.0 * next(int(line.split()[1]) for line in text.splitlines() if line.startswith(which))


def iterations(_: float, size: int = SIZE, visits: int = VISITS) -> Sheet:
    """The time of an iteration beside the function, each solver in processes of its own, in random order."""
    who = [name for name in CONTESTANTS if name in {SCIPY, ANYOPTIM} or torch_peers.installed()]
    order = np.random.default_rng(0)
    ways = {name: {CORES} if name == ANYOPTIM else {1, CORES} for name in who}
    found: dict[tuple[str, int], list[Iteration]] = {(name, n): [] for name in who for n in sorted(ways[name])}
    for _visit in range(visits):
        for i in order.permutation(len(found)):
            name, n = [*found][i]
            found[name, n].append(_elsewhere(name, n, size))
    best = {name: min(ways[name], key=lambda n: _median(found[name, n])) for name in who}
    ours = _median(found[ANYOPTIM, best[ANYOPTIM]])
    rows: list[list[str | float]] = []
    for name in who:
        runs = found[name, best[name]]
        times = [run.milliseconds for run in runs]
        times_as_long, memory = _median(runs) / ours, statistics.median(run.parameters for run in runs)
        left = f"{statistics.median(run.left for run in runs):.2g}"
        rows.append([name, threads(best[name]), _median(runs), min(times), max(times), times_as_long, memory, left])
    return Sheet(
        ["an iteration of L-BFGS", "in the better of", "ms", "least", "most", f"of {ANYOPTIM}", "memory", "left"],
        rows,
        f"Beside the function, which is asked once, on {size:,} float32 parameters, with {MEMORY} pairs in memory. "
        f"Medians over {visits} processes each, in turns, which have compiled before. Memory is the largest of the "
        "run, beside the parameters and one gradient, in copies of the parameters; left is what "
        f"{ITERATIONS} iterations have left of the value at the start. SciPy computes in float64.",
    )


def _median(runs: Sequence[Iteration]) -> float:
    return statistics.median(run.milliseconds for run in runs)


def _elsewhere(who: str, cores: int, size: int) -> Iteration:
    """`iterate` in a new process with so many threads."""
    script = f"from json import dumps; from benchmarks.solvers import iterate; print(dumps(iterate({who!r}, {size})))"
    given = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(cores))
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        cwd=ROOT,
        env={**os.environ, **given, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    return Iteration(*json.loads(done.stdout))
