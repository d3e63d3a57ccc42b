"""The blocked engine: the traced rule as NumPy calls over blocks that stay in the cache, in place."""

from __future__ import annotations

import functools
import linecache
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import COMPUTE, quiet
from anyoptim._engines._leaf import Commit, Leaf, Result, Rule
from anyoptim._memory import near
from anyoptim._render import blocked
from anyoptim._trace import Scalar, evaluate, trace

__all__ = ["prepare", "takes"]

BLOCK = 1 << 16
"""Elements at a time. Less, and the calls cost more than the arithmetic; more, and scratch falls out of the cache."""

SHAPES = 4096
"""How many shapes of scratch to remember."""

Arrays = Sequence[np.ndarray[Any, Any]]


def takes(leaf: Leaf) -> bool:
    """Whether NumPy can read and write all arrays of the leaf, and the parameter is to be written where it lies."""
    return leaf.destination is not None and leaf.library.hosted(leaf.p) and leaf.library.hosted(leaf.x)


def prepare(rule: Rule, leaves: Sequence[Leaf]) -> Commit:
    """Trace what is new, evaluate the coefficients, and set gradients aside that lie in memory to be written."""
    rows: dict[tuple[int, Any], _Work] = {}
    steps = []
    with quiet():
        for leaf, x in zip(leaves, _apart(leaves), strict=True):
            key = id(leaf.coefficients), leaf.p.dtype
            if key not in rows:
                rows[key] = _work(rule, leaf)
            steps.append((rows[key], (leaf.p, x, *leaf.slots)))

    def commit() -> list[Result]:
        with quiet():
            for work, arrays in steps:
                if arrays[0].dtype.kind == "c":
                    # A complex parameter is two reals, and so is a gradient that was read from a complex one.
                    _run(work, [a.real for a in arrays])
                    _run(work, [a.imag for a in arrays])
                else:
                    _run(work, arrays)
        return [Result(leaf.p, leaf.slots) for leaf in leaves]

    return commit


class _Work(NamedTuple):
    """A kernel, for one compute dtype and one row of coefficients."""

    kernel: _Kernel
    dtype: np.dtype[Any]
    numbers: list[Any]


def _work(rule: Rule, leaf: Leaf) -> _Work:
    row = leaf.coefficients
    kernel = _kernel(
        rule, len(leaf.slots), tuple((k, c if isinstance(c, bool | str) else None) for k, c in row.items())
    )
    dtype = np.dtype(COMPUTE[leaf.library.dtype(leaf.p)])
    dtype = np.dtype(dtype.char.lower())  # of complex: of its parts
    return _Work(kernel, dtype, [dtype.type(evaluate(s, row)) for s in kernel.scalars])


class _Kernel(NamedTuple):
    call: Callable[..., None]
    scalars: tuple[Scalar, ...]
    temporaries: int
    masks: int


@functools.lru_cache(maxsize=256)
def _kernel(rule: Rule, slots: int, static: tuple[tuple[str, Any], ...]) -> _Kernel:
    """The rule, traced, written and compiled to Python: once for each set of static options."""
    options = {k: 0.0 if c is None else c for k, c in static}
    source = blocked(trace(rule, tuple(f"slot{i}" for i in range(slots)), options))
    namespace = {name: getattr(np, name) for name in _CALLS}
    file = f"<anyoptim blocked {source.name} {hash(source.text):x}>"
    # So that tracebacks and debuggers show the lines.
    linecache.cache[file] = (len(source.text), None, source.text.splitlines(keepends=True), file)
    exec(compile(source.text, file, "exec"), namespace)  # noqa: S102 - text of our own, from names that were checked
    kernel = _Kernel(namespace[source.name], source.scalars, source.temporaries, source.masks)
    # On no elements, so that what NumPy refuses it refuses now, and not when half of the parameters have moved.
    none, mask = np.empty(0), np.empty(0, bool)
    kernel.call(
        *[none] * (2 + slots), *[1.0] * len(kernel.scalars), *[none] * kernel.temporaries, *[mask] * kernel.masks
    )
    return kernel


_CALLS = (
    *("add", "subtract", "multiply", "divide", "negative", "sqrt", "absolute", "copyto"),
    *("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"),
    *("logical_and", "logical_or", "logical_not"),
)


def _apart(leaves: Sequence[Leaf]) -> list[np.ndarray[Any, Any]]:
    """The gradients, copied where another parameter's step might change them before they are read."""
    xs = [leaf.x for leaf in leaves]
    written = [a for leaf in leaves for a in (leaf.p, *leaf.slots)]
    if all(a.base is None for a in (*written, *xs)) and not {*map(id, written)} & {*map(id, xs)}:
        return xs  # each owns its memory, so that none is in another's
    memory = leaves[0].library.memory
    places = [m for a in written if a.size and (m := memory(a)) is not None]
    lies_there = near([m for x in xs if (m := memory(x)) is not None], places)
    return [x.copy() if there and x.size else x for x, there in zip(xs, lies_there, strict=True)]


def _run(work: _Work, arrays: Arrays) -> None:
    (call, _, temporaries, masks), dtype, numbers = work
    # Half precision is widened on load and rounded on store; a gradient of another dtype is cast on load.
    cast_p, cast_x = arrays[0].dtype != dtype, arrays[1].dtype != dtype
    for block in _blocks(arrays):
        scratch = _scratch(dtype, temporaries + cast_p + cast_x, masks, block[0].shape)
        if not (cast_p or cast_x):
            call(*block, *numbers, *scratch)
            continue
        p, x, *slots = block
        loaded = scratch[temporaries : temporaries + cast_p + cast_x]
        wide_p, wide_x = loaded[0] if cast_p else p, loaded[-1] if cast_x else x
        for a, wide in ((p, wide_p), (x, wide_x)):
            if wide is not a:
                np.copyto(wide, a, casting="same_kind")
        call(wide_p, wide_x, *slots, *numbers, *scratch[:temporaries], *scratch[temporaries + cast_p + cast_x :])
        if cast_p:
            np.copyto(p, wide_p, casting="same_kind")


def _blocks(arrays: Arrays) -> Iterable[Arrays]:
    """Cut arrays of one shape into blocks, along the memory of the first."""
    first = arrays[0]
    if first.size <= BLOCK:
        return (arrays,) if first.size else ()
    if first.flags.f_contiguous and not first.flags.c_contiguous:
        arrays = [a.T for a in arrays]
    if all(a.flags.c_contiguous for a in arrays):
        arrays = [a.reshape(-1) for a in arrays]
    return _cut(arrays)


def _cut(arrays: Arrays) -> Iterator[Arrays]:
    first = arrays[0]
    if first.size <= BLOCK:
        yield arrays
        return
    rows = BLOCK * len(first) // first.size
    if rows:
        for i in range(0, len(first), rows):
            yield [a[i : i + rows] for a in arrays]
    else:
        for i in range(len(first)):
            yield from _cut([a[i] for a in arrays])


class _Scratch(threading.local):
    """Arrays of one block, for each thread its own, kept from step to step, and views of them by shape."""

    def __init__(self) -> None:
        self.arrays: dict[np.dtype[Any], list[np.ndarray[Any, Any]]] = {}
        self.views: dict[Any, list[np.ndarray[Any, Any]]] = {}


_SCRATCH = _Scratch()


def _scratch(dtype: np.dtype[Any], temporaries: int, masks: int, shape: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
    key = dtype, temporaries, masks, shape
    found = _SCRATCH.views.get(key)
    if found is None:
        found = []
        for kind, count in ((dtype, temporaries), (np.dtype(bool), masks)):
            kept = _SCRATCH.arrays.setdefault(kind, [])
            kept += [np.empty(BLOCK, kind) for _ in range(count - len(kept))]
            found += [a[: math.prod(shape)].reshape(shape) for a in kept[:count]]
        if len(_SCRATCH.views) >= SHAPES:
            _SCRATCH.views.clear()
        _SCRATCH.views[key] = found
    return found
