"""Dropout by NumPy calls over blocks that stay in the cache: words, factors and results, and no mask."""

from __future__ import annotations

import functools
import itertools
import linecache
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from anyoptim._arrays import COMPUTE
from anyoptim._engines import _pool
from anyoptim._engines._draw import Draw
from anyoptim._engines._leaf import NDArray
from anyoptim._philox import CHOICES, GROUP, MASK, MULTIPLIERS, keys
from anyoptim._quiet import quiet
from anyoptim._render.philox_ufuncs import CALLED, TURN, draw

__all__ = ["masked"]

COUNTERS = 11 << 10
"""Counters at a time: with half as many the calls cost half as much time again, and with more two threads' buffers
would be larger than a MiB."""

THREADS = 2
"""The most that share the work, since each has buffers of half a MiB; and more would wait for each other's calls."""

THREADED = 8
"""From how many blocks on."""

_WORD = np.dtype(np.uint64)


def masked(dtype: str, x: NDArray, y: NDArray, of: Draw) -> None:
    """Write to y, which may be x; bfloat16 is given as its bits."""
    most = _most(dtype)
    workers = min(THREADS, _pool.threads()) if x.size >= THREADED * most else 1
    _pool.spread(functools.partial(_share, dtype, x, y, of, most), [(k, workers) for k in range(workers)])


def _share(dtype: str, x: NDArray, y: NDArray, of: Draw, most: int, k: int, workers: int) -> None:
    with quiet():
        for (a, b), offset in itertools.islice(_blocks([x, y], of.offset, most), k, None, workers):
            _block(dtype, a, b, of, offset)


def _most(dtype: str) -> int:
    """Elements at a time, for whose words and factors the buffers have room."""
    each = sum(kind.itemsize for kind in _kinds(dtype))
    # The last counter is for a run that doesn't begin with the first choice of one.
    return min(CHOICES * (COUNTERS - 1), _BUFFERS.words.nbytes // each)


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


class _Buffers(threading.local):
    """For each thread its own, kept."""

    def __init__(self) -> None:
        self.words = np.empty((GROUP, COUNTERS), _WORD)
        self.kept = np.empty((COUNTERS, CHOICES), bool)


_BUFFERS = _Buffers()


@functools.cache
def _first(n: int) -> NDArray:
    return np.arange(n, dtype=_WORD)


def _number(value: int) -> NDArray:
    """As an array of no dimension, which NumPy takes in half the time of a number."""
    return np.array(value, _WORD)


def _above(word: int) -> NDArray:
    return _number(word << 32)


@functools.cache
def _draw() -> Callable[..., None]:
    text = draw()
    namespace = {name: getattr(np, name) for name in CALLED}
    namespace |= {"half": _number(32), "turn": _number(TURN), "above": _above}
    namespace |= {f"m{k}": _number(m) for k, m in enumerate(MULTIPLIERS)}
    file = "<anyoptim blocked Philox>"
    # So that tracebacks and debuggers show the lines.
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), namespace)  # noqa: S102 - text of our own
    call: Callable[..., None] = namespace["draw"]
    return call


@functools.lru_cache(maxsize=64)
def _keys(key: int) -> tuple[list[tuple[int, int]], list[tuple[NDArray, NDArray]]]:
    """Of each round, and as arrays in the upper halves."""
    own = keys((key & MASK, key >> 32))
    return own, [(_above(k0), _above(k1)) for k0, k1 in own]


def _kept(of: Draw, offset: int, n: int) -> NDArray:
    """Which of so many elements to keep, the first of which has this choice, in memory of this thread."""
    first, skip = divmod(offset, CHOICES)
    some = -(-(skip + n) // CHOICES)
    last, begin = _number(of.last << 32 | MASK), 0
    while begin < some:
        c1, c0 = divmod(first + begin, 1 << 32)
        end = min(some, begin + (1 << 32) - c0)  # where that word is the same
        words, kept = _BUFFERS.words[:, : end - begin], _BUFFERS.kept[begin:end].T
        common = c1, of.call & MASK, of.call >> 32
        _draw()(_first(COUNTERS)[: end - begin], _number(c0), *common, *_keys(of.key), last, kept, *words)
        begin = end
    return _BUFFERS.kept.reshape(-1)[skip : skip + n]


def _block(dtype: str, x: NDArray, y: NDArray, of: Draw, offset: int) -> None:
    factor, *wide = _rooms(dtype, x.shape)
    if 0 < of.threshold <= MASK:
        np.copyto(factor, _kept(of, offset, x.size).reshape(x.shape))
        if of.scale != 1:
            np.multiply(factor, factor.dtype.type(of.scale), out=factor)
    else:
        factor.fill(0 if of.threshold else of.scale)
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


def _rooms(dtype: str, shape: tuple[int, ...]) -> list[NDArray]:
    """Arrays for these, in the buffers where the words were."""
    n, begin, found = math.prod(shape), 0, []
    for kind in _kinds(dtype):
        end = begin + n * kind.itemsize
        found.append(_BUFFERS.words.reshape(-1).view(np.uint8)[begin:end].view(kind).reshape(shape))
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
