"""Dropout by NumPy calls over blocks that stay in the cache: choices, factors and results, and no mask."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from anyoptim._arrays import COMPUTE
from anyoptim._arrays._quiet import quiet
from anyoptim._engines import _threads
from anyoptim._engines._base import NDArray
from anyoptim.random import _blocked_words as _philox_blocked
from anyoptim.random._blocked_words import Buffers
from anyoptim.random._mask_spec import MaskSpec
from anyoptim.random._rounds import CHOICES, GROUP, MASK

__all__ = ["masked"]


def masked(dtype: str, x: NDArray, y: NDArray, spec: MaskSpec) -> None:
    """Write to y, which may be x; bfloat16 is given as its bits."""
    most = _most(dtype)
    workers = _philox_blocked.workers(x.size // most)
    _threads.spread(functools.partial(_share, dtype, x, y, spec, most), [(k, workers) for k in range(workers)])


def _share(dtype: str, x: NDArray, y: NDArray, spec: MaskSpec, most: int, k: int, workers: int) -> None:
    with quiet(), _philox_blocked.buffers() as own:
        for (a, b), offset in itertools.islice(_blocks([x, y], spec.offset, most), k, None, workers):
            _block(dtype, a, b, own, spec, offset)


def _most(dtype: str) -> int:
    """Elements at a time, for whose words and factors the buffers have room."""
    each = sum(kind.itemsize for kind in _kinds(dtype))
    # The last counter is for a run that doesn't begin with the first choice of one.
    counters = _philox_blocked.COUNTERS
    return min(CHOICES * (counters - 1), GROUP * counters * 8 // each)


def _blocks(arrays: list[NDArray], offset: int, most: int) -> Iterator[tuple[list[NDArray], int]]:
    """Runs of elements in logical order, and the number of the first one's choice."""
    if all(a.flags.c_contiguous for a in arrays):
        arrays = [a.reshape(-1) for a in arrays]
    first = arrays[0]
    if first.size <= most:
        yield arrays, offset
        return
    each = first.size // len(first)
    rows = most // each
    for i in range(0, len(first), max(rows, 1)):
        if rows:
            yield [a[i : i + rows] for a in arrays], offset + i * each
        else:
            yield from _blocks([a[i] for a in arrays], offset + i * each, most)


def _block(dtype: str, x: NDArray, y: NDArray, own: Buffers, spec: MaskSpec, offset: int) -> None:
    factor, *wide = _rooms(dtype, x.shape, own)
    if 0 < spec.threshold <= MASK:
        np.copyto(factor, _philox_blocked.kept(own, spec, offset, x.size).reshape(x.shape))
        if spec.scale != 1:
            np.multiply(factor, factor.dtype.type(spec.scale), out=factor)
    else:
        factor.fill(0 if spec.threshold else spec.scale)
    if not wide:
        np.multiply(x, factor, out=y)
        return
    (a,) = wide
    if dtype == "float16":
        np.copyto(a, x)
        np.copyto(y, np.multiply(a, factor, out=a), casting="same_kind")
    else:
        np.left_shift(x, 16, out=a.view(np.uint32), dtype=np.uint32)
        _rounded(np.multiply(a, factor, out=a), factor.view(np.uint32), y)


def _kinds(dtype: str) -> list[np.dtype[Any]]:
    """What there must be room for, of each element: a factor, and a half as a float32."""
    wide = np.dtype(COMPUTE[dtype])
    return [wide] if COMPUTE[dtype] == dtype else [wide, wide]


def _rooms(dtype: str, shape: tuple[int, ...], own: Buffers) -> list[NDArray]:
    """Arrays for these, in the buffers where the words were."""
    n, begin, found = math.prod(shape), 0, []
    for kind in _kinds(dtype):
        end = begin + n * kind.itemsize
        found.append(own.words.reshape(-1).view(np.uint8)[begin:end].view(kind).reshape(shape))
        begin = end
    return found


def _rounded(wide: NDArray, work: NDArray, y: NDArray) -> None:
    """The bits of float32 numbers, rounded to the nearest bfloat16, ties to even.

    No NaN needs care: it has the payload of a bfloat16, which no rounding carries out of.
    """
    bits = wide.view(np.uint32)
    np.right_shift(bits, 16, out=work)
    np.bitwise_and(work, 1, out=work)
    np.add(work, 0x7FFF, out=work)
    np.add(work, bits, out=work)
    np.right_shift(work, 16, out=work)
    np.copyto(y, work, casting="same_kind")
