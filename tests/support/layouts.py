"""Arrays as they may lie in memory, and values of every kind in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "reversed": lambda a: a[::-1].copy()[::-1],
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
}


def hostile(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """Zeros of both signs, subnormals, infinities, NaN, and magnitudes from 1e-38 to 1e38."""
    kind = np.dtype(dtype)
    real = np.dtype(kind.char.lower()) if kind.kind == "c" else kind
    tiny = np.finfo(real).smallest_subnormal
    special = np.array([0.0, -0.0, tiny, -tiny * 9, np.inf, -np.inf, np.nan, 1.0, -1.0], real)
    size = int(np.prod(shape)) * (2 if kind.kind == "c" else 1)
    with np.errstate(all="ignore"):
        values = (rng.normal(size=size) * 10.0 ** rng.uniform(-38, 38, size=size)).astype(real)
    values = np.where(rng.random(size) < 0.3, rng.choice(special, size=size), values)
    return values.view(kind).reshape(shape)
