"""CuPy arrays."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from anyoptim._arrays._library import Array, Fingerprint, Library
from anyoptim._arrays._memory import MemoryLayout
from anyoptim._arrays._numpy import by_parts

__all__ = ["CuPy"]


class CuPy(Library):
    """CuPy."""

    name = "cupy"
    flushes_subnormals = True

    def cuda(self, x: Array) -> int | None:
        return int(x.device.id)

    def stream(self, number: int) -> int:
        return int(sys.modules["cupy"].cuda.get_current_stream(number).ptr)

    def capturing(self, number: int) -> bool:
        return bool(sys.modules["cupy"].cuda.get_current_stream(number).is_capturing())

    def fingerprint(self, ps: Sequence[Array]) -> Fingerprint:
        strides = None if all(p.flags.c_contiguous for p in ps) else [p.strides for p in ps]
        addresses, devices = [p.data.ptr for p in ps], [p.data.device_id for p in ps]
        return Fingerprint(addresses, [p.dtype for p in ps], [p.shape for p in ps], strides, devices)

    def unchanged_all(self, ps: Sequence[Array], fingerprint: Fingerprint) -> bool:
        return [p.data.ptr for p in ps] == fingerprint.addresses  # their memory and dtype never change

    def addresses(self, xs: Sequence[Array], fingerprint: Fingerprint) -> list[int] | None:
        if {*map(type, xs)} != {sys.modules["cupy"].ndarray} or [x.shape for x in xs] != fingerprint.shapes:
            return None
        if [x.dtype for x in xs] != fingerprint.dtypes:
            return None
        # `flags.c_contiguous` would take ten times as long.
        if (
            False in [x._c_contiguous for x in xs]
            if fingerprint.strides is None
            else [x.strides for x in xs] != fingerprint.strides
        ):
            return None
        memory = [x.data for x in xs]
        return [m.ptr for m in memory] if [m.device_id for m in memory] == fingerprint.devices else None

    def address(self, x: Array) -> int | None:
        return int(x.data.ptr) if x.flags.c_contiguous else None

    def on_device_of(self, x: Array) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = x.device  # CuPy puts new arrays on the current device
        return context

    def part(self, x: Array, key: Any) -> Array:
        with self.on_device_of(x):
            return super().part(x, key)

    def write_part(self, x: Array, key: Any, values: Array) -> None:
        with self.on_device_of(x):
            x[self.xp.asarray(key) if isinstance(key, np.ndarray) else key] = values

    def copied(self, x: Array) -> Array:
        with self.on_device_of(x):
            return x.copy(order="K")

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x.get())

    def writable(self, x: Array) -> bool:
        return True

    def memory(self, x: Array) -> MemoryLayout | None:
        return MemoryLayout(f"cuda:{x.device.id}", x.data.ptr, x.shape, x.strides, x.itemsize) if x.data.ptr else None

    def join_complex(self, real: Array, imag: Array, dtype: Any) -> Array:
        return by_parts(self.xp, real, imag, dtype)
