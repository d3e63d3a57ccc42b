"""NumPy's array objects, read by compiled code: what is asked of each gradient at each step, in nanoseconds.

An array object begins with fields that NumPy's C interface fixes: where its elements lie, how many dimensions there
are, their lengths and strides, the owner of the memory, the dtype and the flags. `reliable` compares them with
what NumPy says, once, and where they differ nothing here is used.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from anyoptim._engines import _store

__all__ = ["apart", "located", "reliable"]

C, F, ALIGNED, WRITEABLE = 0x1, 0x2, 0x100, 0x400
"""NumPy's flags."""

_TYPE, _DATA, _NDIM, _SHAPE, _DTYPE, _FLAGS = 8, 16, 24, 32, 56, 64
"""Bytes from the beginning of an object to its type and, after the two words that every object has, its fields."""

_TEXT = '''\
# Made by anyoptim to read the headers of NumPy's arrays.
from anyoptim._engines._pointer import word


def located(params, mirrors, grads, contiguous, arrays):
    """The leaf that is not as it was, or whose gradient is not such as it was; -1 where there is none.

    And the addresses of the gradients in column 1. A mirror is an array of our own, made over a parameter when it was
    met: the parameter has still its address, its shape, its dtype and its memory order.
    """
    for i in range(len(params)):
        p, mirror, x = params[i], mirrors[i], grads[i]
        wanted = contiguous[i] | {aligned}
        if (
            word(p + {data}) != word(mirror + {data})
            or word(p + {dtype}) != word(mirror + {dtype})
            or word(p + {flags}) & (wanted | {writeable}) != wanted | {writeable}
            or word(x + {type}) != word(mirror + {type})
            or word(x + {dtype}) != word(mirror + {dtype})
            or word(x + {flags}) & wanted != wanted
        ):
            return i
        ndim = word(mirror + {ndim}) & 0xFFFFFFFF
        if word(p + {ndim}) & 0xFFFFFFFF != ndim or word(x + {ndim}) & 0xFFFFFFFF != ndim:
            return i
        for k in range(ndim):
            length = word(word(mirror + {shape}) + 8 * k)
            if word(word(p + {shape}) + 8 * k) != length or word(word(x + {shape}) + 8 * k) != length:
                return i
        arrays[i, 1] = word(x + {data})
    return -1


def apart(arrays, sizes, begins, ends):
    """Whether no gradient lies in a stretch of memory that will be written to; the stretches are in order."""
    for i in range(len(sizes)):
        low, high = arrays[i, 1], arrays[i, 1] + sizes[i]
        left, right = 0, len(ends)
        while left < right:
            middle = (left + right) // 2
            if ends[middle] <= low:
                left = middle + 1
            else:
                right = middle
        if left < len(ends) and begins[left] < high and low < high:
            return False
    return True
'''


@functools.cache
def reliable() -> bool:
    """Whether this Python's and this NumPy's array objects are as they are taken to be."""
    samples = [np.zeros((2, 3, 5), "f4"), np.zeros((4, 2), "f8", order="F"), np.zeros(7, "f4")[1::2], np.zeros(())]
    samples[1].flags.writeable = False
    return object.__basicsize__ == _DATA and all(map(_as_taken, samples))


def _as_taken(a: Any) -> bool:
    def word(address: int) -> int:
        return ctypes.c_uint64.from_address(address).value

    at = id(a)
    ndim = word(at + _NDIM) & 0xFFFFFFFF
    if ndim != a.ndim or word(at + _TYPE) != id(np.ndarray) or word(at + _DTYPE) != id(a.dtype):
        return False
    flags = [(C, a.flags.c_contiguous), (F, a.flags.f_contiguous), (ALIGNED, a.flags.aligned)]
    flags.append((WRITEABLE, a.flags.writeable))
    return (
        word(at + _DATA) == a.__array_interface__["data"][0]
        and all(word(word(at + _SHAPE) + 8 * k) == n for k, n in enumerate(a.shape))
        and all(bool(word(at + _FLAGS) & bit) == is_set for bit, is_set in flags)
    )


@functools.cache
def _text() -> str:
    offsets = {"type": _TYPE, "data": _DATA, "ndim": _NDIM, "shape": _SHAPE, "dtype": _DTYPE, "flags": _FLAGS}
    return _TEXT.format(**offsets, aligned=ALIGNED, writeable=WRITEABLE)


@functools.cache
def located() -> Any:
    """`located(params, mirrors, grads, contiguous, arrays)`, of the ids of array objects."""
    signature = "int64(uint64[::1], uint64[::1], uint64[::1], uint64[::1], uint64[:, ::1])"
    return _store.compiled(_store.function("located", _text()), signature)


@functools.cache
def apart() -> Any:
    """`apart(arrays, sizes, begins, ends)`, in bytes."""
    signature = "boolean(uint64[:, ::1], uint64[::1], uint64[::1], uint64[::1])"
    return _store.compiled(_store.function("apart", _text()), signature)
