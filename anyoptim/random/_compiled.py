"""Dropout as a compiled loop: one read and one write for each element, its choice drawn in between."""

from __future__ import annotations

import functools
import itertools
import math
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from anyoptim._engines import _threads
from anyoptim._engines._base import NDArray
from anyoptim._engines.compiled import _array_headers, _kernel_cache
from anyoptim.random._compiled_source import BLOCK, FLAT, PARAMETERS, ROWS, Drops, flat, strided
from anyoptim.random._mask_spec import MaskSpec
from anyoptim.random._rounds import CHOICES

__all__ = ["masked", "quick", "refusal", "source"]

PIECE = 1 << 19
"""The fewest elements that are worth a thread's while."""

PIECES = 4
"""Into how many pieces a thread's share is cut, so that a slow thread leaves some to the others."""

WIDE = 64
"""Columns at a time where these are farther apart than rows: what is read of a line of the cache stays there."""


def refusal(x: NDArray) -> str | None:
    """Why the loops can't take an array that NumPy can read and write, or None."""
    if not x.flags.aligned or not (x.flags.c_contiguous or all(step % x.itemsize == 0 for step in x.strides)):
        return "its elements don't lie at multiples of their size"
    return None


class _Table:
    """The array of parameters."""

    def __init__(self) -> None:
        self.array = np.zeros(len(PARAMETERS), np.uint64)
        # In the order of PARAMETERS.
        self.put = functools.partial(struct.Struct("8Q2d2Q").pack_into, memoryview(self.array.data).cast("B"), 0)


_free: deque[_Table] = deque()


def _table() -> _Table:
    """One that nobody else has, no other thread and no handler of a signal, until it is back among the free ones."""
    try:
        return _free.pop()
    except IndexError:
        return _Table()


SMALL = 1 << 16
"""The most elements of what is quick: with more it makes no difference."""

_PLAIN = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
_QUICK: dict[int, Callable[..., None]] = {}
"""The loop for arrays in C order, where it is loaded, by the id of the dtype: NumPy has one of each of these."""


def quick(x: Any, threshold: int, scale: float, key: int, call: int) -> NDArray | None:
    """See `masking`."""
    if type(x) is not np.ndarray:
        return None
    drop = _QUICK.get(id(x.dtype))
    flags, n = x.flags, x.size
    if drop is None or not flags.c_contiguous or not flags.aligned or not 0 < n <= SMALL:
        return None
    y, own = np.empty_like(x), _table()
    last, dropped = (threshold - 1, 0.0) if threshold else (0, scale)
    try:
        own.put(id(x), id(y), 1, n, 0, key, call, last, scale, dropped, 0, 0)
    except struct.error:  # a key or a call that is no 64-bit integer
        return None
    drop(own.array, 0, -(-n // CHOICES))
    _free.append(own)
    return y


def masked(dtype: str, x: NDArray, y: NDArray, spec: MaskSpec) -> None:
    """Write to y, which may be x; bfloat16 is given as its bits."""
    place = "x" if y is x else "y"
    objects = _array_headers.reliable() and type(x) is type(y) is np.ndarray
    where = (id(x), id(y), 1) if objects else (_address(x), _address(y), 0)
    numbers = spec.offset, spec.key, spec.call, spec.last, spec.scale, spec.dropped
    n, own = x.size, _table()
    if x.flags.c_contiguous and y.flags.c_contiguous and dtype in FLAT:
        drop = _load("flat", dtype, place)
        if objects and place == "y" and x.dtype is y.dtype is _PLAIN.get(dtype):
            _QUICK[id(x.dtype)] = drop
        own.put(*where, n, *numbers, 0, 0)
        _run(drop, (own.array,), -(-(spec.offset % CHOICES + n) // CHOICES), n)
        _free.append(own)
        return
    axes = _axes(x, y)
    (rows, *steps), (columns, *_) = axes[-2:]
    wide = min(columns, WIDE if abs(steps[0]) < abs(axes[-1][1]) else BLOCK)
    tall = min(rows, ROWS, max(1, BLOCK // wide))
    blocks = math.prod(length for length, *_ in axes[:-2]) * -(-rows // tall) * -(-columns // wide)
    drop, table = _load("strided", dtype, place), np.array(axes, np.int64)
    own.put(*where, n, *numbers, tall, wide)
    _run(drop, (own.array, table), blocks, n)
    _free.append(own)


def _run(call: Callable[..., None], tables: tuple[NDArray, ...], total: int, n: int) -> None:
    """The call for all of so many parts, of n elements in all, by several threads if there are enough."""
    number = n // PIECE
    if number < 2 or (threads := _threads.threads()) < 2:
        call(*tables, 0, total)
        return
    number = min(number, threads * PIECES, total)
    cuts = [total * i // number for i in range(number + 1)]
    _threads.spread(functools.partial(call, *tables), list(itertools.pairwise(cuts)))


def _axes(x: NDArray, y: NDArray) -> list[tuple[int, ...]]:
    """At least two, each with its length and the steps of x, of y and of the choices, joined where they go on alike."""
    choice = 1
    found: list[tuple[int, ...]] = []
    for length, *steps in reversed(list(zip(x.shape, x.strides, y.strides, strict=True))):
        if length == 1:
            continue
        axis = length, *(step // x.itemsize for step in steps), choice
        choice *= length
        inner = found[0] if found else None
        if inner is not None and axis[1:] == tuple(inner[0] * step for step in inner[1:]):
            found[0] = length * inner[0], *inner[1:]
        else:
            found.insert(0, axis)
    return [(1, 0, 0, 0)] * (2 - len(found)) + found


def _address(a: NDArray) -> int:
    address: int = a.__array_interface__["data"][0]
    return address


@functools.cache
def _load(kind: str, dtype: str, place: str) -> Callable[..., None]:
    """The machine code."""
    text = source(kind, dtype, place)
    return _kernel_cache.compiled(text.name, text.text, text.signature)


def source(kind: str, dtype: str, place: str) -> Drops:
    """The text of a loop, `flat` or `strided`."""
    return {"flat": flat, "strided": strided}[kind](dtype, place)
