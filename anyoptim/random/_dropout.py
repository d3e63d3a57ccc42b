"""Dropout in one pass, where a kernel, a compiled loop or NumPy can read and write the array where it lies."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from anyoptim._arrays import Array, Library
from anyoptim._engines import ENGINES
from anyoptim._engines._base import NDArray
from anyoptim.random import _blocked, _compiled
from anyoptim.random._mask_spec import MaskSpec

__all__ = ["fast_dropout", "fused_dropout", "numpy_draws"]

WORTHWHILE = 300_000_000
"""After so many elements drawn by NumPy, the time lost by not having compiled is about what importing Numba and
compiling cost: two seconds."""

CALLS = 8192
"""The number of elements that take as long as NumPy's calls for one array, however small."""

only: str | None = None
"""The only engine for arrays of this machine, in tests and benchmarks: "compiled", if it can, "blocked", "portable"."""

_drawn: Counter[str] = Counter()
"""The number of elements that NumPy has drawn, by dtype."""


def numpy_draws(library: Library, like: Array) -> bool:
    """Whether numbers for such arrays are drawn by NumPy's calls."""
    return only != "portable" and library.numpy_can_create(like)


def fused_dropout(
    library: Library, x: Array, threshold: int, scale: float, place: tuple[int, Any, int], out: Array | None = None
) -> Array | None:
    """`x*scale` where an element's choice is at least the threshold, else `x*0`; None for what no engine here takes.

    `place` is the key, the call and the offset of `anyoptim.random.bernoulli`. The result is `out`, if that is given: x
    itself, or an array of its library, device, shape and dtype that shares no memory with it.
    """
    key, call, offset = place
    if not isinstance(call, int) or library.tracked_by_autograd(x):
        return None
    spec = MaskSpec(threshold, scale, key, call, offset)
    number = library.cuda(x)
    if number is not None:
        from anyoptim.random import _cuda  # noqa: PLC0415 - for those who have a device

        return _cuda.dropout(library, x, number, spec, out)
    a = None if only == "portable" else library.numpy_bits(x)
    if a is None:
        return None
    y = (np.empty_like(a) if a is x else library.xp.empty_like(library.load(x))) if out is None else out
    b = a if y is x else library.numpy_bits(y)
    if b is None:
        return None
    if a.size:
        _engine(library.dtype(x), a, b, spec)
    if out is not None:
        library.mark_written([out])
    return y


def fast_dropout(x: Any, threshold: int, scale: float, key: int, call: int) -> NDArray | None:
    """Dropout from choice 0 on, as a new array, of a plain array whose loop is loaded; None for anything else."""
    return None if only in {"blocked", "portable"} else _compiled.fast_dropout(x, threshold, scale, key, call)


def _engine(dtype: str, x: NDArray, y: NDArray, spec: MaskSpec) -> None:
    soon = only == "blocked" or (only is None and _drawn[dtype] < WORTHWHILE)
    if soon or _refusal(x, y) is not None:
        _blocked.dropout(dtype, x, y, spec)
        _drawn[dtype] += CALLS + x.size
    else:
        _compiled.dropout(dtype, x, y, spec)


def _refusal(x: NDArray, y: NDArray) -> str | None:
    """Why compiled loops can't take these arrays, or None."""
    engine, refusal = ENGINES["compiled"], _compiled.refusal
    return engine.missing() or engine.broken() or refusal(x) or refusal(y)
