"""The blocked engine: the traced rules as NumPy calls over blocks that stay in the cache, in place."""

from __future__ import annotations

import functools
import linecache
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import COMPUTE, Array, host_memory
from anyoptim._engines._leaf import Commit, Leaf, NDArray, Plan, Result, Rows, host
from anyoptim._memory import near
from anyoptim._program import Options, Program, Row, options
from anyoptim._reduction import BLOCK as SUM
from anyoptim._reduction import block_sums
from anyoptim._render import UFUNCS, Source, blocked, blocked_measure
from anyoptim._trace import Scalar, trace, trace_measure, values

__all__ = ["Blocked", "refusal", "source"]

BLOCK = 1 << 16
"""Elements at a time. Less, and the calls cost more than the arithmetic; more, and scratch falls out of the cache."""

SHAPES = 4096
"""How many shapes of scratch to remember."""

Arrays = Sequence[NDArray]


def refusal(leaf: Leaf, x: Array) -> str | None:
    """Why the engine can't take this leaf with such a gradient, or None."""
    if leaf.destination is None:
        return "it can't be written to"
    if leaf.library.host(leaf.p) is None or leaf.library.host(x) is None:
        return f"NumPy can't read and write {leaf.library.name} arrays of dtype {leaf.library.dtype(leaf.p)}"
    return None


class Blocked(Plan):
    """Takes arrays that NumPy can read and write, where the parameter is to be written where it lies."""

    lasting = True

    def __init__(self, program: Program, leaves: Sequence[Leaf]) -> None:
        super().__init__(program, leaves)
        self.arrays = [[host(leaf.library, a) for a in (leaf.p, *leaf.slots)] for leaf in leaves]
        # Of complex arrays: of their parts.
        self.dtypes = [np.dtype(np.dtype(COMPUTE[leaf.library.dtype(leaf.p)]).char.lower()) for leaf in leaves]
        self.kinds = list(dict.fromkeys(self.dtypes))
        self.works: dict[Any, _Work] = {}
        self.results = [Result(leaf.p, leaf.slots) for leaf in leaves]
        self.seen = [(a[0], a[0].dtype, a[0].shape, a[0].strides) for a in self.arrays]

    @property
    def written(self) -> Arrays:
        return [a for of in self.arrays for a in of]

    def keep_off(self, written: Arrays) -> None:
        super().keep_off(written)
        self._forbidden_ids = {id(a) for a in written}
        # Arrays that own their memory are in nobody else's.
        owners = all(a.base is None for a in written)
        same = all(leaf.destination is a[0] for leaf, a in zip(self.leaves, self.arrays, strict=True))
        self._simple = owners and same

    def quick(self, xs: Sequence[Array]) -> Sequence[NDArray] | None:
        if not self._simple:
            return None
        array = np.ndarray
        for (p, dtype, shape, strides), x in zip(self.seen, xs, strict=True):
            if (
                type(x) is not array
                or x.dtype is not dtype
                or x.shape != shape
                or x.base is not None
                or p.shape != shape
                or p.strides != strides
                or p.dtype is not dtype
                or not p.flags.writeable
            ):
                return None
        return xs if self._forbidden_ids.isdisjoint(map(id, xs)) else None

    def gather(self, xs: Sequence[Array]) -> Sequence[NDArray]:
        return _set_apart([host(leaf.library, x) for leaf, x in zip(self.leaves, xs, strict=True)], self._forbidden)

    def squares(self, k: int, gathered: Sequence[NDArray], rows: Rows) -> list[NDArray]:
        return [
            _squares(work, [arrays[0], x, *arrays[1:]])
            for work, arrays, x in zip(self._works(k, rows), self.arrays, gathered, strict=True)
        ]

    def prepare(self, gathered: Sequence[NDArray], rows: Rows) -> Commit:
        works = self._works(None, rows)

        def commit() -> Sequence[Result]:
            for work, arrays, x in zip(works, self.arrays, gathered, strict=True):
                _step(work, arrays, x)
            self.touch()
            return self.results

        return commit

    def _works(self, k: int | None, rows: Rows) -> list[_Work]:
        """For each leaf the kernel and its numbers."""
        if len(rows.distinct) == 1 and len(self.kinds) == 1:
            return [self._work(k, 0, rows.distinct[0], self.kinds[0])] * len(self.leaves)
        works = {(i, d): self._work(k, i, row, d) for i, row in enumerate(rows.distinct) for d in self.kinds}
        return [works[key] for key in zip(rows.which, self.dtypes, strict=True)]

    def _work(self, k: int | None, i: int, row: Row, dtype: np.dtype[Any]) -> _Work:
        """What row `i` needs; made once, with other numbers at every step."""
        key = k, options(row), i, dtype
        work = self.works.get(key)
        if work is None:
            kernel = _kernel(self.program, k, key[1])
            table = np.empty(len(kernel.scalars), dtype)
            # As arrays of no dimension, which NumPy takes in half the time of a Python or NumPy number.
            work = self.works[key] = _Work(kernel, dtype, table, [table[j, ...] for j in range(len(table))])
        work.table[...] = values(work.kernel.scalars, row, dtype)
        return work


def source(program: Program, k: int | None, row: Row) -> str:
    """The text of the step, or of what part `k` measures."""
    return _source(program, k, options(row)).text


def _set_apart(xs: Arrays, written: Arrays) -> Arrays:
    """The gradients, copied where another parameter's step might change them before they are read."""
    if all(a.base is None for a in (*written, *xs)) and not {*map(id, written)} & {*map(id, xs)}:
        return xs  # each owns its memory, so that none is in another's
    there = iter(near([host_memory(x) for x in xs if x.size], [host_memory(a) for a in written if a.size]))
    return [x.copy() if x.size and next(there) else x for x in xs]


class _Kernel(NamedTuple):
    call: Callable[..., Any]
    scalars: tuple[Scalar, ...]
    temporaries: int
    masks: int


class _Work(NamedTuple):
    """A kernel, for one compute dtype and one row of coefficients."""

    kernel: _Kernel
    dtype: np.dtype[Any]
    table: NDArray
    numbers: Arrays
    """Views of the elements of the table."""


def _source(program: Program, k: int | None, static: Options) -> Source:
    return blocked(trace(program, static)) if k is None else blocked_measure(trace_measure(program, k, static))


@functools.lru_cache(maxsize=256)
def _kernel(program: Program, k: int | None, static: Options) -> _Kernel:
    """The rules, traced, written and compiled to Python: once for each set of static options."""
    source = _source(program, k, static)
    namespace = {name: getattr(np, name) for name in UFUNCS}
    file = f"<anyoptim blocked {source.name} {hash(source.text):x}>"
    # So that tracebacks and debuggers show the lines.
    linecache.cache[file] = (len(source.text), None, source.text.splitlines(keepends=True), file)
    exec(compile(source.text, file, "exec"), namespace)  # noqa: S102 - text of our own, from names that were checked
    kernel = _Kernel(namespace[source.name], source.scalars, source.temporaries, source.masks)
    # On no elements, so that what NumPy refuses it refuses now, and not when half of the parameters have moved.
    none, mask = np.empty(0), np.empty(0, bool)
    kernel.call(
        *[none] * (2 + program.slots),
        *[1.0] * len(kernel.scalars),
        *[none] * kernel.temporaries,
        *[mask] * kernel.masks,
    )
    return kernel


def _step(work: _Work, arrays: Arrays, x: NDArray) -> None:
    """The step of one parameter: `arrays` are p and its slots."""
    p = arrays[0]
    kernel, dtype, _, numbers = work
    if p.dtype is dtype and x.dtype is dtype and p.size <= BLOCK:
        if p.size:
            scratch = _scratch(dtype, kernel.temporaries, kernel.masks, p.shape)
            kernel.call(p, x, *arrays[1:], *numbers, *scratch)
    elif p.dtype.kind == "c":
        # A complex parameter is two reals, and so is a gradient that was read from a complex one.
        _run(work, [p.real, x.real, *(s.real for s in arrays[1:])])
        _run(work, [p.imag, x.imag, *(s.imag for s in arrays[1:])])
    else:
        _run(work, [p, x, *arrays[1:]])


def _run(work: _Work, arrays: Arrays) -> None:
    kernel, dtype, _, numbers = work
    # Half precision is widened on load and rounded on store; a gradient of another dtype is cast on load.
    cast_p, cast_x = arrays[0].dtype != dtype, arrays[1].dtype != dtype
    for p, x, *slots in _blocks(arrays):
        scratch = _scratch(dtype, kernel.temporaries + cast_p + cast_x, kernel.masks, p.shape)
        loaded, scratch = scratch[: cast_p + cast_x], scratch[cast_p + cast_x :]
        wide_p, wide_x = loaded[0] if cast_p else p, loaded[-1] if cast_x else x
        for a, wide in ((p, wide_p), (x, wide_x)):
            if wide is not a:
                np.copyto(wide, a, casting="same_kind")
        kernel.call(wide_p, wide_x, *slots, *numbers, *scratch)
        if cast_p:
            np.copyto(p, wide_p, casting="same_kind")


def _squares(work: _Work, arrays: Arrays) -> NDArray:
    """The block sums of one parameter; `arrays` are p, x and the slots."""
    kernel, dtype, _, numbers = work
    parts = 2 if arrays[0].dtype.kind == "c" else 1
    n = arrays[0].size * parts
    sums = np.empty(-(-n // SUM))
    for begin in range(0, n, BLOCK):
        stop = min(begin + BLOCK, n)
        read = [_flat(a, begin // parts, stop // parts, dtype) for a in arrays]
        scratch = _scratch(dtype, kernel.temporaries, kernel.masks, (stop - begin,))
        a = kernel.call(*read, *numbers, *scratch)
        (wide,) = _scratch(np.dtype(np.float64), 1, 0, (stop - begin,))
        np.multiply(a, a, out=wide, dtype=np.float64)
        sums[begin // SUM : -(-stop // SUM)] = block_sums(np, wide)
    return sums


def _flat(a: NDArray, begin: int, stop: int, dtype: np.dtype[Any]) -> NDArray:
    """Some elements in logical C order, cast to `dtype`; complex ones as their two parts."""
    some = a.reshape(-1)[begin:stop] if a.flags.c_contiguous else a.flat[begin:stop]
    return (some.view(some.dtype.char.lower()) if some.dtype.kind == "c" else some).astype(dtype, copy=False)


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
