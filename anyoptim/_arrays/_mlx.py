"""MLX arrays."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from anyoptim._arrays._library import Array, Library
from anyoptim._arrays._memory import MemoryLayout

__all__ = ["MLX"]

_CREATE = {"arange", "asarray", "empty", "empty_like", "full", "full_like", "ones", "ones_like", "zeros", "zeros_like"}


class _Namespace:
    """MLX's own namespace, with the arguments of the standard that it lacks: `copy` of astype, and `device`."""

    __name__ = "mlx"

    def __init__(self, mx: Any) -> None:
        self._mx = mx
        self.bool = mx.bool_

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._mx, name)
        if name in _CREATE:
            found = _without_device(found)
        setattr(self, name, found)
        return found

    def astype(self, x: Array, dtype: Any, /, *, copy: bool = True) -> Array:
        """The array with another dtype; the same array where that is allowed."""
        return x if x.dtype == dtype and not copy else x.astype(dtype)


def _without_device(create: Callable[..., Any]) -> Callable[..., Any]:
    """A function that creates arrays, with the argument `device`, of which there is but one memory."""

    @functools.wraps(create)
    def created(*args: Any, device: Any = None, **options: Any) -> Any:  # noqa: ARG001 - the standard has it
        return create(*args, **options)

    return created


@functools.cache
def _namespace(mx: Any) -> _Namespace:
    return _Namespace(mx)


class MLX(Library):
    """MLX, whose arrays have one memory, are computed late, and can be assigned to."""

    name = "mlx"

    @classmethod
    def namespace(cls, x: Any) -> Any:
        mx = sys.modules.get("mlx.core")
        return _namespace(mx) if mx is not None and isinstance(x, mx.array) else None

    def device(self, x: Array) -> Any:
        return None

    def widest_float(self) -> Any:
        # Its GPU has no float64.
        return self.xp.float64 if self.xp.default_device().type == self.xp.DeviceType.cpu else self.xp.float32

    def memory(self, x: Array) -> MemoryLayout | None:
        return None  # each assignment may put the array elsewhere; no two share any

    def copied(self, x: Array) -> Array:
        return self.xp.array(x)

    def to_host(self, x: Array) -> np.ndarray[Any, Any]:
        wide = self.xp.float32 if x.dtype == self.xp.bfloat16 else x.dtype
        return np.array(x.astype(wide))

    def from_host(self, values: np.ndarray[Any, Any], like: Array) -> Array:
        if self.dtype(like) == "bfloat16":
            values = values.astype(np.float32)
        return self.xp.array(values, dtype=like.dtype)

    def materialize(self, arrays: list[Array]) -> list[Array]:
        # Without this the graph would grow with every step; any value can be had at any time, though, unlike Dask's.
        self.xp.eval(arrays)
        return arrays

    def join_complex(self, real: Array, imag: Array, dtype: Any) -> Array:
        pairs = self.xp.stack([real, imag], axis=-1)
        return pairs.view(dtype).reshape(real.shape)
