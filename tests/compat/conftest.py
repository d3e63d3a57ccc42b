"""torch as the tests of its conventions compare with it."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def torch(torch_in_float64: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch in float64, its Muon too."""
    monkeypatch.setattr(torch_in_float64.Tensor, "bfloat16", torch_in_float64.Tensor.clone)
    return torch_in_float64
