"""Arrays that hold intermediate results, kept from step to step: each user has some to itself."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from anyoptim._arrays import host_memory

__all__ = ["MOST", "Scratch", "give", "scratch", "taken"]

NDArray = np.ndarray[Any, Any]

MOST = 1 << 16
"""The most elements of a scratch array."""

SHAPES = 4096
"""The most shapes for which views of scratch are kept."""

LINE = 64
"""The bytes in a line of the cache."""


class Scratch:
    """Arrays of one block, and views of them by shape, for one user at a time. Leaving `with` gives them back."""

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
        """Arrays of a shape: so many of a dtype, then so many of booleans. Each use has arrays of its own."""
        key = dtype, temporaries, masks, shape, use
        views = self._views.get(key)
        if views is None:
            views = []
            for kind, count in ((dtype, temporaries), (np.dtype(bool), masks)):
                kept = self._arrays.setdefault((kind, use), [])
                kept += [_aligned(MOST, kind) for _ in range(count - len(kept))]
                views += [a[: math.prod(shape)].reshape(shape) for a in kept[:count]]
            if len(self._views) >= SHAPES:
                self._views.clear()
            self._views[key] = views
        return views


_free: deque[Scratch] = deque()

give: Callable[[Scratch], None] = _free.append
"""Give scratch back, for others to take."""


def taken(one: Scratch) -> bool:
    """Take this scratch, unless somebody has it. Returns whether it was taken."""
    try:
        _free.remove(one)
    except ValueError:
        return False
    return True


def scratch() -> Scratch:
    """Scratch that nobody else has: no other thread, and no signal handler or finalizer that comes in between."""
    try:
        return _free.pop()
    except IndexError:
        return Scratch()


def _aligned(n: int, dtype: np.dtype[Any]) -> NDArray:
    """An array that begins at a line of the cache, which saves a twentieth of the time."""
    whole = np.empty(n * dtype.itemsize + LINE, np.uint8)
    begin = -host_memory(whole).address % LINE
    return whole[begin : begin + n * dtype.itemsize].view(dtype)
