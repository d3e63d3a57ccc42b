"""An endless stream of words, for batteries that read one: `python -m tests.support.stream keys | dieharder -g 200 -a`.

"elements" are those of one draw, "choices" the halves that choices are made with, "calls" and "keys" the first four
words of each call, and of each key.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from anyoptim.random import bits, philox4x32
from anyoptim.random._philox import choices
from anyoptim.random._rounds import MASK, keys, rounds

BLOCK = 1 << 18
NEAR, NONE = np.empty(0), np.zeros(BLOCK, np.int64)


def _elements(at: int) -> Any:
    return bits((4 * BLOCK,), 12345, 0, 4 * at, like=NEAR)


def _choices(at: int) -> Any:
    found = choices((4 * BLOCK,), 12345, 0, 4 * at, None, NEAR) >> 16
    return found[::2] << 16 | found[1::2]


def _calls(at: int) -> Any:
    return _four(philox4x32((NONE, NONE, np.arange(at, at + BLOCK), NONE), (12345, 0)))


def _keys(at: int) -> Any:
    """The first four words of each of an array of keys, which NumPy's unsigned integers can be."""
    own: Any = np.arange(at, at + BLOCK, dtype=np.uint64), np.uint64(0)
    return _four(rounds([NONE.view(np.uint64)] * 4, keys(own), _product))


def _product(x: Any, m: int) -> tuple[Any, Any]:
    p = x * np.uint64(m)
    return p >> np.uint64(32), p & np.uint64(MASK)


def _four(words: Any) -> Any:
    return np.stack(words, axis=-1).reshape(-1)


STREAMS: dict[str, Callable[[int], Any]] = {
    "elements": _elements,
    "choices": _choices,
    "calls": _calls,
    "keys": _keys,
}

if __name__ == "__main__":
    try:
        for block in map(STREAMS[sys.argv[1]], itertools.count(0, BLOCK)):
            sys.stdout.buffer.write(block.astype("<u4").tobytes())
    except BrokenPipeError:  # the battery has enough
        sys.stderr.close()
