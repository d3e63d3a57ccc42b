"""NumPy's array objects as C code sees them, for compiled code to ask in nanoseconds what Python asks in microseconds.

An array object begins with fields that NumPy's C interface fixes: where its elements lie, how many dimensions there
are, their lengths and strides, the owner of the memory, the dtype and the flags. `reliable` compares them once with
what NumPy says, and where they differ nothing here is used.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

__all__ = [
    "ALIGNED",
    "BYTES",
    "DATA",
    "DTYPE",
    "FIRST",
    "FLAGS",
    "MIRROR",
    "NDIM",
    "ORDER",
    "PARAMETER",
    "SHAPE",
    "TYPE",
    "WRITEABLE",
    "C",
    "F",
    "reliable",
]

C, F, ALIGNED, WRITEABLE = 0x1, 0x2, 0x100, 0x400
"""NumPy's flags of an array."""

TYPE, DATA, NDIM, SHAPE, DTYPE, FLAGS = 8, 16, 24, 32, 56, 64
"""The bytes from the beginning of an object to its type and, behind the two words of every object, to its fields."""


PARAMETER, MIRROR, ORDER, BYTES, FIRST = range(5)
"""The columns of a table of leaves: the id of the parameter; that of an array of our own, made over the parameter when
it was met; the flag of its memory order; its bytes; and from there on the addresses of p, x and the slots."""


@functools.cache
def reliable() -> bool:
    """Whether this Python's and this NumPy's array objects are as they are taken to be."""
    samples = [np.zeros((2, 3, 5), "f4"), np.zeros((4, 2), "f8", order="F"), np.zeros(7, "f4")[1::2], np.zeros(())]
    samples[1].flags.writeable = False
    return object.__basicsize__ == DATA and ctypes.sizeof(ctypes.c_void_p) == 8 and all(map(_as_taken, samples))


def _as_taken(a: Any) -> bool:
    at = id(a)
    ndim = _word(at + NDIM) & 0xFFFFFFFF
    if ndim != a.ndim or _word(at + TYPE) != id(np.ndarray) or _word(at + DTYPE) != id(a.dtype):
        return False
    flags = [(C, a.flags.c_contiguous), (F, a.flags.f_contiguous), (ALIGNED, a.flags.aligned)]
    flags.append((WRITEABLE, a.flags.writeable))
    return (
        _word(at + DATA) == a.__array_interface__["data"][0]
        and all(_word(_word(at + SHAPE) + 8 * k) == n for k, n in enumerate(a.shape))
        and all(bool(_word(at + FLAGS) & bit) == is_set for bit, is_set in flags)
    )


def _word(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value
