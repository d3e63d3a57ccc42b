"""The CUDA engine: the traced rules as CUDA C, one launch a step for all parameters of a device and dtype, in place."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from anyoptim._arrays import Array
from anyoptim._engines._device import device
from anyoptim._engines._launches import Gathered, Owned, Pass
from anyoptim._engines._leaf import Again, Commit, Leaf, NDArray, Plan, Result, Rows, Written
from anyoptim._memory import ANY, Memory, merged, order
from anyoptim._program import Program, Row, floats, options
from anyoptim._reduction import power_of_two
from anyoptim._render._elements import ELEMENTS
from anyoptim._render._programs import kernel_of
from anyoptim._render._tables import chunk_map
from anyoptim._render.cuda import REDUCTION
from anyoptim._trace import symbol

__all__ = ["Cuda", "broken", "device", "missing", "ready", "refusal"]

HALVERS, HALVING = 32, 1024
"""Blocks of threads that share the first halvings of a long reduction, and threads in each."""


@functools.cache
def missing() -> str | None:
    """What can't be found of the packages that the engine needs, without importing any; or None."""
    try:
        found = importlib.util.find_spec("cuda.core")
    except ModuleNotFoundError:  # of `cuda`, in which it would be
        found = None
    return None if found else "cuda.core can't be found (pip install 'anyoptim[cuda13]': then one launch updates all)"


@functools.cache
def broken() -> str | None:
    """The same, having loaded what there is."""
    try:
        importlib.import_module("cuda.core")
        importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion()
    except Exception as error:
        return f"kernels can't be compiled: {error}"
    return None


def ready(program: Program, row: Row, dtype: str, number: int) -> None:
    """Compile for arrays of one dtype on the device of this number."""
    there, parts = device(number), (*program.measures, None)
    found = [kernel_of(program, k, options(row[:k]), element(dtype)) for k in parts]
    with there.scope():
        for kernel in found:
            there.kernel(kernel.name, kernel.text)
        for name in ("halve", "root") if program.measures else ():
            there.kernel(name, REDUCTION)


def element(dtype: str) -> str:
    """The dtype of what arrays of a dtype consist of: of the parts of complex numbers."""
    return {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)


def refusal(program: Program, leaf: Leaf, x: Array) -> str | None:
    """Why the engine can't take this leaf, which lies on a device, with such a gradient; or None."""
    library, p = leaf.library, leaf.p
    if leaf.destination is None:
        return "it can't be written to"
    if library.dtype(x) != library.dtype(p):
        return f"its gradient has another dtype, {library.dtype(x)}"
    if any(library.cuda(a) != library.cuda(p) for a in (x, *leaf.slots)):
        return "its gradient can't be read where it lies"
    own = {order(library.memory(a)) for a in (p, *leaf.slots)} - {ANY}
    gaps = len(own) > 1 or None in own
    if gaps or (program.measures and any(axes != tuple(sorted(axes or ())) for axes in own)):
        return "it isn't contiguous" if gaps else "it isn't contiguous in C order"  # as a measure goes
    if not own | {ANY} >= {order(library.memory(x))}:
        return "its gradient isn't contiguous in the same order"
    return None


class Cuda(Plan):
    """Takes contiguous arrays of one dtype and one library that lie on one device."""

    lasting = True

    def __init__(self, program: Program, leaves: Sequence[Leaf]) -> None:
        super().__init__(program, leaves)
        self.library = library = leaves[0].library
        number = library.cuda(leaves[0].p)
        assert number is not None  # noqa: S101 - it was not refused
        self.number, self.device = number, device(number)
        self.stream: Any = None  # the library's current one when a step begins
        self.destinations: list[Array] = [leaf.destination for leaf in leaves]
        self.results = [Result(leaf.p, leaf.slots) for leaf in leaves]
        dtype = library.dtype(leaves[0].p)
        self.element = element(dtype)
        self.dtype = np.dtype(ELEMENTS[self.element].real)  # of the arithmetic and the slots
        memories = [[library.memory(a) for a in (leaf.p, *leaf.slots)] for leaf in leaves]
        # How long each gradient is.
        self.bytes = np.array([math.prod(m.shape) * m.itemsize if m else 0 for m, *_ in memories], np.uint64)
        self.memories = [m for of in memories for m in of if m is not None]
        self.marks = library.marks(self.destinations)
        parts = 1 if self.element == dtype else 2
        self.chunks, self.blocks = chunk_map([math.prod(leaf.p.shape) * parts for leaf in leaves])
        rows = zip(self.blocks, memories, strict=False)  # there is one more: where the last one ends
        self.leaf_words = np.array([word for first, of in rows for word in (first, *map(_address, of))], np.uint64)
        self.passes: dict[Any, Pass] = {}
        with self.device.scope():
            self.owned = Owned(self.device)
            weakref.finalize(self, self.device.dropped.append, (self.owned.event, self.owned.buffers)).atexit = False
            self.table, self.sent = self.owned.room(self.leaf_words.size), False
            # Where on the device stands what it alone knows: for each part of the program its norm.
            self.numbers = int(self.owned.room(len(program.parts)).handle)

    @functools.cached_property
    def sums(self) -> int:
        """Where the block sums of a measure stand."""
        return int(self.owned.room(self.blocks[-1]).handle)

    @property
    def written(self) -> Written:
        return Written(there=self.memories)

    def keep_off(self, written: Written) -> None:
        mine = [m for m in written.there if self.memories and m.space == self.memories[0].space]
        # One more, behind all others, so that there always is a next one.
        self.forbidden = np.array([[*stretch, 2**64 - 1] for stretch in merged(mine)], np.uint64)

    def _apart(self, addresses: NDArray) -> NDArray:
        """Of each gradient, whether it shares no memory with what is written."""
        begins, ends = self.forbidden
        return np.asarray(addresses + self.bytes <= begins[np.searchsorted(ends, addresses, side="right")])

    def quick(self, xs: Sequence[Array]) -> Gathered | None:
        self.stream = self.device.stream(self.library.stream(self.number))
        if not self.library.stayed(self.destinations, self.marks) or self.library.capturing(self.number):
            return None
        found = self.library.addresses(xs, self.marks)
        if found is None:
            return None
        addresses = np.array(found, np.uint64)
        return Gathered(addresses, ()) if self._apart(addresses).all() else None

    def gather(self, xs: Sequence[Array]) -> Gathered:
        self.stream = self.device.stream(self.library.stream(self.number))
        kept = [self.library.load(x) for x in xs]
        addresses = np.array([_address(self.library.memory(x)) for x in kept], np.uint64)
        for i in np.flatnonzero(~self._apart(addresses)):
            kept[i] = self.library.copied(kept[i])
            addresses[i] = _address(self.library.memory(kept[i]))
        return Gathered(addresses, kept)

    def norm(self, k: int, gathered: Gathered, rows: Rows) -> Any:
        n = self.blocks[-1]
        if not n:
            return 0.0
        self._measure(k, gathered, rows)
        half, all_ = power_of_two(n) // 2, HALVERS * HALVING
        with self.device.scope():
            if half > all_:
                self._reduce("halve", HALVERS, HALVING, self.sums, n, half, all_)
                n, half = all_, all_ // 2
            self._reduce("halve", 1, HALVING, self.sums, n, half, 1)
            self._reduce("root", 1, 1, self.sums, self.numbers + 8 * k)
            self._launched()
        return symbol(k)

    def known(self, k: int) -> float:
        """What `norm` gave for part `k`, on the host. Waits for the device."""
        with self.device.scope():
            return float(self.device.fetched(self.numbers + 8 * k, 1, self.stream)[0])

    def squares(self, k: int, gathered: Gathered, rows: Rows) -> list[NDArray]:
        # For several devices at once: their sums meet on the host.
        self._measure(k, gathered, rows)
        with self.device.scope():
            sums = self.device.fetched(self.sums, self.blocks[-1], self.stream)
        return [sums[a:b] for a, b in itertools.pairwise(self.blocks)]

    def _measure(self, k: int, gathered: Gathered, rows: Rows) -> None:
        with self.device.scope():
            passes, sums = self._passes(k, gathered, rows), self.sums
        self._run(passes, sums)

    def _reduce(self, name: str, blocks: int, threads: int, *arguments: int) -> None:
        self.device.launch(self.stream, self.device.kernel(name, REDUCTION), blocks, threads, *arguments)

    def prepare(self, gathered: Gathered, rows: Rows) -> Commit:
        self.again = None
        with self.device.scope():
            passes = self._passes(None, gathered, rows)
        if len(rows.distinct) == 1 and all(map(floats, rows.distinct[0])):
            (one,) = passes
            run = functools.partial(_taken, one)
            self.again = Again(rows.distinct[0], one.scalars, self.dtype, one.numbers[: len(one.scalars)], run)

        def commit() -> Sequence[Result]:
            self._run(passes)
            self.touch()
            return self.results

        return commit

    @property
    def sending(self) -> Any:
        """The stream that words are sent in."""
        return self.stream

    def _launched(self) -> None:
        """Take note of when the device will be done with what is owned."""
        self.stream.record(self.owned.event)

    def _passes(self, k: int | None, gathered: Gathered, rows: Rows) -> list[Pass]:
        """What to run, one kernel for each set of static options, with what it is given."""
        static = [options(row) for row in rows.distinct]
        found = []
        for key in dict.fromkeys(static):
            members = None if static.count(key) == len(static) else tuple(static[r] == key for r in rows.which)
            one = self.passes.get((k, key, members))
            if one is None:
                own = ... if members is None else np.array(members)[self.chunks["leaf"]]
                kernel = kernel_of(self.program, k, key, self.element)
                one = self.passes[k, key, members] = Pass(self.owned, kernel, self.chunks[own])
            own_rows = [row if of == key else None for row, of in zip(rows.distinct, static, strict=True)]
            one.set(gathered.addresses, rows.which, own_rows, self.dtype)
            found.append(one)
        return found

    def _run(self, passes: Sequence[Pass], *more: int) -> None:
        with self.device.scope():
            if not self.sent:
                self.device.send(self.table, self.leaf_words, self.sending)
                self.sent = True
            for one in passes:
                one.run(self.stream, self.sending, int(self.table.handle), self.numbers, *more)
            self._launched()


def _address(memory: Memory | None) -> int:
    return 0 if memory is None else memory.address


def _taken(one: Pass, plan: Cuda, gathered: Gathered) -> bool:
    one.addresses[...] = gathered.addresses
    plan._run([one])
    return True
