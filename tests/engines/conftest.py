"""What the tests of engines share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from anyoptim._engines.blocked import _plan as blocked
from anyoptim._engines.blocked import _tiles
from anyoptim._engines.compiled import _plan as compiled
from tests.support.internals import threads as _threads


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four threads, that share out arrays of a few thousand elements, too."""
    monkeypatch.setattr(_threads, "threads", lambda: 4)
    monkeypatch.setattr(_threads, "_POOLS", pools := [])  # type: ignore[var-annotated]
    monkeypatch.setattr(compiled, "PIECE", 64)
    monkeypatch.setattr(compiled, "CHUNK", 1024)
    monkeypatch.setattr(blocked, "THREADED", 2)
    monkeypatch.setattr(blocked, "BLOCK", 1024)
    monkeypatch.setattr(_tiles, "TILE", 1024)
    yield
    for pool in pools:
        for _ in range(pool.threads):
            pool.calls.put(sys.exit)
