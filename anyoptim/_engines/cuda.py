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
from anyoptim._engines._launches import Gathered, Owned, Pass, load, text
from anyoptim._engines._leaf import Again, Commit, Leaf, NDArray, Plan, Result, Rows, Written
from anyoptim._memory import ANY, merged, order
from anyoptim._program import Program, Row, floats, options
from anyoptim._reduction import power_of_two
from anyoptim._render import ELEMENTS, REDUCTION, Kernel, chunk_map
from anyoptim._trace import symbol

__all__ = ["Cuda", "broken", "device", "element", "missing", "ready", "refusal", "source"]

HALVERS, HALVING = 32, 1024
"""Blocks of threads that share the first halvings of a long reduction, and threads in each."""

_END = np.uint64(2**64 - 1)


@functools.cache
def missing() -> str | None:
    """What can't be found of the packages that the engine needs, without importing any; or None."""
    try:
        found = importlib.util.find_spec("cuda.core")
    except ModuleNotFoundError:  # of `cuda`, in which it would be
        found = None
    return None if found else "cuda.core can't be found; with it, one launch would update all (anyoptim[cuda13])"


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
    there = device(number)
    with there.scope():
        for k in (*program.measures, None):
            load(there, program, k, options(row[:k]), dtype)
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
        self.stream: Any = None
        """The library's current one when a step begins."""
        self.destinations: list[Array] = [leaf.destination for leaf in leaves]
        self.results = [Result(leaf.p, leaf.slots) for leaf in leaves]
        dtype = library.dtype(leaves[0].p)
        self.element = element(dtype)
        """The dtype of parameters and gradients: of their parts, where they are complex."""
        self.dtype = np.dtype(ELEMENTS[self.element].real)
        """That of the arithmetic and the slots."""
        memories = [[library.memory(a) for a in (leaf.p, *leaf.slots)] for leaf in leaves]
        self.bytes = np.array([math.prod(m.shape) * m.itemsize if m else 0 for m, *_ in memories], np.uint64)
        """How long each gradient is."""
        self.memories = [m for of in memories for m in of if m is not None]
        self.marks = library.marks(self.destinations)
        parts = 1 if self.element == dtype else 2
        self.chunks, self.blocks = chunk_map([math.prod(leaf.p.shape) * parts for leaf in leaves])
        rows = zip(self.blocks, memories, strict=False)  # there is one more: where the last one ends
        words = [(first, *(0 if m is None else m.address for m in of)) for first, of in rows]
        self.leaf_words = np.array(words, np.uint64).reshape(-1)
        self.passes: dict[Any, Pass] = {}
        with self.device.scope():
            self.owned = Owned(self.device)
            weakref.finalize(self, self.owned.give).atexit = False
            self.table = self.owned.upload(self.leaf_words.size)
            self.numbers = self.owned.upload(len(program.parts)).address
            """Where on the device stands what it alone knows: for each part of the program its norm."""

    @functools.cached_property
    def sums(self) -> int:
        """Where the block sums of a measure stand."""
        return self.owned.upload(self.blocks[-1]).address

    @property
    def written(self) -> Written:
        return Written(there=self.memories)

    def keep_off(self, written: Written) -> None:
        mine = [m for m in written.there if self.memories and m.space == self.memories[0].space]
        begins, ends = merged(mine)
        # Behind all others, so that there always is a next one.
        self.forbidden = np.array([[*begins, _END], [*ends, _END]], np.uint64)

    def _apart(self, addresses: NDArray) -> NDArray:
        """Of each gradient, whether it shares no memory with what is written."""
        begins, ends = self.forbidden
        found: NDArray = addresses + self.bytes <= begins[np.searchsorted(ends, addresses, side="right")]
        return found

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
        addresses = np.array(list(map(self._address, kept)), np.uint64)
        for i in np.flatnonzero(~self._apart(addresses)):
            kept[i] = self.library.copied(kept[i])
            addresses[i] = self._address(kept[i])
        return Gathered(addresses, kept)

    def _address(self, x: Array) -> int:
        memory = self.library.memory(x)
        return 0 if memory is None else memory.address

    def norm(self, k: int, gathered: Gathered, rows: Rows) -> Any:
        n, half, all_ = self.blocks[-1], power_of_two(self.blocks[-1]) // 2, HALVERS * HALVING
        if not n:
            return 0.0
        with self.device.scope():
            self._measure(k, gathered, rows)
            if half > all_:
                self._reduce("halve", HALVERS, HALVING, self.sums, n, half, all_)
                n, half = all_, all_ // 2
            self._reduce("halve", 1, HALVING, self.sums, n, half, 1)
            self._reduce("root", 1, 1, self.sums, self.numbers + 8 * k)
            self._launched()
        return symbol(k)

    def known(self, k: int) -> float:
        """What `norm` gave for part `k`, on the host. Waits for the device."""
        return float(self._fetched(self.numbers + 8 * k, 1)[0])

    def squares(self, k: int, gathered: Gathered, rows: Rows) -> list[NDArray]:
        # For several devices at once: their sums meet on the host.
        with self.device.scope():
            self._measure(k, gathered, rows)
            self._launched()
        sums = self._fetched(self.sums, self.blocks[-1])
        return [sums[a:b] for a, b in itertools.pairwise(self.blocks)]

    def _fetched(self, address: int, n: int) -> NDArray:
        found = np.zeros(n)
        if n:
            with self.device.scope():
                self.device.fetch(found, address, self.stream)
        return found

    def _measure(self, k: int, gathered: Gathered, rows: Rows) -> None:
        self._run(self._passes(k, gathered, rows), self.sums)

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
            with self.device.scope():
                self._run(passes)
                self._launched()
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
                kernel = load(self.device, self.program, k, key, self.element)
                one = self.passes[k, key, members] = Pass(self.owned, kernel, self.chunks[own])
            own_rows = [row if of == key else None for row, of in zip(rows.distinct, static, strict=True)]
            one.set(gathered.addresses, rows.which, own_rows, self.dtype)
            found.append(one)
        return found

    def _run(self, passes: Sequence[Pass], *more: int) -> None:
        self.table.once(self.leaf_words, self.sending)
        for one in passes:
            one.run(self.stream, self.sending, self.table.address, self.numbers, *more)


def _taken(one: Pass, plan: Cuda, gathered: Gathered) -> bool:
    one.move(gathered.addresses)
    with plan.device.scope():
        plan._run([one])
        plan._launched()
    return True


def source(passes: Sequence[tuple[Program, int | None, Row]], dtype: str) -> str:
    """One text of steps, and of what parts measure: types once, each kernel once and by a name of its own."""
    distinct = {text(program, k, options(row), dtype): (program, k, options(row)) for program, k, row in passes}
    found: dict[str, Kernel] = {}
    for program, k, static in distinct.values():
        one = text(program, k, static, dtype, found)
        found[one.name] = one
    norms = [REDUCTION] if any(k is not None for _, k, _ in passes) else []
    return "\n".join([one.types, *(one.body for one in found.values()), *norms])
