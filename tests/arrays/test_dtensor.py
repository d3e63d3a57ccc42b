"""Torch's DTensors: arrays of which each of two processes has a part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.libraries import Library


def test_two_processes(tmp_path: Path, need: Callable[[str], Library]) -> None:
    """Every kind of method on even and uneven parts, errors, checkpoints, FSDP2's modules."""
    need("torch")
    from torch import distributed

    if not (distributed.is_available() and distributed.is_gloo_available()):
        pytest.skip("this torch has no gloo for processes to talk by")
    processes.run("torch_processes", tmp_path)
