"""Keys that are made of keys, for streams of their own."""

from __future__ import annotations

import functools

import numpy as np

from anyoptim._trace._scalars import integer
from anyoptim.random._philox import bits

__all__ = ["spawn"]

_CALL = 2**64 - 1


def spawn(key: int, index: int) -> int:
    """Key `index` of those that come from this one: a stream of its own for a layer, a worker, an epoch.

    ::

        words 4*index and 4*index + 1 of call 2**64 - 1 under `key`        the low half first

    So a key of a key of a key is as good as the first: `spawn(spawn(seed, worker), layer)`. The keys are hashes of
    64 bits: that any two among n are equal has a chance of n**2 / 2**65, below one in a million for six million
    keys. Who spawns from a key leaves its call 2**64 - 1 alone, as counting from 0 does.

    Args:
        key: the parent, 0 <= key < 2**64.
        index: which child, 0 <= index < 2**62.

    Raises TypeError for what is no integer, ValueError for one that is out of its range.

    >>> one, other = ao.random.spawn(0, 0), ao.random.spawn(0, 1)
    >>> one != other, one == ao.random.spawn(0, 0)
    (True, True)
    """
    index = integer("index", index)
    if index >= 1 << 62:
        raise ValueError(f"index is {index}; wanted at least 0 and below 2**62")
    return _spawn(integer("key", key), index)


@functools.lru_cache(maxsize=1024)
def _spawn(key: int, index: int) -> int:
    low, high = bits((2,), key, _CALL, 4 * index, like=np.empty(0)).tolist()
    return int(low | high << 32)
