"""Two processes that run one module of the tests, each with its number, and one that they are compared with."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import anyoptim as ao

LIMIT, LATER = 200.0, 5.0
"""Seconds that both may take, and one of them after the other has failed, for which it may wait for ever."""


def run(module: str, folder: Path) -> None:
    """Run `python -m tests.support.<module> <number> <port> <folder>` twice at once.

    Raises AssertionError with what a failed one says.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"tests.support.{module}"]
    files = [(folder / f"{i}.txt").open("w+") for i in range(2)]
    both = [
        subprocess.Popen(
            [*command, str(i), str(port), str(folder)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=Path(__file__).parents[2],
        )
        for i, file in enumerate(files)
    ]
    end = time.monotonic() + LIMIT
    try:
        while None in (codes := [one.poll() for one in both]) and time.monotonic() < end:
            if any(codes):
                end = min(end, time.monotonic() + LATER)
            time.sleep(0.05)
    finally:
        for one in both:
            one.kill()
            one.wait()
    said = ""
    for file in files:
        file.seek(0)
        said += f"\n--- {file.name}\n{file.read()[-6000:]}"
        file.close()
    assert codes == [0, 0], f"{codes}{said}"


def alone(
    optimizer: ao.Optimizer, start: Mapping[str, Any], grads: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], ao.Optimizer]:
    """The parameters and the optimizer after these steps on whole NumPy arrays."""
    params = {k: a.copy() for k, a in start.items()}
    for g in grads:
        optimizer.update(params, g)
    assert optimizer.state is not None
    return params, optimizer


def reports_equal(one: ao.Optimizer, other: ao.Optimizer) -> None:
    """Assert that both report the same metrics of the last gradients, and skipped for the same parameters."""
    for k, metric in other.last_metrics.get("gradient", {}).items():
        np.testing.assert_allclose(one.last_metrics["gradient"][k], metric, rtol=1e-6)
    first, second = ([s.offender for s in o.stages if isinstance(s, ao.SkipNonFinite)] for o in (one, other))
    assert first == second
