"""Dropout on a CUDA device in one pass: one read and one write for each element, its choice drawn in between."""

from __future__ import annotations

import functools
import math
import struct
from typing import Any

from anyoptim._arrays import Array, Library
from anyoptim._engines import cuda
from anyoptim._engines._buffers import Machine
from anyoptim._engines._draw import Draw
from anyoptim._philox import CHOICES
from anyoptim._render import ELEMENTS, THREADS, dropout

__all__ = ["masked"]


@functools.cache
def _kernel(machine: Machine, dtype: str) -> Any:
    found = dropout(dtype)
    return machine.load(found.name, found.text)


def masked(library: Library, x: Array, number: int, draw: Draw, out: Array | None) -> Array | None:
    """The result on this device, in `out` if that is given; None for what no kernel takes."""
    dtype = library.dtype(x)
    if dtype not in ELEMENTS or cuda.missing():
        return None
    xp, n = library.xp, math.prod(x.shape)
    straight = out is not None and library.address(out) is not None
    with library.at(x):
        flat = xp.reshape(library.load(x), (-1,))  # in logical order: a copy where it isn't the memory's
        y = library.load(out) if straight else xp.empty_like(flat)
    if n:
        machine = cuda.device(number)
        groups = -(-(draw.offset % CHOICES + n) // CHOICES)
        (bits,) = struct.unpack("Q", struct.pack("d", draw.scale))
        places = [_address(library, a) for a in (flat, y)]
        machine.launch(
            _kernel(machine, dtype),
            -(-groups // THREADS),
            THREADS,
            library.stream(number),
            (*places, n, draw.offset, draw.key, draw.call, draw.threshold, bits),
        )
    if out is None:
        return xp.reshape(y, tuple(x.shape))
    if straight:
        library.touched([out])
    else:
        library.write(out, xp.reshape(y, tuple(x.shape)))
    return out


def _address(library: Library, a: Array) -> int:
    memory = library.memory(a)
    assert memory is not None  # noqa: S101 - it lies on a device, and has elements
    return memory.address
