"""The values of an array of any library on the host, in the widest dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from anyoptim._arrays._library import COMPUTE, Array, Library

__all__ = ["wide"]


def wide(library: Library, x: Array) -> np.ndarray[Any, Any]:
    """The values as a new NumPy array of float64 or complex128."""
    dtype = library.dtype(x)
    if dtype != COMPUTE[dtype]:  # NumPy may never have heard of bfloat16
        x = library.xp.astype(x, getattr(library.xp, COMPUTE[dtype]))
    return library.to_host(x).astype(np.complex128 if dtype.startswith("complex") else np.float64, order="C")
