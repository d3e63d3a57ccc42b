"""Dropout in one pass, where a kernel, a compiled loop or NumPy can read and write the array where it lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

import numpy as np

from anyoptim._arrays import Array, Library
from anyoptim._engines import ENGINES, EngineName, check_engine
from anyoptim._engines._base import NDArray
from anyoptim.random import _blocked, _compiled
from anyoptim.random._lookahead import Lookahead
from anyoptim.random._mask_spec import MaskSpec

R = TypeVar("R")

__all__ = ["EngineName", "check_engine", "fast_dropout", "fused_dropout", "numpy_draws", "on_engine", "precompile"]

WORTHWHILE = 300_000_000
"""After so many elements drawn by NumPy, the time lost by not having compiled is about what importing Numba and
compiling cost: two seconds of a processor."""

CALLS = 8192
"""The number of elements that take as long as NumPy's calls for one array, however small."""

FAST_CALLS, FAST_SHARE = 1024, 4
"""The same for a layer's array that needs no checks; and since half of the calls find what the other half drew, it
loses as much in each element as others in this share of one."""

_ALLOWED: Mapping[str | None, Sequence[str]] = {
    None: [*ENGINES],
    **{name: [*ENGINES][k:] for k, name in enumerate(ENGINES)},
}
"""The engine of a name, and those after it: from the fastest to the one that takes all."""

_AFTER_BLOCKED = frozenset(_ALLOWED["blocked"]) - {"blocked"}
_AFTER_COMPILED = frozenset(_ALLOWED["blocked"])

_engine_name: ContextVar[str | None] = ContextVar("the engine of Dropout", default=None)
"""The engine to use, by name; what it can't take, the next one does. None for the fastest that is worth its while."""

_drawn: Counter[str] = Counter()
"""The number of elements that NumPy has drawn, by dtype."""

_compilations: dict[tuple[str, str], Any] = {}
"""The loops that are compiled since that became worth its while, by kind and dtype."""


def on_engine(name: str | None, function: Callable[..., R], *inputs: Any, **arguments: Any) -> R:
    """What a function gives where its draws are made by the engine of this name; of None nothing is said."""
    if name is None:
        return function(*inputs, **arguments)
    context = copy_context()  # in which nothing has to be set back, whatever comes in between
    context.run(_engine_name.set, name)
    return context.run(function, *inputs, **arguments)


def _allowed(engine: str) -> bool:
    """Whether this engine is the one to use, or comes after it."""
    return engine in _ALLOWED[_engine_name.get()]


def numpy_draws(library: Library, like: Array) -> bool:
    """Whether numbers for such arrays are drawn by NumPy's calls."""
    return _allowed("blocked") and library.numpy_can_create(like)


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
        if not _allowed("cuda"):
            return None
        from anyoptim.random import _cuda  # noqa: PLC0415 - for those who have a device

        return _cuda.dropout(library, x, number, spec, out)
    a = library.numpy_bits(x) if _allowed("blocked") else None
    if a is None:
        return None
    y = (np.empty_like(a) if a is x else library.xp.empty_like(library.load(x))) if out is None else out
    b = a if y is x else library.numpy_bits(y)
    if b is None:
        return None
    if a.size:
        _run(library.dtype(x), a, b, spec)
    if out is not None:
        library.mark_written([out])
    return y


def fast_dropout(
    x: Any, threshold: int, scale: float, key: int, call: int, engine: str | None, ahead: Lookahead, in_place: bool
) -> NDArray | None:
    """Dropout from choice 0 on of a plain array that needs no checks, as a new one or in place; None for anything else.

    That is one whose loop is loaded, or one that NumPy's calls are for, with what is ahead of a layer's calls.
    """
    name = engine or _engine_name.get()
    if name not in _AFTER_COMPILED:
        y = _compiled.fast_dropout(x, threshold, scale, key, call, in_place)
        if y is not None:
            return y
    if name in _AFTER_BLOCKED or type(x) is not np.ndarray:
        return None
    dtype = _blocked.fast_dtype(x, threshold, call) if not in_place or x.flags.writeable else None
    if dtype is None or not (_first(name, dtype, x, x) or _refusal(x, x) is not None):
        return None
    _drawn[dtype] += FAST_CALLS + x.size // FAST_SHARE
    spec = MaskSpec(threshold, scale, key, call, 0)
    return _blocked.fast_dropout(dtype, x, spec, ahead.kept(spec, x.size), in_place)


def precompile(library: Library, x: Array) -> None:
    """Compile at once what arrays like this one need, if an engine compiles for them, and use it from now on.

    Raises ImportError where packages are missing.
    """
    number = library.cuda(x)
    if number is not None:
        check_engine("cuda")
        from anyoptim.random import _cuda  # noqa: PLC0415 - for those who have a device

        _cuda.precompile(library, x, number)
        return
    a = library.numpy_bits(x)
    if a is None:
        return
    check_engine("compiled")
    if _refusal(a, a) is None:
        dtype = library.dtype(x)
        _compiled.precompile(dtype, a)
        _drawn[dtype] = WORTHWHILE


def _run(dtype: str, x: NDArray, y: NDArray, spec: MaskSpec) -> None:
    if _first(_engine_name.get(), dtype, x, y) or _refusal(x, y) is not None:
        _blocked.dropout(dtype, x, y, spec)
        _drawn[dtype] += CALLS + x.size
    else:
        _compiled.dropout(dtype, x, y, spec)


def _first(name: str | None, dtype: str, x: NDArray, y: NDArray) -> bool:
    """Whether NumPy's calls come before compiled loops: until compiling has become worth its while, and is done."""
    if name in {"blocked", "compiled"} or _drawn[dtype] < WORTHWHILE:
        return name != "compiled"
    if ENGINES["compiled"].missing():
        return True
    key = _compiled.kind(dtype, x, y), dtype
    if key not in _compilations:
        from anyoptim._machine._elsewhere import Compilation  # noqa: PLC0415 - once in a training

        _compilations[key] = Compilation([_compiled.source(*key, place) for place in ("x", "y")])
    return not _compilations[key].done()


def _refusal(x: NDArray, y: NDArray) -> str | None:
    """Why compiled loops can't take these arrays, or None."""
    engine, refusal = ENGINES["compiled"], _compiled.refusal
    return engine.missing() or engine.broken() or refusal(x) or refusal(y)
