"""Dropout as a compiled loop: one read and one write for each element, its choice drawn in between."""

from __future__ import annotations

import functools
import itertools
import math
import operator
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from anyoptim._arrays import host_memory
from anyoptim._engines._base import NDArray
from anyoptim._machine import _array_headers, _machine_code, _threads
from anyoptim._machine._generated import Text
from anyoptim._machine._machine_code import Bound, Native, address_of, block_of
from anyoptim.random._compiled_source import BLOCK, FLAT, PARAMETERS, ROWS, flat, strided
from anyoptim.random._mask_spec import MaskSpec
from anyoptim.random._rounds import CHOICES

__all__ = ["dropout", "fast_dropout", "kind", "precompile", "refusal", "source"]

PIECE = 1 << 19
"""The fewest elements that a thread is woken for."""

PIECES = 4
"""The pieces that a thread's share is cut into, so that a slow thread leaves some to the others."""

WIDE = 64
"""The columns at a time where these are farther apart than rows, so that lines of the cache are used up."""


def refusal(x: NDArray) -> str | None:
    """Why the loops can't take an array that NumPy can read and write, or None."""
    if not x.flags.aligned or not (x.flags.c_contiguous or all(step % x.itemsize == 0 for step in x.strides)):
        return "its elements don't lie at multiples of their size"
    return None


class _Table:
    """The array of parameters of a loop."""

    def __init__(self) -> None:
        self.array = np.zeros(len(PARAMETERS), np.uint64)
        self.block = block_of(0, 0, self.array)
        self.address = address_of(self.block)
        self.put_last = functools.partial(struct.Struct("Q").pack_into, memoryview(self.block.data).cast("B"), 8)
        # In the order of PARAMETERS.
        self.put = functools.partial(struct.Struct("8Q2d2Q").pack_into, memoryview(self.array.data).cast("B"), 0)


_free: deque[_Table] = deque()


def _table() -> _Table:
    """A table that nobody else has, no other thread and no handler of a signal, until it is given back."""
    try:
        return _free.pop()
    except IndexError:
        return _Table()


SMALL = 1 << 16
"""The most elements that `fast_dropout` takes: with more it makes no difference."""

_PLAIN = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
_LOADED: dict[int, Callable[..., object]] = {}
"""The loops for arrays in C order that are loaded, by the id of the dtype, of which NumPy has one of each."""
_LOADED_IN_PLACE: dict[int, Callable[..., object]] = {}


def fast_dropout(x: Any, threshold: int, scale: float, key: int, call: int, in_place: bool) -> NDArray | None:
    """Dropout from choice 0 on, of a plain array whose loop is loaded, as a new one or in place; None for all else."""
    if type(x) is not np.ndarray:
        return None
    drop = (_LOADED_IN_PLACE if in_place else _LOADED).get(id(x.dtype))
    flags, n = x.flags, x.size
    if drop is None or not flags.c_contiguous or not flags.aligned or not 0 < n <= SMALL:
        return None
    if in_place and not flags.writeable:
        return None
    y, table = x if in_place else np.empty_like(x), _table()
    last, dropped = (threshold - 1, 0.0) if threshold else (0, scale)
    try:
        table.put(id(x), id(y), 1, n, 0, key, call, last, scale, dropped, 0, 0)
    except struct.error:  # a key or a call that is no 64-bit integer
        return None
    table.put_last(-(-n // CHOICES))
    drop(table.address)
    _free.append(table)
    return y


def dropout(dtype: str, x: NDArray, y: NDArray, spec: MaskSpec) -> None:
    """Write x times its factors to y, which may be x. Arrays of bfloat16 are given as their bits."""
    place = "x" if y is x else "y"
    objects = _array_headers.reliable() and type(x) is type(y) is np.ndarray
    where = (id(x), id(y), 1) if objects else (host_memory(x).address, host_memory(y).address, 0)
    numbers = spec.offset, spec.key, spec.call, spec.last, spec.scale, spec.dropped
    n, table = x.size, _table()
    if kind(dtype, x, y) == "flat":
        drop = _load("flat", dtype, place)
        if objects and x.dtype is y.dtype is _PLAIN.get(dtype):
            (_LOADED_IN_PLACE if y is x else _LOADED)[id(x.dtype)] = drop.run
        table.put(*where, n, *numbers, 0, 0)
        _run(functools.partial(drop.bind, table.array), -(-(spec.offset % CHOICES + n) // CHOICES), n)
        _free.append(table)
        return
    axes = _axes(x, y)
    (rows, *steps), (columns, *_) = axes[-2:]
    wide = min(columns, WIDE if abs(steps[0]) < abs(axes[-1][1]) else BLOCK)
    tall = min(rows, ROWS, max(1, BLOCK // wide))
    blocks = math.prod(length for length, *_ in axes[:-2]) * -(-rows // tall) * -(-columns // wide)
    table.put(*where, n, *numbers, tall, wide)
    _run(functools.partial(_load("strided", dtype, place).bind, table.array, np.array(axes, np.int64)), blocks, n)
    _free.append(table)


def precompile(dtype: str, x: NDArray) -> None:
    """Load what forward and backward of an array like this one need, to a new array and in place."""
    for place in ("y", "x"):
        _load(kind(dtype, x, x), dtype, place)


def kind(dtype: str, x: NDArray, y: NDArray) -> str:
    """Which loop takes these arrays: `flat` or `strided`."""
    return "flat" if x.flags.c_contiguous and y.flags.c_contiguous and dtype in FLAT else "strided"


def _run(bind: Callable[..., Bound], total: int, n: int) -> None:
    """Call what `bind` gives for parts 0 to `total`, of n elements in all, by several threads if these are enough."""
    number = n // PIECE
    if number < 2 or (threads := _threads.threads()) < 2:
        bind(first=0, last=total).run()
        return
    number = min(number, threads * PIECES, total)
    cuts = [total * i // number for i in range(number + 1)]
    pieces = [bind(first=a, last=b) for a, b in itertools.pairwise(cuts)]
    _threads.spread(operator.call, [(piece.run,) for piece in pieces])


def _axes(x: NDArray, y: NDArray) -> list[tuple[int, ...]]:
    """The axes, at least two, by length and steps of x, of y and of the choices, joined where all go on evenly."""
    choice = 1
    axes: list[tuple[int, ...]] = []
    for length, *steps in reversed(list(zip(x.shape, x.strides, y.strides, strict=True))):
        if length == 1:
            continue
        axis = length, *(step // x.itemsize for step in steps), choice
        choice *= length
        inner = axes[0] if axes else None
        if inner is not None and axis[1:] == tuple(inner[0] * step for step in inner[1:]):
            axes[0] = length * inner[0], *inner[1:]
        else:
            axes.insert(0, axis)
    return [(1, 0, 0, 0)] * (2 - len(axes)) + axes


@functools.cache
def _load(kind: str, dtype: str, place: str) -> Native:
    """A loop as machine code."""
    return _machine_code.native(source(kind, dtype, place))


def source(kind: str, dtype: str, place: str) -> Text:
    """The text of a loop, `flat` or `strided`."""
    return {"flat": flat, "strided": strided}[kind](dtype, place)
