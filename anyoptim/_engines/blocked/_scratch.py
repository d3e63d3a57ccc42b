"""Arrays that hold intermediate results, kept from step to step: for each user its own."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from anyoptim._arrays import host_memory
from anyoptim._engines._base import NDArray

__all__ = ["MOST", "Scratch", "give", "retake", "scratch"]

MOST = 1 << 16
"""The most elements of such an array."""

SHAPES = 4096
"""How many shapes of scratch to remember."""

LINE = 64
"""Bytes in a line of the cache."""


class Scratch:
    """Arrays of one block, and views of them by shape. It has one user at a time, who gives it back by `with`."""

    def __init__(self) -> None:
        self._arrays: dict[Any, list[NDArray]] = {}
        self._views: dict[Any, list[NDArray]] = {}

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        give(self)

    def arrays(
        self, dtype: np.dtype[Any], temporaries: int, masks: int, shape: tuple[int, ...], use: str = "rule"
    ) -> list[NDArray]:
        """Arrays of this shape, of this dtype and of booleans; for each use others."""
        key = dtype, temporaries, masks, shape, use
        found = self._views.get(key)
        if found is None:
            found = []
            for kind, count in ((dtype, temporaries), (np.dtype(bool), masks)):
                kept = self._arrays.setdefault((kind, use), [])
                kept += [_aligned(MOST, kind) for _ in range(count - len(kept))]
                found += [a[: math.prod(shape)].reshape(shape) for a in kept[:count]]
            if len(self._views) >= SHAPES:
                self._views.clear()
            self._views[key] = found
        return found


_free: deque[Scratch] = deque()

retake: Callable[[Scratch], None] = _free.remove
"""Take this one. Raises ValueError if somebody has it."""

give: Callable[[Scratch], None] = _free.append
"""Let others have it."""


def scratch() -> Scratch:
    """Some that nobody else has: no other thread, and no signal handler or finalizer that comes in between."""
    try:
        return _free.pop()
    except IndexError:
        return Scratch()


def _aligned(n: int, dtype: np.dtype[Any]) -> NDArray:
    """An array that begins with a line of the cache, which is worth a twentieth of the time."""
    whole = np.empty(n * dtype.itemsize + LINE, np.uint8)
    begin = -host_memory(whole).address % LINE
    return whole[begin : begin + n * dtype.itemsize].view(dtype)
