"""The compiled engine: the traced rules as one Numba loop over all parameters, in place."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import COMPUTE, Array, host_memory
from anyoptim._arrays._memory import merged_ranges
from anyoptim._engines import _threads
from anyoptim._engines._base import CoefficientTable, Commit, Leaf, NDArray, Plan, Replay, Result, Written, viewed
from anyoptim._engines.compiled import _array_headers, _kernel_cache
from anyoptim._engines.compiled._array_headers import BYTES, FIRST, MIRROR, ORDER, PARAMETER
from anyoptim._engines.compiled._source import Loop, loop, loop_measure
from anyoptim._trace._expressions import Scalars
from anyoptim._trace._graph import trace, trace_measure
from anyoptim._trace._program import Coefficients, Program, StaticOptions, all_floats, static_options
from anyoptim._trace._reduction import BLOCK as SUM

__all__ = ["Compiled", "broken", "load", "missing", "refusal", "source"]

CHUNK = 1 << 16
"""Elements in a chunk; whole blocks of the reduction."""

PIECE = 1 << 19
"""The fewest elements that are worth a thread's while."""

PIECES = 4
"""Into how many pieces a thread's share is cut, so that a slow thread leaves some to the others."""


@functools.cache
def missing() -> str | None:
    """Why there is no compiling, as far as can be told without importing anything; or None."""
    return None if importlib.util.find_spec("numba") else "numba can't be found (pip install 'anyoptim[fast]')"


@functools.cache
def broken() -> str | None:
    """The same, having tried it: a Numba may be too old for the NumPy beside it, or have no right to make code."""
    try:
        jitted = importlib.import_module("anyoptim._engines.compiled._intrinsics")
    except Exception as error:
        return missing() or f"Numba can't be imported: {error}"
    if not hasattr(jitted.alike, "py_func"):
        return "Numba is switched off (NUMBA_DISABLE_JIT)"
    try:
        _no_overlap()
    except Exception as error:
        return f"Numba can't compile: {error}"
    return None


def refusal(program: Program, leaf: Leaf, x: Array) -> str | None:
    """Why the engine can't take this leaf with such a gradient, which the blocked engine can take; or None."""
    p, g, *slots = (viewed(leaf.library, a) for a in (leaf.p, x, *leaf.slots))
    if p.dtype.name != COMPUTE[p.dtype.name] or not p.dtype.isnative:
        return f"its dtype {p.dtype} is cast on load"
    if g.dtype != p.dtype:
        return f"its gradient has another dtype, {g.dtype}"
    orders = {*_orders([p, *slots])}
    if program.measures:
        orders &= {"C"}  # a measure goes by logical order
    if not orders:
        return "it isn't contiguous in C order" if program.measures else "it isn't contiguous"
    if not orders & {*_orders([g])}:
        return "its gradient isn't contiguous in the same order"
    return None


def _orders(arrays: Sequence[Any]) -> list[str]:
    """The memory orders in which all of these are contiguous."""
    found = []
    if all(a.flags.c_contiguous and a.flags.aligned for a in arrays):
        found.append("C")
    if all(a.flags.f_contiguous and a.flags.aligned for a in arrays):
        found.append("F")
    return found


class Compiled(Plan):
    """Takes contiguous arrays of one dtype and one library that lie in this machine's memory."""

    lasting = True

    def __init__(self, program: Program, leaves: Sequence[Leaf]) -> None:
        super().__init__(program, leaves)
        self.library = leaves[0].library
        # Arrays of our own, on the same memory: whatever becomes of the user's, they stay as they are.
        self.hosts = hosts = [[viewed(self.library, a).view() for a in (leaf.p, *leaf.slots)] for leaf in leaves]
        self.dtype = np.dtype(hosts[0][0].dtype.char.lower())
        self.results = [Result(leaf.p, leaf.slots) for leaf in leaves]
        self.destinations: list[Array] = [leaf.destination for leaf in leaves]
        self.memories = [self.library.memory(d) for d in self.destinations]
        self.dtypes = [d.dtype for d in self.destinations]
        self.mirrors = [of[0] for of in self.hosts]
        parts = 2 if hosts[0][0].dtype.kind == "c" else 1
        lengths = [of[0].size * parts for of in hosts]
        self.table = table = np.zeros((len(leaves), FIRST + 2 + program.slots), np.uint64)
        table[:, PARAMETER], table[:, MIRROR] = _ids(self.destinations), _ids(self.mirrors)
        # C order where an array has both: a gradient that has one of them then has that.
        table[:, ORDER] = [_array_headers.C if "C" in _orders(of) else _array_headers.F for of in self.hosts]
        table[:, BYTES] = [n * self.dtype.itemsize for n in lengths]
        for i, (p, *slots) in enumerate(self.hosts):
            table[i, FIRST] = _address(p)
            table[i, FIRST + 2 :] = [_address(s) for s in slots]
        self.chunks, self.blocks = _chunks(lengths)
        self.pieces = _pieces(self.chunks)
        self.first_row = np.zeros(len(leaves), np.int64)
        self.ids = np.zeros(len(leaves), np.uint64)
        self.put_ids = functools.partial(Struct(f"{len(leaves)}Q").pack_into, memoryview(self.ids.data).cast("B"), 0)
        self.by_header = _array_headers.reliable() and all(
            type(d) is np.ndarray and type(m) is np.ndarray
            for d, m in zip(self.destinations, self.mirrors, strict=True)
        )

    @property
    def written(self) -> Written:
        return Written([a for of in self.hosts for a in of])

    def avoid_aliasing(self, written: Written) -> None:
        super().avoid_aliasing(written)
        stretches = merged_ranges([host_memory(a) for a in written.here if a.size])
        self.forbidden = np.array(stretches, np.uint64).T.copy()

    def quick(self, xs: Sequence[Array]) -> Sequence[Array] | None:
        if self.by_header:
            return xs if _alike()(self.table, _ids(xs), self.forbidden) else None
        leaves = zip(self.destinations, self.memories, self.dtypes, self.table[:, ORDER], xs, strict=True)
        for i, (d, memory, dtype, order, x) in enumerate(leaves):
            same = d.dtype is dtype and self.library.unchanged(d, memory) and self.library.is_plain_gradient(x, d)
            same = same and order == _array_headers.C
            address = self.library.address(x) if same else None
            if address is None:
                return None
            self.table[i, FIRST + 1] = address
        return xs if _no_overlap()(self.table, self.forbidden) else None

    def replay(self, xs: Sequence[Array], row: Coefficients) -> bool:
        again, grads = self.last_step, _NONE
        if again is None or not again.set(row):
            return False
        if self.by_header:
            self.put_ids(*map(id, xs))  # which the kernel looks at, so that there is one call in all
            grads = self.ids
        elif self.quick(xs) is None:
            return False
        if not again.run(self, grads):
            return False
        self.touch()
        return True

    def gather(self, xs: Sequence[Array]) -> Sequence[NDArray]:
        views = [viewed(self.library, x) for x in xs]
        self.table[:, FIRST + 1] = [_address(x) for x in views]
        if not _no_overlap()(self.table, self.forbidden):
            for i, x in enumerate(views):
                if not _no_overlap()(self.table[i : i + 1], self.forbidden):
                    views[i] = x.copy(order="K")
                    self.table[i, FIRST + 1] = _address(views[i])
        return views

    def squares(self, k: int, gathered: Sequence[Any], rows: CoefficientTable) -> list[NDArray]:
        sums = np.empty(self.blocks[-1])
        for kernel, _, tables, pieces in self._calls(k, rows):
            _threads.spread(functools.partial(kernel.call, *tables, sums), pieces)
        return [sums[a:b] for a, b in itertools.pairwise(self.blocks)]

    def prepare(self, gathered: Sequence[Any], rows: CoefficientTable) -> Commit:
        calls = self._calls(None, rows)
        self.last_step = None
        if len(rows.distinct) == 1 and all(map(all_floats, rows.distinct[0])):
            (call,) = calls
            run = functools.partial(_taken, call)
            self.last_step = Replay(rows.distinct[0], call.kernel.scalars, self.dtype, call.coefficients[0], run)

        def commit() -> Sequence[Result]:
            for call in calls:
                self._run(call, _NONE)
            self.touch()
            return self.results

        return commit

    def _run(self, call: _Call, grads: NDArray) -> bool:
        """Take the step, if there are no ids of gradients or these are as expected; and whether it was taken."""
        kernel, _, tables, pieces = call
        if len(pieces) == 1:
            return kernel.call(grads, self.forbidden, *tables, *pieces[0])
        if not kernel.call(grads, self.forbidden, *tables, 0, 0):
            return False
        _threads.spread(functools.partial(kernel.call, _NONE, self.forbidden, *tables), pieces)
        return True

    def _calls(self, k: int | None, rows: CoefficientTable) -> list[_Call]:
        """The calls of the kernels, one for each set of static options, with their part of the tables."""
        static = [static_options(row) for row in rows.distinct]
        which = np.array(rows.row_of_leaf, np.int64) if len(static) > 1 else self.first_row
        calls = []
        for key in dict.fromkeys(static):
            kernel = load(self.program, k, key, self.dtype.name)
            chunks, pieces = self.chunks, self.pieces
            if static.count(key) < len(static):
                chunks = chunks[[static[which[leaf]] == key for leaf in chunks[:, 0]]]
                pieces = _pieces(chunks)
            coefficients = np.zeros((len(static), len(kernel.scalars)))
            for i, row in enumerate(rows.distinct):
                if static[i] == key:  # the others stand there for the numbering, and are not read
                    coefficients[i] = kernel.scalars.values(row, self.dtype)
            calls.append(_Call(kernel, coefficients, (self.table, chunks, which, coefficients), pieces))
        return calls


class _Kernel(NamedTuple):
    call: Callable[..., bool]
    scalars: Scalars


class _Call(NamedTuple):
    """A kernel and its arguments."""

    kernel: _Kernel
    coefficients: NDArray
    tables: tuple[NDArray, ...]
    pieces: Sequence[tuple[int, int]]


def _taken(call: _Call, plan: Compiled, grads: NDArray) -> bool:
    return plan._run(call, grads)


_NONE = np.zeros(0, np.uint64)


@functools.cache
def _alike() -> Callable[..., bool]:
    """`alike(leaves, grads, written)`."""
    return _own("alike", "leaves, grads, written", "boolean(uint64[:, ::1], uint64[::1], uint64[:, ::1])")


@functools.cache
def _no_overlap() -> Callable[..., bool]:
    """`no_overlap(leaves, written)`."""
    return _own("no_overlap", "leaves, written", "boolean(uint64[:, ::1], uint64[:, ::1])")


def _own(name: str, arguments: str, signature: str) -> Callable[..., bool]:
    """A function of `_intrinsics`, kept like a kernel."""
    text = f"from anyoptim._engines.compiled import _intrinsics\n\n\ndef {name}({arguments}):\n"
    return _kernel_cache.compiled(name, f"{text}    return _intrinsics.{name}({arguments})\n", signature)


@functools.lru_cache(maxsize=256)
def load(program: Program, k: int | None, static: StaticOptions, dtype: str) -> _Kernel:
    """The machine code of the step, or of what part `k` measures."""
    text = _source(program, k, static, dtype)
    return _Kernel(_kernel_cache.compiled(text.name, text.text, text.signature), text.scalars)


def source(program: Program, k: int | None, row: Coefficients, dtype: str) -> str:
    """The text of the step, or of what part `k` measures."""
    return _source(program, k, static_options(row), dtype).text


def _source(program: Program, k: int | None, static: StaticOptions, dtype: str) -> Loop:
    return loop(trace(program, static), dtype) if k is None else loop_measure(trace_measure(program, k, static), dtype)


def _ids(objects: Sequence[Any]) -> NDArray:
    return np.fromiter(map(id, objects), np.uint64, len(objects))


def _address(a: NDArray) -> int:
    address: int = a.__array_interface__["data"][0]
    return address


def _chunks(lengths: Sequence[int]) -> tuple[NDArray, list[int]]:
    """For each chunk its leaf, its first element, its length and its first block; and the first block of each leaf."""
    chunks = []
    blocks = [0]
    for leaf, n in enumerate(lengths):
        chunks += [(leaf, begin, min(CHUNK, n - begin), blocks[-1] + begin // SUM) for begin in range(0, n, CHUNK)]
        blocks.append(blocks[-1] - (-n // SUM))
    return np.array(chunks, np.int64).reshape(-1, 4), blocks


def _pieces(chunks: NDArray) -> list[tuple[int, int]]:
    """Runs of chunks for threads to take: a few for each, of about as many elements."""
    ends = np.cumsum(chunks[:, 2])
    total = int(ends[-1]) if len(ends) else 0
    number = min(total // PIECE, _threads.threads() * PIECES) if _threads.threads() > 1 else 1
    if number < 2:
        return [(0, len(chunks))]
    cuts = np.searchsorted(ends, np.arange(1, number) * (total / number)) + 1
    bounds = [0, *dict.fromkeys(cuts.tolist()), len(chunks)]
    return [(a, b) for a, b in itertools.pairwise(bounds) if a < b]
