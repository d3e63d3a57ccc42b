"""Dropout by NumPy calls over blocks that stay in the cache: they have choices, factors and results."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from anyoptim._arrays import COMPUTE
from anyoptim._arrays._quiet import quiet, quietly
from anyoptim._engines._base import NDArray
from anyoptim._machine import _threads
from anyoptim.random import _blocked_words
from anyoptim.random._blocked_words import Buffers
from anyoptim.random._mask_spec import MaskSpec
from anyoptim.random._rounds import CHOICES, GROUP, MASK

__all__ = ["dropout", "fast_dropout", "fast_dtype"]

FAST = 1 << 20
"""The most elements that `fast_dropout` takes: with more, the bits of the choices would be more than 128 KiB."""

SMALL = 1 << 15
"""The most elements of which one call makes the product: with more, factors in a buffer are faster."""

_PLAIN = {id(np.dtype(name)): name for name in ("float16", "float32", "float64")}
"""The dtypes that are taken without checks, by their ids: NumPy has one of each."""


def fast_dtype(x: NDArray, threshold: int, call: int) -> str | None:
    """The dtype of a plain array that `fast_dropout` takes; None for any other."""
    flags = x.flags
    if not (flags.c_contiguous and flags.aligned and 0 < x.size <= FAST and x.ndim):
        return None
    return _PLAIN.get(id(x.dtype)) if 0 < threshold <= MASK >= call >> 32 else None


def fast_dropout(dtype: str, x: NDArray, spec: MaskSpec, kept: NDArray, in_place: bool) -> NDArray:
    """Dropout of such an array from choice 0 on, as a new one or in place. `kept` is as for `dropout`."""
    if x.size > SMALL or dtype == "float16":  # whose factors are of float32
        y = x if in_place else np.empty_like(x)
        dropout(dtype, x, y, spec, kept)
        return y
    # As of float, because NumPy takes longer for a product of two dtypes.
    factor = np.unpackbits(kept, count=x.size, bitorder="little").reshape(x.shape).astype(x.dtype)
    if spec.scale != 1:
        np.multiply(factor, spec.scale, factor)
    return quietly(np.multiply, x, factor, x if in_place else factor)  # type: ignore[no-any-return]


def dropout(dtype: str, x: NDArray, y: NDArray, spec: MaskSpec, kept: NDArray | None = None) -> None:
    """Write x times its factors to y, which may be x. Arrays of bfloat16 are given as their bits.

    `kept` is a byte of each counter of the call from the first on, as `_blocked_words` has it, if they are drawn.
    """
    most = _most(dtype)
    workers = _blocked_words.workers(x.size // most)
    share = functools.partial(_share, dtype, x, y, spec, kept, most)
    _threads.spread(share, [(k, workers) for k in range(workers)])


def _share(
    dtype: str, x: NDArray, y: NDArray, spec: MaskSpec, kept: NDArray | None, most: int, k: int, workers: int
) -> None:
    with quiet(), _blocked_words.buffers() as room:
        for (a, b), offset in itertools.islice(_blocks([x, y], spec.offset, most), k, None, workers):
            _block(dtype, a, b, room, spec, kept, offset)


def _most(dtype: str) -> int:
    """The most elements whose words and factors fit the buffers."""
    each = sum(kind.itemsize for kind in _kinds(dtype))
    # One counter more is needed for a run that doesn't begin with the first choice of one.
    counters = _blocked_words.COUNTERS
    return min(CHOICES * (counters - 1), GROUP * counters * 8 // each)


def _blocks(arrays: list[NDArray], offset: int, most: int) -> Iterator[tuple[list[NDArray], int]]:
    """Runs of elements in logical order, each with the number of its first choice."""
    if all(a.flags.c_contiguous for a in arrays):
        arrays = [a.reshape(-1) for a in arrays]
    first = arrays[0]
    if first.size <= most:
        yield arrays, offset
        return
    each = first.size // len(first)
    rows = most // each
    for i in range(0, len(first), max(rows, 1)):
        if rows:
            yield [a[i : i + rows] for a in arrays], offset + i * each
        else:
            yield from _blocks([a[i] for a in arrays], offset + i * each, most)


def _block(
    dtype: str, x: NDArray, y: NDArray, room: Buffers, spec: MaskSpec, kept: NDArray | None, offset: int
) -> None:
    factor, *wide = _rooms(dtype, x.shape, room)
    if 0 < spec.threshold <= MASK:
        first, skip = divmod(offset, CHOICES)
        counters = -(-(skip + x.size) // CHOICES)
        here = _blocked_words.kept(room, spec, first, counters) if kept is None else kept[first : first + counters]
        _blocked_words.unpack(here, skip, factor.reshape(-1))
        if spec.scale != 1:
            np.multiply(factor, factor.dtype.type(spec.scale), out=factor)
    else:
        factor.fill(0 if spec.threshold else spec.scale)
    if not wide:
        np.multiply(x, factor, out=y)
        return
    (a,) = wide
    if dtype == "float16":
        np.copyto(a, x)
        np.copyto(y, np.multiply(a, factor, out=a), casting="same_kind")
    else:
        np.left_shift(x, 16, out=a.view(np.uint32), dtype=np.uint32)
        _rounded(np.multiply(a, factor, out=a), factor.view(np.uint32), y)


def _kinds(dtype: str) -> list[np.dtype[Any]]:
    """The dtypes of what each element needs room for: its factor and, in half precision, itself as a float32."""
    wide = np.dtype(COMPUTE[dtype])
    return [wide] if COMPUTE[dtype] == dtype else [wide, wide]


def _rooms(dtype: str, shape: tuple[int, ...], room: Buffers) -> list[NDArray]:
    """An array of each of these dtypes, in the buffers where the words were."""
    n, begin, arrays = math.prod(shape), 0, []
    for kind in _kinds(dtype):
        end = begin + n * kind.itemsize
        arrays.append(room.words.reshape(-1).view(np.uint8)[begin:end].view(kind).reshape(shape))
        begin = end
    return arrays


def _rounded(wide: NDArray, work: NDArray, y: NDArray) -> None:
    """Write to y the bits of float32 numbers, rounded to the nearest bfloat16, ties to even.

    No NaN needs care: it has the payload of a bfloat16, which no rounding carries out of.
    """
    bits = wide.view(np.uint32)
    np.right_shift(bits, 16, out=work)
    np.bitwise_and(work, 1, out=work)
    np.add(work, 0x7FFF, out=work)
    np.add(work, bits, out=work)
    np.right_shift(work, 16, out=work)
    np.copyto(y, work, casting="same_kind")
