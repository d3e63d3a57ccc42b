"""Philox by NumPy calls over blocks that stay in the cache: its words, its choices, or which of these are kept."""

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
from anyoptim._trace._text import executed
from anyoptim.random._blocked_source import CALLED, EXCHANGE, chosen, drawn
from anyoptim.random._mask_spec import MaskSpec
from anyoptim.random._rounds import CHOICES, GROUP, MASK, MULTIPLIERS, keys

__all__ = ["COUNTERS", "Buffers", "buffers", "kept", "words", "workers"]

COUNTERS = 11 << 10
"""The counters in a block. With half as many two threads take twice as long, and with more their buffers would be
larger than a MiB."""

THREADS = 2
"""The most threads that share the work: each has buffers of half a MiB, and more would wait for each other's calls."""

THREADED = 8
"""The fewest blocks that threads share."""

_WORD = np.dtype(np.uint64)


class Buffers:
    """The arrays that a draw needs beside its result."""

    def __init__(self) -> None:
        self.words = np.empty((GROUP, COUNTERS), _WORD)
        self.kept = np.empty((COUNTERS, CHOICES), bool)


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


def kept(room: Buffers, spec: MaskSpec, offset: int, n: int) -> NDArray:
    """For n elements, from choice `offset` on, whether each is kept. The result is part of the buffers."""
    first, skip = divmod(offset, CHOICES)
    counters = -(-(skip + n) // CHOICES)
    _draw(room.kept[:counters], room, _function(chosen), spec.key, spec.call, first, _number(spec.last << 32 | MASK))
    return room.kept.reshape(-1)[skip : skip + n]


def words(group: int, n: int, key: int, call: int, offset: int) -> NDArray:
    """N words from `offset` on, as int64, of which each counter has a group: its four words, or its eight choices."""
    first, skip = divmod(offset, group)
    rows = np.empty((-(-(skip + n) // group), group), np.int64)
    blocks = [(rows[at : at + COUNTERS].view(_WORD), first + at) for at in range(0, len(rows), COUNTERS)]
    function, number = _function(drawn, group), workers(len(blocks))

    def share(k: int) -> None:
        with quiet(), buffers() as room:
            for block, begin in blocks[k::number]:
                _draw(block, room, function, key, call, begin, None)

    _threads.spread(share, [(k,) for k in range(number)])
    return rows.reshape(-1)[skip : skip + n]


def _draw(
    rows: NDArray, room: Buffers, function: Callable[..., None], key: int, call: int, first: int, last: NDArray | None
) -> None:
    """Fill a row for each counter from the first on, of which there are no more than the buffers have room for."""
    begin = 0
    while begin < len(rows):
        c1, c0 = divmod(first + begin, 1 << 32)
        end = min(len(rows), begin + (1 << 32) - c0)  # as far as the counters' second word is the same
        common = c1, call & MASK, call >> 32
        words = room.words[:, : end - begin]
        function(_first(COUNTERS)[: end - begin], _number(c0), *common, *_keys(key), last, rows[begin:end].T, *words)
        begin = end


@functools.cache
def _first(n: int) -> NDArray:
    return np.arange(n, dtype=_WORD)


def _number(value: int) -> NDArray:
    """A word as an array of no dimension, which NumPy takes in half the time of a number."""
    return np.array(value, _WORD)


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
