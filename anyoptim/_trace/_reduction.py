"""The one reduction: the 2-norm of many arrays, its additions in an order that no engine and no library changes.

The elements of an array, squared in float64, in logical C order, are cut into blocks of 1024, the last one padded
with zeros; each block is halved until one number is left, its second half added to its first. The numbers of all
arrays, one after the other and padded with zeros to a power of two, are halved in the same way. A complex
array is one of reals: real part, imaginary part, real part and so on.

Every addition is one of elements, which all libraries round alike; their own `sum` functions differ. An array whose
elements lie on several devices can't be cut into blocks: there the library's `sum` adds it up, as one block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["BLOCK", "block_sums", "norm", "power_of_two", "sums", "total", "tree_sum"]

BLOCK = 1024


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least `n`, and 1."""
    return 1 << max(n - 1, 0).bit_length()


def tree_sum(v: Any) -> Any:
    """The sums over the last axis, whose length is a power of two."""
    while v.shape[-1] > 1:
        half = v.shape[-1] // 2
        v = v[..., :half] + v[..., half:]
    return v[..., 0]


def block_sums(xp: Any, squares: Any) -> Any:
    """The sum of each block of a vector. A short vector is padded to less than a block: zeros change no sum."""
    n = squares.shape[0]
    width = min(BLOCK, power_of_two(n))
    return tree_sum(xp.reshape(_padded(xp, squares, -n % width), (-1, width)))


def sums(xp: Any, squares: Sequence[Any], sharded: bool = False) -> Any:
    """The block sums of an array's squares: one array of them or, for a complex array, those of both its parts.

    `sharded` says whether the elements lie on several devices.
    """
    if sharded:
        return xp.reshape(sum(map(xp.sum, squares)), (1,))
    flat = [xp.reshape(a, (-1,)) for a in squares]
    # The two parts of a complex element stand one after the other.
    return block_sums(xp, flat[0] if len(flat) == 1 else xp.reshape(xp.stack(flat, axis=-1), (-1,)))


def total(xp: Any, blocks: Any) -> Any:
    """The sum of a vector of block sums."""
    n = blocks.shape[0]
    return tree_sum(_padded(xp, blocks, power_of_two(n) - n)) if n else 0.0


def norm(xp: Any, sums: Sequence[Any]) -> Any:
    """The 2-norm from the block sums of all arrays: a float of NumPy vectors, a 0-d array of others."""
    squares = total(xp, xp.concat(list(sums)) if sums else np.zeros(0))
    return math.sqrt(squares) if isinstance(squares, float | np.floating | np.ndarray) else xp.sqrt(squares)


def _padded(xp: Any, v: Any, n: int) -> Any:
    """The vector with `n` zeros after it."""
    return xp.concat([v, xp.zeros_like(v[:n])]) if n else v  # n is less than the length of v
