"""Dropout on a CUDA device in one pass: one read and one write for each element, its word drawn in between."""

from __future__ import annotations

import functools
import math
import struct
from typing import Any

from anyoptim._arrays import Array, Library
from anyoptim._engines import cuda
from anyoptim._engines._buffers import Machine
from anyoptim._render import ELEMENTS, GROUP, THREADS, dropout

__all__ = ["masked"]


@functools.cache
def _kernel(machine: Machine, dtype: str) -> Any:
    found = dropout(dtype)
    return machine.load(found.name, found.text)


def masked(library: Library, x: Array, threshold: int, scale: float, words: tuple[int, Any, int]) -> Array | None:
    """`x*scale` where the word of an element is at least the threshold, else `x*0`; None for what no kernel takes.

    `words` are the key, the call and the offset of `anyoptim.random.bits`.
    """
    number = library.cuda(x)
    key, call, offset = words
    if number is None or cuda.missing() or not isinstance(call, int) or library.followed(x):
        return None
    dtype = library.dtype(x)
    if dtype not in ELEMENTS:
        return None
    xp, n = library.xp, math.prod(x.shape)
    with library.at(x):
        flat = xp.reshape(library.load(x), (-1,))  # in logical order: a copy where it isn't the memory's
        y = xp.empty_like(flat)
    if n:
        machine = cuda.device(number)
        groups = -(-(offset % GROUP + n) // GROUP)
        (bits,) = struct.unpack("Q", struct.pack("d", scale))
        places = [_address(library, a) for a in (flat, y)]
        machine.launch(
            _kernel(machine, dtype),
            -(-groups // THREADS),
            THREADS,
            library.stream(number),
            (*places, n, offset, key, call, threshold, bits),
        )
    return xp.reshape(y, tuple(x.shape))


def _address(library: Library, a: Array) -> int:
    memory = library.memory(a)
    assert memory is not None  # noqa: S101 - it lies on a device, and has elements
    return memory.address
