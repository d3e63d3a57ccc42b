"""Programs under mpiexec."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.libraries import REQUIRED

LIMIT = 120.0
"""Seconds that a program may take: ranks that wait for one another would take for ever."""


def needed() -> Path:
    """The program that starts ranks, that of the wheel of MPICH. Skips, or fails, the test where there is no MPI."""
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if importlib.util.find_spec("mpi4py") is None or not mpiexec.exists():
        why = "mpi4py and mpich are not installed"
        if "mpi" in REQUIRED:
            pytest.fail(f"ANYOPTIM_REQUIRE lists mpi: {why}")
        pytest.skip(why)
    return mpiexec


def run(ranks: int, *command: str) -> str:
    """What `mpiexec -n ranks python command` prints. Skips the test where there is no MPI."""
    mpiexec = needed()
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [str(mpiexec), "-n", str(ranks), sys.executable, "-W", "error", *command],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
