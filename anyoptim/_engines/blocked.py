"""The blocked engine: the traced rules as NumPy calls over blocks that stay in the cache, in place."""

from __future__ import annotations

import functools
import linecache
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import COMPUTE, Array, host_memory, quiet, quietly
from anyoptim._engines import _pool
from anyoptim._engines._leaf import Again, Commit, Leaf, NDArray, Plan, Result, Rows, host
from anyoptim._engines._packs import packs
from anyoptim._memory import near
from anyoptim._program import Options, Program, Row, floats, options
from anyoptim._reduction import BLOCK as SUM
from anyoptim._reduction import block_sums
from anyoptim._render import UFUNCS, Source, blocked, blocked_measure
from anyoptim._trace import Scalar, trace, trace_measure, values

__all__ = ["Blocked", "refusal", "source"]

BLOCK = 1 << 16
"""Elements at a time. Less, and the calls cost more than the arithmetic; more, and scratch falls out of the cache."""

THREADED = 4
"""From how many blocks on threads share them out."""

LINE = 64
"""Bytes in a line of the cache."""

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
        self.packs = packs(leaves, self.arrays, self.dtypes, BLOCK)
        self.alone = [i for i, (p, *_) in enumerate(self.arrays) if p.size]
        slots = [leaf.slots for leaf in leaves]
        for pack in self.packs:
            for i, views in zip(pack.leaves, pack.views, strict=True):
                self.arrays[i][1:] = slots[i] = views
                self.alone.remove(i)
        self.results = [Result(leaf.p, of) for leaf, of in zip(leaves, slots, strict=True)]
        self.seen = [(a[0], a[0].dtype, a[0].shape, a[0].strides) for a in self.arrays]

    @property
    def written(self) -> Arrays:
        packed = [slot for pack in self.packs for slot in pack.slots]
        return [*(p for p, *_ in self.arrays), *(s for i in self.alone for s in self.arrays[i][1:]), *packed]

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

    def take(self, xs: Sequence[Array], row: Row) -> bool:
        return bool(quietly(super().take, xs, row))

    def gather(self, xs: Sequence[Array]) -> Sequence[NDArray]:
        return _set_apart([host(leaf.library, x) for leaf, x in zip(self.leaves, xs, strict=True)], self._forbidden)

    def squares(self, k: int, gathered: Sequence[NDArray], rows: Rows) -> list[NDArray]:
        return [
            _squares(work, [arrays[0], x, *arrays[1:]])
            for work, arrays, x in zip(self._works(k, rows), self.arrays, gathered, strict=True)
        ]

    def prepare(self, gathered: Sequence[NDArray], rows: Rows) -> Commit:
        works = self._works(None, rows)
        self.again = None
        if len(rows.distinct) == 1 and len({id(work) for work in works}) == 1 and all(map(floats, rows.distinct[0])):
            work = works[0]
            self.again = Again(rows.distinct[0], work.kernel.scalars, work.table, work.dtype, self._again(work))

        def commit() -> Sequence[Result]:
            self._run(works, gathered)
            self.touch()
            return self.results

        return commit

    def _run(self, works: Sequence[_Work], gathered: Sequence[NDArray]) -> None:
        alone = self.alone
        for pack in self.packs:
            work = works[pack.leaves[0]]
            if all(works[i] is work for i in pack.leaves):
                pack.load(gathered)
                work.kernel.call(*work.arguments(pack.p, pack.x, *pack.slots))
                pack.store()
            else:  # they have several rows of coefficients
                alone = [*alone, *pack.leaves]
        _blockwise([(works[i], *block) for i in alone for block in _blocks(self.arrays[i], gathered[i])])

    def _again(self, work: _Work) -> Callable[[Sequence[NDArray]], None]:
        """The same for one row and such gradients as `quick` lets pass, with everything laid ready."""
        thread = threading.get_ident()  # whose scratch it is
        call = work.kernel.call
        packed = [(pack, work.arguments(pack.p, pack.x, *pack.slots)) for pack in self.packs]
        whole, rest = [], []
        for i in self.alone:
            p, *slots = self.arrays[i]
            if p.dtype is work.dtype and p.size <= BLOCK:
                whole.append((i, p, work.arguments(p, p, *slots)[2:]))
            else:
                rest.append(i)

        def run(gathered: Sequence[NDArray]) -> None:
            if threading.get_ident() != thread:
                self._run([work] * len(gathered), gathered)
                return
            for pack, arguments in packed:
                pack.load(gathered)
                call(*arguments)
                pack.store()
            for i, p, arguments in whole:
                call(p, gathered[i], *arguments)
            if rest:
                _blockwise([(work, *block) for i in rest for block in _blocks(self.arrays[i], gathered[i])])

        return run

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

    def arguments(self, *arrays: NDArray) -> list[NDArray]:
        """What the kernel is called with for one block of p, x and the slots, all of it in the compute dtype."""
        kernel = self.kernel
        return [*arrays, *self.numbers, *_scratch(self.dtype, kernel.temporaries, kernel.masks, arrays[0].shape)]


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


def _blockwise(blocks: Sequence[tuple[_Work, NDArray, NDArray, Arrays]]) -> None:
    if len(blocks) < THREADED:
        for each in blocks:
            _block(*each)
    else:
        _pool.spread(_block, blocks)


def _block(work: _Work, p: NDArray, x: NDArray, slots: Arrays) -> None:
    """One block, in whatever thread. Half precision is widened and rounded again; a gradient of another dtype cast."""
    with quiet():
        wide_p, wide_x = _scratch(work.dtype, 2, 0, p.shape, "cast")
        for wide, a in ((wide_p, p), (wide_x, x)):
            if a.dtype != work.dtype:
                np.copyto(wide, a, casting="same_kind")
        narrow = p.dtype != work.dtype
        arrays = (wide_p if narrow else p, wide_x if x.dtype != work.dtype else x, *slots)
        work.kernel.call(*work.arguments(*arrays))
        if narrow:
            np.copyto(p, wide_p, casting="same_kind")


def _squares(work: _Work, arrays: Arrays) -> NDArray:
    """The block sums of one parameter; `arrays` are p, x and the slots."""
    parts = 2 if arrays[0].dtype.kind == "c" else 1
    n = arrays[0].size * parts
    sums = np.empty(-(-n // SUM))
    for begin in range(0, n, BLOCK):
        stop = min(begin + BLOCK, n)
        a = work.kernel.call(*work.arguments(*(_flat(a, begin // parts, stop // parts, work.dtype) for a in arrays)))
        (wide,) = _scratch(np.dtype(np.float64), 1, 0, (stop - begin,))
        np.multiply(a, a, out=wide, dtype=np.float64)
        sums[begin // SUM : -(-stop // SUM)] = block_sums(np, wide)
    return sums


def _flat(a: NDArray, begin: int, stop: int, dtype: np.dtype[Any]) -> NDArray:
    """Some elements in logical C order, cast to `dtype`; complex ones as their two parts."""
    some = a.reshape(-1)[begin:stop] if a.flags.c_contiguous else a.flat[begin:stop]
    return (some.view(some.real.dtype) if some.dtype.kind == "c" else some).astype(dtype, copy=False)


def _blocks(own: Arrays, x: NDArray) -> Iterator[tuple[NDArray, NDArray, Arrays]]:
    """Cut a parameter and its slots into blocks, along its memory; a complex one, with its gradient, is two reals."""
    p, *slots = own
    if p.dtype.kind == "c":
        yield from _blocks([a.real for a in own], x.real)
        yield from _blocks([a.imag for a in own], x.imag)
        return
    arrays = [p, x, *slots]
    if p.flags.f_contiguous and not p.flags.c_contiguous:
        arrays = [a.T for a in arrays]
    if all(a.flags.c_contiguous for a in arrays):
        arrays = [a.reshape(-1) for a in arrays]
    for block in _cut(arrays):
        yield block[0], block[1], block[2:]


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
        self.arrays: dict[Any, list[NDArray]] = {}
        self.views: dict[Any, list[NDArray]] = {}


_SCRATCH = _Scratch()


def _scratch(
    dtype: np.dtype[Any], temporaries: int, masks: int, shape: tuple[int, ...], use: str = "rule"
) -> list[NDArray]:
    """Arrays of this shape, of this dtype and of booleans; for each use others."""
    key = dtype, temporaries, masks, shape, use
    found = _SCRATCH.views.get(key)
    if found is None:
        found = []
        for kind, count in ((dtype, temporaries), (np.dtype(bool), masks)):
            kept = _SCRATCH.arrays.setdefault((kind, use), [])
            kept += [_aligned(BLOCK, kind) for _ in range(count - len(kept))]
            found += [a[: math.prod(shape)].reshape(shape) for a in kept[:count]]
        if len(_SCRATCH.views) >= SHAPES:
            _SCRATCH.views.clear()
        _SCRATCH.views[key] = found
    return found


def _aligned(n: int, dtype: np.dtype[Any]) -> NDArray:
    """An array that begins with a line of the cache, which is worth a twentieth of the time."""
    whole = np.empty(n * dtype.itemsize + LINE, np.uint8)
    begin = -host_memory(whole).address % LINE
    return whole[begin : begin + n * dtype.itemsize].view(dtype)
