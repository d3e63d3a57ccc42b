"""Philox4x32-10 over array operations: random words, counted by element.

Source: Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, 2011, section 3.3.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from anyoptim._arrays import Array, Library, is_scalar, library, uncompiled
from anyoptim._arrays._quiet import quiet
from anyoptim._trace._scalars import count, integer
from anyoptim.random import _blocked_words
from anyoptim.random._dropout import numpy_draws
from anyoptim.random._place import Offset, Runs, place, sizes
from anyoptim.random._rounds import CHOICES, GROUP, MASK, TURN, bumped, keys

__all__ = ["bits", "choices", "library_of", "multiply", "philox4x32"]


@uncompiled
def philox4x32(counter: Sequence[Array], key: tuple[int, int]) -> tuple[Array, ...]:
    """Ten rounds of Philox on counters of four words, element by element.

    Args:
        counter: four arrays of one shape and of the dtype that `bits` gives in this library, of 32-bit words.
        key: two 32-bit words.

    Returns:
        Four arrays of random words, like those of the counter.

    >>> words = ao.random.philox4x32([np.zeros(1, np.uint64)] * 4, (0, 0))
    >>> [hex(word[0]) for word in words]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    arrays = library(counter[0])
    with quiet():  # the products of int64 wrap, as they should
        return arrays.fold(_ROUND_INT64 if arrays.wide_integers else _ROUND_UINT32, tuple(counter), keys(key))


def bits(
    shape: Sequence[int],
    key: int,
    call: Any = 0,
    offset: Offset = 0,
    *,
    within: Sequence[int] | None = None,
    like: Array,
) -> Array:
    """Independent uniform 32-bit words: element i, in logical C order, is word `offset + i` of this call.

    Args:
        shape: of the result.
        key: the stream, 0 <= key < 2**64.
        call: the draw within the stream, 0 <= call < 2**64, or a 0-d integer array. `jax.jit` may trace it; there
            a negative number is not noticed, and an argument from 2**31 on must be a `jnp.uint32`.
        offset: where this shape begins within a larger draw: without `within` a number of elements,
            0 <= offset < 2**64, for a run of its elements in C order, as a slice along the first axis is. With it
            one entry for each axis, either the index of the first element, or the indices of all (a `range` with a
            step, or any integers, for rows that were shuffled).
        within: the shape of the larger draw, of fewer than 2**63 elements; the same number of axes.
        like: an array whose library and device the result has.

    Returns:
        Integers in [0, 2**32): int64, and uint32 on JAX, which has no 64-bit integers by default.

    Raises:
        TypeError: a key, call or offset that is no integer (and no array of one integer).
        ValueError: one that is out of its range, and a shape that no array has.

    >>> ao.random.bits((2,), key=0, like=np.empty(0))
    array([1713891541, 3781805453])
    """
    return _words(GROUP, shape, key, call, offset, within, like)


def choices(
    shape: Sequence[int], key: int, call: Any, offset: Offset, within: Sequence[int] | None, like: Array
) -> Array:
    """The choices of `bernoulli`, two of each word of `bits`, with the same arguments."""
    return _words(CHOICES, shape, key, call, offset, within, like)


@uncompiled
def _words(
    group: int, shape: Sequence[int], key: int, call: Any, offset: Offset, within: Sequence[int] | None, like: Array
) -> Array:
    """The words of counters, if a group is four, or their choices, if it is eight."""
    key, call = integer("key", key), count("call", call)
    if not isinstance(shape, Sequence):
        raise TypeError(f"shape is {shape!r}; wanted a tuple of integers")
    shape = sizes("shape", shape)
    if math.prod(n or 1 for n in shape) >= 1 << 60:  # of 8 bytes
        raise ValueError(f"shape is {shape}; wanted one of fewer than 2**60 elements")
    arrays, where = library_of("like", like), place(shape, offset, within)
    if not isinstance(call, int) and library(call) is not arrays:
        raise TypeError(
            f"call is traced by {library(call).name}, but like is an array of {arrays.name}; wanted one library"
        )
    xp = arrays.xp
    halves = key & MASK, key >> 32
    if isinstance(where, Runs):
        return xp.reshape(_runs(arrays, group, where, halves, call, like), shape)
    n, skip = math.prod(shape), where % group
    if isinstance(call, int) and numpy_draws(arrays, like):
        words = _blocked_words.words(group, n, key, call, where)
        return xp.reshape(xp.asarray(words, device=arrays.creation_device(like)), shape)
    low, high = _following(arrays, where // group, max(1, -(-(skip + n) // group)), like)
    words = _drawn(arrays, group, (low, high, *_calls(arrays, call, low)), halves)
    return xp.reshape(xp.reshape(words, (-1,))[skip : skip + n], shape)


def library_of(name: str, like: Array) -> Library:
    """The library of an array. Raises TypeError with the name for what is none."""
    try:
        if not is_scalar(like):
            return library(like)
    except TypeError:
        pass
    raise TypeError(f"{name} is {like!r}; wanted an array")


def _drawn(arrays: Library, group: int, counter: Sequence[Array], key: tuple[int, int]) -> Array:
    """The group of each counter, along a last axis."""
    words = philox4x32(counter, key)
    if group == CHOICES:
        words = (*words, *(_turned(arrays, word) for word in words))
    return arrays.xp.stack(words, axis=-1)


def _turned(arrays: Library, word: Array) -> Array:
    """A word with its halves exchanged."""
    upper = word << TURN
    return ((upper & MASK) if arrays.wide_integers else upper) | (word >> TURN)


def _following(arrays: Library, first: int, blocks: int, like: Array) -> tuple[Array, Array]:
    """The block numbers first, first + 1, ... as two arrays of words."""
    xp = arrays.xp
    if arrays.wide_integers:
        index = xp.arange(blocks, dtype=xp.int64, device=arrays.creation_device(like)) + first
        return index & MASK, index >> 32
    if blocks >= 1 << 32:
        raise ValueError(f"shape takes {blocks} counters; wanted fewer than 2**32 at once on {arrays.name}")
    begin = arrays.scalar(first & MASK, xp.uint32, like)
    low = xp.arange(blocks, dtype=xp.uint32, device=arrays.creation_device(like)) + begin
    return low, xp.astype(low < begin, xp.uint32) + arrays.scalar(first >> 32, xp.uint32, like)


def _calls(arrays: Library, call: Any, like: Array) -> list[Array]:
    """The call as two arrays of words."""
    xp = arrays.xp
    if isinstance(call, int):
        halves = [arrays.scalar(half, like.dtype, like) for half in (call & MASK, call >> 32)]
    else:
        halves = [xp.astype(call, like.dtype), xp.zeros_like(call, dtype=like.dtype)]
        if arrays.dtype(call).endswith("64"):
            halves = [xp.astype(call & MASK, like.dtype), xp.astype(call >> 32, like.dtype)]
    return [xp.zeros_like(like) + half for half in halves]


def _runs(arrays: Library, group: int, runs: Runs, key: tuple[int, int], call: Any, like: Array) -> Array:
    """The words of runs, a row for each: first all words of its counters are drawn, then those asked for are taken.

    Where a run begins is a sum of one number for each axis, so that no more than those leave the host.
    """
    xp, by = arrays.xp, group.bit_length() - 1
    skips = {int(skip) for skip in runs.skips(group)}
    blocks = -(-(max(skips) + runs.length) // group)
    here, following = arrays.creation_device(like), (1,) * len(runs.starts)
    if arrays.wide_integers:
        begin = xp.asarray(runs.first, dtype=xp.int64, device=here)
        for k, starts in enumerate(runs.starts):
            axis = xp.asarray(starts.astype(np.int64), device=here)
            begin = begin + xp.reshape(axis, (*following[:k], -1, *following[k + 1 :]))
        begin = xp.reshape(begin, (-1, 1))
        index = (begin >> by) + xp.arange(blocks, dtype=xp.int64, device=here)
        low, high, skip = index & MASK, index >> 32, begin & (group - 1)
    else:
        low, high = (arrays.scalar(half, xp.uint32, like) for half in (runs.first & MASK, runs.first >> 32))
        for k, starts in enumerate(runs.starts):
            more, carried = (
                xp.reshape(xp.asarray(half.astype(np.uint32), device=here), (*following[:k], -1, *following[k + 1 :]))
                for half in (starts & np.uint64(MASK), starts >> np.uint64(32))
            )
            low = low + more
            high = high + carried + xp.astype(low < more, xp.uint32)
        low, high = xp.reshape(low, (-1, 1)), xp.reshape(high, (-1, 1))
        skip = low & (group - 1)
        begin = (low >> by) | (high << (32 - by))
        low = begin + xp.arange(blocks, dtype=xp.uint32, device=here)
        high = (high >> by) + xp.astype(low < begin, xp.uint32)
    words = _drawn(arrays, group, (low, high, *_calls(arrays, call, low)), key)
    words = xp.reshape(words, (low.shape[0], group * blocks))
    result = None
    for k in sorted(skips):
        part = words[:, k : k + runs.length]
        result = part if result is None else xp.where(skip == k, part, result)
    return arrays.array(result)


def multiply(arrays: Library, x: Array, y: Array) -> Array:
    """The high word of x*y, of two arrays of words."""
    return (_multiply_int64 if arrays.wide_integers else _multiply_uint32)(x, y)[0]


def _multiply_int64(x: Array, m: Any) -> tuple[Array, Array]:
    """The high and the low word of x*m. The product wraps around 2**64; its bits are the same."""
    product = x * m
    return (product >> 32) & MASK, product & MASK


def _multiply_uint32(x: Array, m: Any) -> tuple[Array, Array]:
    """The high and the low word of x*m, by halves of 16 bits."""
    m1, m0 = m >> 16, m & 0xFFFF
    x1, x0 = x >> 16, x & 0xFFFF
    low, cross0, cross1 = x0 * m0, x0 * m1, x1 * m0
    middle = (low >> 16) + (cross0 & 0xFFFF) + (cross1 & 0xFFFF)
    return x1 * m1 + (cross0 >> 16) + (cross1 >> 16) + (middle >> 16), (middle << 16) | (low & 0xFFFF)


_ROUND_INT64 = functools.partial(bumped, product=_multiply_int64)
_ROUND_UINT32 = functools.partial(bumped, product=_multiply_uint32)
