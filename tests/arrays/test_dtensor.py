"""Torch's DTensors: arrays of which each of two processes holds a part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.libraries import Library


@pytest.mark.product  # two processes, each of which starts JAX or torch and compiles
def test_two_processes(tmp_path: Path, need: Callable[[str], Library]) -> None:
    """Two processes run every kind of method on even and uneven parts, errors, checkpoints and FSDP2's modules."""
    need("torch")
    from torch import distributed

    if not (distributed.is_available() and distributed.is_gloo_available()):
        pytest.skip("this torch has no gloo for processes to talk by")
    processes.run("torch_processes", tmp_path)
