"""Philox by NumPy calls over blocks that stay in the cache: words, or which choices are kept."""

from __future__ import annotations

import contextlib
import functools
import linecache
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from anyoptim._arrays._quiet import quiet
from anyoptim._engines import _threads
from anyoptim._engines._base import NDArray
from anyoptim.random._blocked_source import CALLED, EXCHANGE, chosen, drawn
from anyoptim.random._mask_spec import MaskSpec
from anyoptim.random._rounds import CHOICES, GROUP, MASK, MULTIPLIERS, keys

__all__ = ["COUNTERS", "Buffers", "buffers", "kept", "words", "workers"]

COUNTERS = 11 << 10
"""Counters at a time: with half as many two threads take twice as long, and with more their buffers would be larger
than a MiB."""

THREADS = 2
"""The most that share the work, since each has buffers of half a MiB; and more would wait for each other's calls."""

THREADED = 8
"""From how many blocks on."""

_WORD = np.dtype(np.uint64)


class Buffers:
    """What a draw needs beside its result."""

    def __init__(self) -> None:
        self.words = np.empty((GROUP, COUNTERS), _WORD)
        self.kept = np.empty((COUNTERS, CHOICES), bool)


_free: deque[Buffers] = deque()


@contextlib.contextmanager
def buffers() -> Iterator[Buffers]:
    """Some that nobody else has: no other thread, and no handler of a signal that comes in between.

    Afterwards a few stay for the next draws.
    """
    try:
        own = _free.pop()
    except IndexError:
        own = Buffers()
    yield own
    if len(_free) < THREADS:
        _free.append(own)


def workers(blocks: int) -> int:
    """How many threads share them."""
    _first(COUNTERS)  # which they have in common: before they make it, each for itself
    return min(THREADS, _threads.threads()) if blocks >= THREADED else 1


def kept(own: Buffers, spec: MaskSpec, offset: int, n: int) -> NDArray:
    """Which of so many elements to keep, the first of which has this choice, in one of the buffers."""
    first, skip = divmod(offset, CHOICES)
    some = -(-(skip + n) // CHOICES)
    _into(own.kept[:some], own, _called(chosen), spec.key, spec.call, first, _number(spec.last << 32 | MASK))
    return own.kept.reshape(-1)[skip : skip + n]


def words(group: int, n: int, key: int, call: int, offset: int) -> NDArray:
    """So many of the words of each counter, as int64, or of its choices: n, from this one on."""
    first, skip = divmod(offset, group)
    found = np.empty((-(-(skip + n) // group), group), np.int64)
    blocks = [(found[at : at + COUNTERS].view(_WORD), first + at) for at in range(0, len(found), COUNTERS)]
    draw, number = _called(drawn, group), workers(len(blocks))

    def share(k: int) -> None:
        with quiet(), buffers() as own:
            for part, begin in blocks[k::number]:
                _into(part, own, draw, key, call, begin, None)

    _threads.spread(share, [(k,) for k in range(number)])
    return found.reshape(-1)[skip : skip + n]


def _into(
    found: NDArray, own: Buffers, draw: Callable[..., None], key: int, call: int, first: int, last: NDArray | None
) -> None:
    """A row for each counter from the first on: no more than there are buffers for."""
    begin = 0
    while begin < len(found):
        c1, c0 = divmod(first + begin, 1 << 32)
        end = min(len(found), begin + (1 << 32) - c0)  # where that word is the same
        common = c1, call & MASK, call >> 32
        words = own.words[:, : end - begin]
        draw(_first(COUNTERS)[: end - begin], _number(c0), *common, *_keys(key), last, found[begin:end].T, *words)
        begin = end


@functools.cache
def _first(n: int) -> NDArray:
    return np.arange(n, dtype=_WORD)


def _number(value: int) -> NDArray:
    """As an array of no dimension, which NumPy takes in half the time of a number."""
    return np.array(value, _WORD)


def _above(word: int) -> NDArray:
    return _number(word << 32)


@functools.cache
def _called(write: Callable[..., str], *arguments: Any) -> Callable[..., None]:
    """The function that has this text."""
    text = write(*arguments)
    namespace = {name: getattr(np, name) for name in CALLED}
    namespace |= {"half": _number(32), "turn": _number(EXCHANGE), "above": _above}
    namespace |= {f"m{k}": _number(m) for k, m in enumerate(MULTIPLIERS)}
    file = f"<anyoptim blocked Philox, {write.__name__}>"
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
