"""Random words for any array library: Philox4x32-10, counted by element.

Word i of call c under a key is word i % 4 of Philox(counter = (i // 4, c), key), both halves of the
counter and the key of 64 bits, least significant word first. It depends on nothing else: not on the
library, the device, the memory order, or how the elements are divided.

Source: Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, 2011, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from anyoptim._arrays import COMPUTE, Array, Library, library
from anyoptim._philox import MASK as _MASK
from anyoptim._philox import keys, rounds
from anyoptim._quiet import quiet
from anyoptim._scalars import count, integer

__all__ = ["normal", "philox4x32", "words"]


def philox4x32(counter: Sequence[Array], key: tuple[int, int]) -> tuple[Array, ...]:
    """Ten rounds of Philox on counters of four words, element by element.

    Args:
        counter: four arrays of one shape and of the dtype that `words` gives in this library, of 32-bit words.
        key: two 32-bit words.

    Returns:
        Four arrays of random words, like those of the counter.
    """
    arrays = library(counter[0])
    multiply = _multiply_int64 if arrays.wide_integers else _multiply_uint32
    first = counter[0]
    # The keys as arrays: JAX refuses a Python integer of 32 bits beside uint32.
    own = [(arrays.scalar(k0, first.dtype, first), arrays.scalar(k1, first.dtype, first)) for k0, k1 in keys(key)]
    with quiet():  # the products of int64 wrap, as they should
        return rounds(counter, own, multiply)


def words(shape: Sequence[int], key: int, call: Any = 0, offset: int = 0, *, like: Array) -> Array:
    """Independent uniform 32-bit words: element i, in logical C order, is word `offset + i` of this call.

    Args:
        shape: of the result.
        key: the stream, 0 <= key < 2**64.
        call: the draw within the stream, 0 <= call < 2**64, or a 0-d integer array. `jax.jit` may trace it; there
            a negative number is not noticed, and an argument from 2**31 on must be a `jnp.uint32`.
        offset: where this shape begins within a larger draw, in elements, 0 <= offset < 2**64.
        like: an array whose library and device the result has.

    Returns:
        Integers in [0, 2**32): int64, and uint32 on JAX, which has no 64-bit integers by default.

    Raises:
        TypeError: a key, call or offset that is no integer (and no array of one integer).
        ValueError: one that is out of its range.
    """
    key, call, offset = integer("key", key), count("call", call), integer("offset", offset)
    arrays = library(like)
    xp = arrays.xp
    n = math.prod(shape)
    skip = offset % 4
    counter = _counter(arrays, offset // 4, max(1, (skip + n + 3) // 4), call, like)
    four = philox4x32(counter, (key & _MASK, key >> 32))
    return xp.reshape(xp.reshape(xp.stack(four, axis=-1), (-1,))[skip : skip + n], tuple(shape))


def _counter(arrays: Library, first: int, blocks: int, call: Any, like: Array) -> tuple[Array, ...]:
    """The counters (first, call), (first + 1, call), ... as four arrays of words."""
    xp = arrays.xp
    if arrays.wide_integers:
        index = xp.arange(blocks, dtype=xp.int64, device=arrays.placement(like)) + first
        low, high = index & _MASK, index >> 32
    else:
        if blocks >= 1 << 32:
            raise ValueError(f"{4 * blocks} elements at once; wanted fewer than 2**34 on {arrays.name}")
        begin = arrays.scalar(first & _MASK, xp.uint32, like)
        low = xp.arange(blocks, dtype=xp.uint32, device=arrays.placement(like)) + begin
        high = xp.astype(low < begin, xp.uint32) + arrays.scalar(first >> 32, xp.uint32, like)
    if isinstance(call, int):
        halves = [arrays.scalar(half, low.dtype, like) for half in (call & _MASK, call >> 32)]
    else:
        halves = [xp.astype(call, low.dtype), xp.zeros_like(call, dtype=low.dtype)]
        if arrays.dtype(call).endswith("64"):
            halves = [xp.astype(call & _MASK, low.dtype), xp.astype(call >> 32, low.dtype)]
    return low, high, *(xp.zeros_like(low) + half for half in halves)


def _multiply_int64(x: Array, m: int) -> tuple[Array, Array]:
    """The high and the low word of x*m. The product wraps around 2**64; its bits are the same."""
    product = x * m
    return (product >> 32) & _MASK, product & _MASK


def _multiply_uint32(x: Array, m: int) -> tuple[Array, Array]:
    """The high and the low word of x*m, by halves of 16 bits."""
    m1, m0 = m >> 16, m & 0xFFFF
    x1, x0 = x >> 16, x & 0xFFFF
    low, cross0, cross1 = x0 * m0, x0 * m1, x1 * m0
    middle = (low >> 16) + (cross0 & 0xFFFF) + (cross1 & 0xFFFF)
    return x1 * m1 + (cross0 >> 16) + (cross1 >> 16) + (middle >> 16), (middle << 16) | (low & 0xFFFF)


def normal(shape: Sequence[int], key: int, call: Any = 0, offset: int = 0, *, like: Array) -> Array:
    """Independent standard normal numbers: element i is made of words `2*(offset + i)` and the next of this call.

    ::

        sqrt(-2*log((a + 1) / 2**32)) * cos(2*pi * b / 2**32)        of two words a and b

    The logarithm and the cosine are the library's own, so that libraries may differ in the last bits. None is longer
    than 6.7.

    Args:
        shape: of the result.
        key: the stream, 0 <= key < 2**64.
        call: the draw within the stream, as for `words`.
        offset: where this shape begins within a larger draw, in elements, 0 <= offset < 2**63.
        like: a real floating array, whose library, device and dtype the result has; it is computed in at least float32.

    Raises like `words`; TypeError for another dtype.

    Source: Box and Muller, A note on the generation of random normal deviates, 1958.
    """
    arrays = library(like)
    xp, name = arrays.xp, arrays.dtype(like)
    if name not in COMPUTE or name.startswith("complex"):
        raise TypeError(f"like has dtype {name}; wanted a real floating one")
    # A word is more than float16 can hold, and bfloat16 has 256 directions.
    pairs = xp.astype(words((math.prod(shape), 2), key, call, 2 * offset, like=like), getattr(xp, COMPUTE[name]))
    a, b = pairs[..., 0], pairs[..., 1]
    drawn = xp.sqrt(-2 * xp.log((a + 1) / 2.0**32)) * xp.cos(2 * math.pi / 2**32 * b)
    return xp.reshape(xp.astype(drawn, like.dtype, copy=False), tuple(shape))  # 0-d arrays, where NumPy makes scalars
