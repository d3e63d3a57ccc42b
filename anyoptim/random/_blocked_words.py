"""Philox by NumPy calls over blocks that stay in the cache: its words, its choices, or which of these are kept.

Which choices of a counter are kept stands in one byte, that of the first choice in the lowest bit.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from anyoptim._arrays._quiet import quiet
from anyoptim._engines._base import NDArray
from anyoptim._machine import _threads
from anyoptim._machine._generated import executed
from anyoptim.random._blocked_source import CALLED, EXCHANGE, chosen, chosen_of_calls, drawn
from anyoptim.random._mask_spec import MaskSpec
from anyoptim.random._rounds import CHOICES, GROUP, MASK, MULTIPLIERS, keys

__all__ = ["COUNTERS", "Buffers", "buffers", "kept", "kept_of_calls", "unpack", "words", "workers"]

COUNTERS = 10 << 10
"""The counters in a block, a multiple of 8. With half as many two threads take twice as long, and with more their
buffers would be larger than a MiB."""

BYTES = 4 << 10
"""The bytes of choices that are unpacked at a time."""

THREADS = 2
"""The most threads that share the work: each has buffers of half a MiB, and more would wait for each other's calls."""

THREADED = 16
"""The fewest blocks that threads share: with fewer, waiting for each other takes what they gain."""

_WORD = np.dtype(np.uint64)


class Buffers:
    """The arrays that a draw needs beside its result."""

    def __init__(self) -> None:
        self.words = np.empty((GROUP, COUNTERS), _WORD)
        self.found = np.empty((CHOICES, COUNTERS), bool)


_free: deque[Buffers] = deque()


@contextlib.contextmanager
def buffers() -> Iterator[Buffers]:
    """Buffers that nobody else has: no other thread, and no handler of a signal that comes in between.

    A few are kept for the next draws.
    """
    try:
        room = _free.pop()
    except IndexError:
        room = Buffers()
    yield room
    if len(_free) < THREADS:
        _free.append(room)


def workers(blocks: int) -> int:
    """The number of threads that share so many blocks."""
    _first(COUNTERS)  # an array that all of them read, before each of them makes one
    return min(THREADS, _threads.threads()) if blocks >= THREADED else 1


def kept(room: Buffers, spec: MaskSpec, first: int, counters: int) -> NDArray:
    """Which choices are kept of so many counters from the first on, for which the buffers have room: a byte of each."""
    found = room.found[:, : _eights(counters)]
    _draw(found, room, _function(chosen), spec.key, spec.call, first, _last(spec))
    return _packed(found)[:counters]


def kept_of_calls(spec: MaskSpec, counters: int, calls: int) -> NDArray:
    """The same of several calls, of each from the first counter on: a row for each from that of the mask on.

    Of several calls there may be no more counters than the buffers have room for, and the upper halves of their
    numbers are the same.
    """
    if calls > 1:
        n = counters * calls
        with quiet(), buffers() as room:
            found, words = room.found[:, : _eights(n)], room.words[:, : _eights(n)]
            np.copyto(words[0, :n].reshape(calls, counters), _first(COUNTERS)[:counters])
            np.copyto(words[2, :n].reshape(calls, counters), _first(COUNTERS)[:calls, None] + (spec.call & MASK))
            common = 0, None, spec.call >> 32, *_keys(spec.key)
            _function(chosen_of_calls)(*common, _last(spec), found, *words)
            return _packed(found)[:n].reshape(calls, counters)
    row, begins = np.empty(counters, np.uint8), range(0, counters, COUNTERS)
    number = workers(len(begins))

    def share(k: int) -> None:
        with quiet(), buffers() as room:
            for at in begins[k::number]:
                row[at : at + COUNTERS] = kept(room, spec, at, min(COUNTERS, counters - at))

    _threads.spread(share, [(k,) for k in range(number)])
    return row[None]


def unpack(kept: NDArray, skip: int, out: NDArray) -> None:
    """Write 1 for a choice that is kept, else 0, to each element of an array of one axis: from choice `skip` on."""
    for at in range(0, len(kept), BYTES):
        part, begin = np.unpackbits(kept[at : at + BYTES], bitorder="little"), CHOICES * at - skip
        if begin < 0:
            part, begin = part[-begin:], 0
        into = out[begin : begin + len(part)]
        np.copyto(into, part[: len(into)])
        del part  # before the next one is made


def words(group: int, n: int, key: int, call: int, offset: int) -> NDArray:
    """N words from `offset` on, as int64, of which each counter has a group: its four words, or its eight choices."""
    first, skip = divmod(offset, group)
    rows = np.empty((-(-(skip + n) // group), group), np.int64)
    blocks = [(rows[at : at + COUNTERS].view(_WORD), first + at) for at in range(0, len(rows), COUNTERS)]
    function, number = _function(drawn, group), workers(len(blocks))

    def share(k: int) -> None:
        with quiet(), buffers() as room:
            for block, begin in blocks[k::number]:
                _draw(block.T, room, function, key, call, begin, None)

    _threads.spread(share, [(k,) for k in range(number)])
    return rows.reshape(-1)[skip : skip + n]


def _draw(
    found: NDArray, room: Buffers, function: Callable[..., None], key: int, call: int, first: int, last: NDArray | None
) -> None:
    """Fill a column for each counter from the first on, of which there are no more than the buffers have room for."""
    begin, counters = 0, found.shape[1]
    while begin < counters:
        c1, c0 = divmod(first + begin, 1 << 32)
        end = min(counters, begin + (1 << 32) - c0)  # as far as the counters' second word is the same
        words = room.words[:, : end - begin]
        np.add(_first(COUNTERS)[: end - begin], _number(c0), words[0])
        function(c1, call & MASK, call >> 32, *_keys(key), last, found[:, begin:end], *words)
        begin = end


def _packed(found: NDArray) -> NDArray:
    """A byte of each column of truth values, of which there are a multiple of 8; what was found is overwritten."""
    by_eights = found.view(_WORD)
    for row, place in zip(by_eights, _PLACES, strict=True):  # all at once NumPy would do in a buffer of its own
        np.left_shift(row, place, row)
    packed: NDArray = np.bitwise_or.reduce(by_eights, axis=0).view(np.uint8)
    return packed


def _eights(n: int) -> int:
    return -(-n // 8) * 8


def _last(spec: MaskSpec) -> NDArray:
    """The last choice that drops, in the upper half of a word."""
    return _number(spec.last << 32 | MASK)


@functools.cache
def _first(n: int) -> NDArray:
    return np.arange(n, dtype=_WORD)


def _number(value: int) -> NDArray:
    """A word as an array of no dimension, which NumPy takes in half the time of a number."""
    return np.array(value, _WORD)


_PLACES = [_number(k) for k in range(CHOICES)]


def _above(word: int) -> NDArray:
    return _number(word << 32)


@functools.cache
def _function(write: Callable[..., str], *arguments: Any) -> Callable[..., None]:
    """The function whose text this writes."""
    text = write(*arguments)
    namespace = {name: getattr(np, name) for name in CALLED}
    namespace |= {"half": _number(32), "turn": _number(EXCHANGE), "above": _above}
    namespace |= {f"m{k}": _number(m) for k, m in enumerate(MULTIPLIERS)}
    call: Callable[..., None] = executed(text, f"<anyoptim blocked Philox, {write.__name__}>", namespace)["draw"]
    return call


@functools.lru_cache(maxsize=64)
def _keys(key: int) -> tuple[list[tuple[int, int]], list[tuple[NDArray, NDArray]]]:
    """The keys of the rounds, as numbers and as arrays that have them in the upper halves."""
    of_rounds = keys((key & MASK, key >> 32))
    return of_rounds, [(_above(k0), _above(k1)) for k0, k1 in of_rounds]
