"""For tests that run benchmarks, which collect garbage before they time: not what other tests have left."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def little_to_collect(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All that there is stays out of each collection until the test is over."""
    unfreeze = gc.unfreeze
    monkeypatch.setattr(gc, "unfreeze", lambda: None)
    gc.freeze()
    yield
    unfreeze()
