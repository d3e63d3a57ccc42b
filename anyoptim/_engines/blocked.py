"""The blocked engine: the traced rule as NumPy calls over blocks that stay in the cache, in place."""

from __future__ import annotations

import functools
import linecache
import threading
from collections.abc import Callable, Iterator, Sequence
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

Arrays = Sequence[np.ndarray[Any, Any]]


def takes(leaf: Leaf) -> bool:
    """Whether all arrays of the leaf lie in memory that NumPy sees, and the parameter is to be written there."""
    arrays = (leaf.p, leaf.x, *leaf.slots)
    return leaf.destination is not None and all(leaf.library.host(a) is not None for a in arrays)


def prepare(rule: Rule, leaves: Sequence[Leaf]) -> Commit:
    """Trace what is new, evaluate the coefficients, and set gradients aside that lie in memory to be written."""
    steps = []
    rows: dict[int, tuple[_Kernel, list[float | bool]]] = {}
    for leaf, x in zip(leaves, _apart(leaves), strict=True):
        if id(leaf.coefficients) not in rows:
            static = tuple((k, c if isinstance(c, bool | str) else None) for k, c in leaf.coefficients.items())
            kernel = _kernel(rule, len(leaf.slots), static)
            rows[id(leaf.coefficients)] = kernel, [evaluate(s, leaf.coefficients) for s in kernel.scalars]
        steps.append((*rows[id(leaf.coefficients)], leaf, x))

    def commit() -> list[Result]:
        with quiet():
            for kernel, scalars, leaf, x in steps:
                for p, g, *slots in _reals(leaf, x):
                    _run(kernel, scalars, p, g, slots)
        return [Result(leaf.p, leaf.slots) for leaf in leaves]

    return commit


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
    return _Kernel(namespace[source.name], source.scalars, source.temporaries, source.masks)


_CALLS = (
    *("add", "subtract", "multiply", "divide", "negative", "sqrt", "absolute", "copyto"),
    *("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"),
    *("logical_and", "logical_or", "logical_not"),
)


def _apart(leaves: Sequence[Leaf]) -> list[np.ndarray[Any, Any]]:
    """The gradients, copied where another parameter's step would change them before they are read."""
    ps, xs = [leaf.p for leaf in leaves], [leaf.x for leaf in leaves]
    if all(a.base is None for a in (*ps, *xs)) and not {*map(id, ps)} & {*map(id, xs)}:
        return xs  # each owns its memory, so that none is in another's
    memories = [(leaf.library.memory(leaf.p), leaf.library.memory(leaf.x)) for leaf in leaves]
    written = [p for p, _ in memories if p is not None]
    return [x.copy() if m is not None and near(m, written) else x for x, (_, m) in zip(xs, memories, strict=True)]


def _reals(leaf: Leaf, x: np.ndarray[Any, Any]) -> list[Arrays]:
    """The arrays of a leaf; of a complex one the real parts, then the imaginary parts."""
    if leaf.p.dtype.kind != "c":
        return [(leaf.p, x, *leaf.slots)]
    arrays = (leaf.p, x.astype(leaf.p.dtype, copy=False), *leaf.slots)
    return [[a.real for a in arrays], [a.imag for a in arrays]]


def _run(
    kernel: _Kernel, scalars: Sequence[float | bool], p: np.ndarray[Any, Any], x: np.ndarray[Any, Any], slots: Arrays
) -> None:
    dtype = np.dtype(COMPUTE[p.dtype.name])
    numbers = [dtype.type(s) for s in scalars]
    # Half precision is widened on load and rounded on store; a gradient of another dtype is cast on load.
    casts = [a.dtype != dtype for a in (p, x)]
    for block in _blocks((p, x, *slots)):
        shape = block[0].shape
        scratch = _scratch(dtype, kernel.temporaries + sum(casts), kernel.masks, shape)
        temporaries, masks = scratch[: kernel.temporaries], scratch[kernel.temporaries + sum(casts) :]
        loaded = iter(scratch[kernel.temporaries :])
        wide = [next(loaded) if cast else a for a, cast in zip(block, casts, strict=False)]
        for a, to, cast in zip(block, wide, casts, strict=False):
            if cast:
                np.copyto(to, a, casting="same_kind")
        kernel.call(*wide, *block[2:], *numbers, *temporaries, *masks)
        if casts[0]:
            np.copyto(block[0], wide[0], casting="same_kind")


def _blocks(arrays: Arrays) -> Iterator[Arrays]:
    """Cut arrays of one shape into blocks, along the memory of the first."""
    if arrays[0].ndim > 1:
        if arrays[0].flags.f_contiguous and not arrays[0].flags.c_contiguous:
            arrays = [a.T for a in arrays]
        if all(a.flags.c_contiguous for a in arrays):
            arrays = [a.reshape(-1) for a in arrays]
    return _cut(arrays)


def _cut(arrays: Arrays) -> Iterator[Arrays]:
    first = arrays[0]
    if first.size <= BLOCK:
        if first.size:
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
    """Arrays of one block, for each thread its own, kept from step to step."""

    def __init__(self) -> None:
        self.arrays: dict[np.dtype[Any], list[np.ndarray[Any, Any]]] = {}


_SCRATCH = _Scratch()


def _scratch(dtype: np.dtype[Any], temporaries: int, masks: int, shape: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
    size = 1
    for n in shape:
        size *= n
    found = []
    for kind, count in ((dtype, temporaries), (np.dtype(bool), masks)):
        kept = _SCRATCH.arrays.setdefault(kind, [])
        while len(kept) < count:
            kept.append(np.empty(BLOCK, kind))
        found += [a[:size].reshape(shape) if len(shape) != 1 else a[:size] for a in kept[:count]]
    return found
