"""What norms of JAX arrays on eight devices cost: collectives, and arrays in between."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.libraries import Library

pytestmark = pytest.mark.product  # a process with eight devices; values on meshes are in test_meshes.py

ARRAYS = 3


@functools.cache
def _cases(*cuts: str) -> list[dict[str, Any]]:
    """What another process found out, for it takes as many devices."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-m", "tests.support.jax_collectives", *cuts]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == 0, done.stderr[-6000:]
    cases: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(cases) == 2 * 2 * (len(cuts) + ("both" in cuts))
    return cases


@pytest.fixture(params=[["both"], ["rows", "columns", "whole"]], ids="-".join)
def cases(request: pytest.FixtureRequest, need: Callable[[str], Library]) -> list[dict[str, Any]]:
    need("jax")
    pytest.importorskip("optax", reason="optax is not installed")
    return _cases(*request.param)


def test_collectives(cases: list[dict[str, Any]]) -> None:
    """Two small all-reduces for a question; twice as many as optax has where XLA alone knows how arrays are cut.

    Axes that are not explicit are known to XLA alone under `jax.jit`: it has an all-reduce for each axis of the mesh
    along which arrays are cut, and for each combination of these.
    """
    for case in cases:
        found = case["ours"]["collectives"]
        known = case["kind"] == "Explicit" or case["form"] == "update" or case["cut"] != "both"
        assert {name for name, _ in found} == {"all-reduce"}, case
        assert len(found) == (2 if known else 2 * len(case["optax"]["collectives"])), case
        assert sum(size for _, size in found) <= ARRAYS * 8 * 8, case


def test_temporaries(cases: list[dict[str, Any]]) -> None:
    """No copy of an array: what optax's clip stores, and some numbers for each array."""
    for case in cases:
        assert case["ours"]["temporaries"] <= case["optax"]["temporaries"] + 4096, case


def test_bits(cases: list[dict[str, Any]]) -> None:
    """With x64, NumPy's bits; without, its numbers."""
    for case in cases:
        assert case["error"] <= (0 if case["x64"] else 1e-6), case
