"""Arrays that hold intermediate results, kept from step to step: for each thread its own."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from anyoptim._arrays import host_memory
from anyoptim._engines._leaf import NDArray

__all__ = ["MOST", "scratch"]

MOST = 1 << 16
"""The most elements of such an array."""

SHAPES = 4096
"""How many shapes of scratch to remember."""

LINE = 64
"""Bytes in a line of the cache."""


class _Scratch(threading.local):
    """Arrays of one block, for each thread its own, kept from step to step, and views of them by shape."""

    def __init__(self) -> None:
        self.arrays: dict[Any, list[NDArray]] = {}
        self.views: dict[Any, list[NDArray]] = {}


_SCRATCH = _Scratch()


def scratch(
    dtype: np.dtype[Any], temporaries: int, masks: int, shape: tuple[int, ...], use: str = "rule"
) -> list[NDArray]:
    """Arrays of this shape, of this dtype and of booleans; for each use others."""
    key = dtype, temporaries, masks, shape, use
    found = _SCRATCH.views.get(key)
    if found is None:
        found = []
        for kind, count in ((dtype, temporaries), (np.dtype(bool), masks)):
            kept = _SCRATCH.arrays.setdefault((kind, use), [])
            kept += [_aligned(MOST, kind) for _ in range(count - len(kept))]
            found += [a[: math.prod(shape)].reshape(shape) for a in kept[:count]]
        if len(_SCRATCH.views) >= SHAPES:
            _SCRATCH.views.clear()
        _SCRATCH.views[key] = found
    return found


def _aligned(n: int, dtype: np.dtype[Any]) -> NDArray:
    """An array that begins with a line of the cache, which is worth a twentieth of the time."""
    whole = np.empty(n * dtype.itemsize + LINE, np.uint8)
    begin = -host_memory(whole).address % LINE
    return whole[begin : begin + n * dtype.itemsize].view(dtype)
