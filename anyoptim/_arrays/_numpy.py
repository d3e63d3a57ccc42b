"""NumPy arrays, NumPy scalars and plain Python numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from anyoptim._arrays._library import Array, Library, host_memory
from anyoptim._arrays._memory import MemoryLayout

__all__ = ["NumPy", "by_parts", "is_scalar"]

_NUMBERS = int | float | complex | np.generic


class NumPy(Library):
    """NumPy, and plain Python numbers."""

    name = "numpy"

    @classmethod
    def namespace(cls, x: Any) -> Any:
        # NumPy's own is complete; array-api-compat's imports all of NumPy, from f2py to the tests' tools.
        return np if isinstance(x, np.ndarray | _NUMBERS) else None

    def refusal(self, x: Array) -> str | None:
        if type(x) is not np.ndarray and isinstance(x, np.matrix | np.ma.MaskedArray):
            return f"is a numpy {type(x).__name__}, whose operators mean something else; wanted a plain array"
        return None

    def load(self, x: Array) -> Array:
        return np.asarray(x)

    def rebound(self, old: Array, new: Array) -> Array:
        array = self.array(new)
        if isinstance(old, np.ndarray):
            return array
        return array[()] if isinstance(old, np.generic) else array.item()

    def unaliased(self, result: Array) -> Array:
        return result if result.base is None and result.flags.writeable else result.copy()

    def array(self, result: Array) -> Array:
        return np.asarray(result)  # arithmetic on 0-d arrays gives scalars

    def write(self, p: Array, new: Array) -> None:
        np.asarray(p)[...] = new  # a subclass may override assignment

    def part_to(self, x: Array, key: Any, out: Array) -> None:
        if isinstance(key, np.ndarray):
            np.take(x, key, axis=0, out=out, mode="clip")  # the rows were checked: without a copy between
        else:
            out[...] = x[key]

    def write_part(self, x: Array, key: Any, values: Array) -> None:
        np.asarray(x)[key] = values

    def writable(self, x: Array) -> bool:
        return isinstance(x, np.ndarray) and x.flags.writeable

    def read_only(self, x: Array) -> Array:
        view = x.view()
        view.flags.writeable = False
        return view

    def device(self, x: Array) -> Any:
        return "cpu"

    def numpy_view(self, x: Array) -> np.ndarray[Any, Any] | None:
        # bfloat16 is another package's dtype: its kind is "V".
        return x if isinstance(x, np.ndarray) and x.dtype.kind in "fc" else None

    def numpy_bits(self, x: Array) -> np.ndarray[Any, Any] | None:
        if not isinstance(x, np.ndarray) or not x.dtype.isnative:
            return None
        a = x if type(x) is np.ndarray else np.asarray(x)
        return a if a.dtype.kind in "fc" else a.view(np.uint16) if self.dtype(a) == "bfloat16" else None

    def numpy_can_create(self, like: Array) -> bool:
        return isinstance(like, np.ndarray)

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x)

    def copied(self, x: Array) -> Array:
        return x.copy(order="K")

    def unchanged(self, x: Array, memory: MemoryLayout | None) -> bool:
        # `resize`, there and back, moves the memory under an array that is otherwise as it was.
        return type(x) is np.ndarray and memory is not None and x.flags.writeable and host_memory(x) == memory

    def is_plain_gradient(self, x: Array, p: Array) -> bool:
        return type(x) is np.ndarray and x.dtype is p.dtype and x.shape == p.shape

    def address(self, x: Array) -> int | None:
        return x.__array_interface__["data"][0] if x.flags.c_contiguous and x.flags.aligned else None

    def memory(self, x: Array) -> MemoryLayout | None:
        return host_memory(x) if isinstance(x, np.ndarray) else None

    def join_complex(self, real: Array, imag: Array, dtype: Any) -> Array:
        return by_parts(self.xp, real, imag, dtype)


def by_parts(xp: Any, real: Array, imag: Array, dtype: Any) -> Array:
    """The complex array with these two parts, whatever their values are."""
    joined = xp.empty_like(real, dtype=dtype)
    joined.real, joined.imag = real, imag
    return joined


def is_scalar(x: Any) -> bool:
    """Whether `x` is a number of the host that belongs to no library: a Python number or a NumPy scalar."""
    return isinstance(x, _NUMBERS)
