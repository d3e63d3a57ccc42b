"""The CUDA engine: the traced rules as CUDA C, one launch a step for all parameters of a device and dtype, in place."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import math
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from anyoptim._arrays import Array
from anyoptim._engines._buffers import Machine, Upload, buffers
from anyoptim._engines._launches import Call, Gathered, Owned, Pass, chunk_map, load, reduction, text
from anyoptim._engines._leaf import Again, Commit, Leaf, NDArray, Plan, Result, Rows, Written
from anyoptim._engines._rows import table
from anyoptim._memory import Memory, merged
from anyoptim._program import Program, Row, floats, options
from anyoptim._reduction import power_of_two
from anyoptim._render import ELEMENTS
from anyoptim._trace import symbol

__all__ = ["Cuda", "broken", "device", "element", "missing", "ready", "refusal", "source"]

HALVERS = 32
"""Blocks of threads that share the first halvings of a long reduction."""

HALVING = 1024
"""Threads in each."""


@functools.cache
def missing() -> str | None:
    """What can't be found of the packages that the engine needs, without importing any; or None."""
    return None if _found("cuda.bindings") else "cuda.bindings can't be found (pip install 'anyoptim[cuda13]')"


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of `cuda`, in which `bindings` would be
        return False


@functools.cache
def broken() -> str | None:
    """The same, having loaded what there is."""
    try:
        importlib.import_module("anyoptim._engines._nvrtc").version()
    except Exception as error:
        return f"kernels can't be compiled: {error}"
    return None


def device(number: int) -> Machine:
    """The device that array libraries give this number."""
    found: Machine = importlib.import_module("anyoptim._engines._driver").device(number)
    return found


def ready(program: Program, row: Row, dtype: str, number: int) -> None:
    """Compile for arrays of one dtype on the device of this number."""
    machine = device(number)
    for k in (*program.measures, None):
        load(machine, program, k, options(row[:k]), dtype)
    for name in ("halve", "root") if program.measures else ():
        reduction(machine, name)


def element(dtype: str) -> str:
    """The dtype of what arrays of a dtype consist of: of the parts of complex numbers."""
    return {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)


def refusal(program: Program, leaf: Leaf, x: Array) -> str | None:
    """Why the engine can't take this leaf, which lies on a device, with such a gradient; or None."""
    library, p = leaf.library, leaf.p
    dtype, of_x = library.dtype(p), library.dtype(x)
    if leaf.destination is None:
        return "it can't be written to"
    if of_x != dtype:
        return f"its gradient has another dtype, {of_x}"
    if any(library.cuda(a) != library.cuda(p) for a in (x, *leaf.slots)):
        return "its gradient can't be read where it lies"
    return _out_of_order(program, leaf, x)


def _out_of_order(program: Program, leaf: Leaf, x: Array) -> str | None:
    own = {_order(leaf.library.memory(a)) for a in (leaf.p, *leaf.slots)} - {_ANY}
    if len(own) > 1 or None in own:
        return "it isn't contiguous"
    if program.measures and any(order != tuple(sorted(order or ())) for order in own):
        return "it isn't contiguous in C order"  # a measure goes by logical order
    if not own | {_ANY} >= {_order(leaf.library.memory(x))}:
        return "its gradient isn't contiguous in the same order"
    return None


_ANY = ()
"""The order of what has one element, or none."""


def _order(m: Memory | None) -> tuple[int, ...] | None:
    """The axes, from the longest steps to the shortest; None if there are gaps between elements."""
    if m is None or 0 in m.shape:
        return _ANY
    steps = sorted((-stride, axis) for axis, (n, stride) in enumerate(zip(m.shape, m.strides, strict=True)) if n > 1)
    expected = m.itemsize
    for stride, axis in reversed(steps):
        if -stride != expected:
            return None
        expected *= m.shape[axis]
    return tuple(axis for _, axis in steps)


class Cuda(Plan):
    """Takes contiguous arrays of one dtype and one library that lie on one device."""

    lasting = True
    sending: ClassVar[type[Upload]] = Upload
    """How words get to the device."""

    def __init__(self, program: Program, leaves: Sequence[Leaf]) -> None:
        super().__init__(program, leaves)
        self.library = library = leaves[0].library
        number = library.cuda(leaves[0].p)
        assert number is not None  # noqa: S101 - it was not refused
        self.number, self.machine = number, device(number)
        self.stream = 0
        """The one that is the library's current one when a step begins."""
        self.destinations: list[Array] = [leaf.destination for leaf in leaves]
        self.like = [leaf.p for leaf in leaves]
        self.results = [Result(leaf.p, leaf.slots) for leaf in leaves]
        self.element = element(library.dtype(leaves[0].p))
        """The dtype of parameters and gradients: of their parts, where they are complex."""
        self.dtype = np.dtype(ELEMENTS[self.element].real)
        """That of the arithmetic and the slots."""
        parts = 1 if self.element == library.dtype(leaves[0].p) else 2
        lengths = [math.prod(leaf.p.shape) * parts for leaf in leaves]
        memories = [[library.memory(a) for a in (leaf.p, *leaf.slots)] for leaf in leaves]
        sizes = [math.prod(of[0].shape) * of[0].itemsize if of[0] else 0 for of in memories]
        self.bytes = np.array(sizes, np.uint64)
        """How long each gradient is."""
        self.memories = [m for of in memories for m in of if m is not None]
        self.marks = library.marks(self.destinations)
        self.chunks, self.blocks = chunk_map(lengths)
        rows = zip(self.blocks, memories, strict=False)  # there is one more: where the last one ends
        words = [(first, *(0 if m is None else m.address for m in of)) for first, of in rows]
        self.owned = Owned(self.machine, self.sending)
        weakref.finalize(self, self.owned.give).atexit = False
        self.leaf_words = np.array(words, np.uint64).reshape(-1)
        self.table = self.owned.upload(self.leaf_words.size)
        self.numbers = self.owned.upload(len(program.parts)).address
        """Where on the device stands what it alone knows: for each part of the program the norm that it measures."""
        self.passes: dict[Any, Pass] = {}

    @functools.cached_property
    def sums(self) -> Upload:
        """The block sums of a measure."""
        return self.owned.upload(self.blocks[-1])

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
        after = begins[np.searchsorted(ends, addresses, side="right")]
        found: NDArray = addresses + self.bytes <= after
        return found

    def quick(self, xs: Sequence[Array]) -> Gathered | None:
        self.stream = self.library.stream(self.number)
        if not self.library.stayed(self.destinations, self.marks) or self.library.capturing(self.number):
            return None
        found = self.library.addresses(xs, self.marks)
        if found is None:
            return None
        addresses = np.array(found, np.uint64)
        return Gathered(addresses, ()) if self._apart(addresses).all() else None

    def gather(self, xs: Sequence[Array]) -> Gathered:
        self.stream = self.library.stream(self.number)
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
        if not self.blocks[-1]:
            return 0.0
        self._measure(k, gathered, rows)
        n, sums = self.blocks[-1], self.sums.address
        half, all_ = power_of_two(n) // 2, HALVERS * HALVING
        if half > all_:
            self._launch("halve", HALVERS, HALVING, sums, n, half, all_)
            n, half = all_, all_ // 2
        self._launch("halve", 1, HALVING, sums, n, half, 1)
        self._launch("root", 1, 1, sums, self.numbers + 8 * k)
        self._launched()
        return symbol(k)

    def known(self, k: int) -> float:
        """What `norm` gave for part `k`, on the host. Waits for the device."""
        found = np.zeros(1)
        self.machine.fetch(found, self.numbers + 8 * k, self.stream)
        return float(found[0])

    def squares(self, k: int, gathered: Gathered, rows: Rows) -> list[NDArray]:
        # For several devices at once: their sums meet on the host.
        self._measure(k, gathered, rows)
        self._launched()
        sums = np.zeros(self.blocks[-1])
        if sums.size:
            self.machine.fetch(sums, self.sums.address, self.stream)
        return [sums[a:b] for a, b in itertools.pairwise(self.blocks)]

    def _measure(self, k: int, gathered: Gathered, rows: Rows) -> None:
        for call in self._calls(k, gathered, rows):
            self._run(call, self.sums.address)

    def _launch(self, name: str, blocks: int, threads: int, *arguments: int) -> None:
        self.machine.launch(reduction(self.machine, name), blocks, threads, self.stream, arguments)

    def prepare(self, gathered: Gathered, rows: Rows) -> Commit:
        calls = self._calls(None, gathered, rows)
        self.again = None
        if len(rows.distinct) == 1 and all(map(floats, rows.distinct[0])):
            (call,) = calls
            scalars = call.kernel.scalars
            places = call.words[2 * len(self.like) :].view(np.float64)
            run = functools.partial(_taken, call)
            self.again = Again(rows.distinct[0], scalars, self.dtype, places, run)

        def commit() -> Sequence[Result]:
            for call in calls:
                self._run(call)
            self._launched()
            self.touch()
            return self.results

        return commit

    def _launched(self) -> None:
        """Take note of when the device will be done with what is owned."""
        buffers(self.machine).record(self.owned.event, self.stream)

    def _calls(self, k: int | None, gathered: Gathered, rows: Rows) -> list[Call]:
        """The calls of the kernels, one for each set of static options."""
        static = [options(row) for row in rows.distinct]
        which = np.array(rows.which, np.uint64)
        calls = []
        for key in dict.fromkeys(static):
            kernel = load(self.machine, self.program, k, key, self.element)
            own = [row if static[i] == key else None for i, row in enumerate(rows.distinct)]
            numbers, expressions = table(kernel.scalars, own, self.dtype)
            n = len(self.like)
            words = np.empty(2 * n + numbers.size, np.uint64)
            words[0 : 2 * n : 2], words[1 : 2 * n : 2] = gathered.addresses, which
            words[2 * n :] = numbers.view(np.uint64)
            members = None if static.count(key) == len(static) else tuple(static[r] == key for r in rows.which)
            calls.append(Call(kernel, members, words, n, expressions, len(own) * len(kernel.scalars)))
            self._pass(calls[-1]).ready(calls[-1])
        return calls

    def _pass(self, call: Call) -> Pass:
        place = (call.kernel, call.members)
        if place not in self.passes:
            own = ... if call.members is None else np.array(call.members)[self.chunks["leaf"]]
            self.passes[place] = Pass(self.machine, self.owned, self.chunks[own])
        return self.passes[place]

    def _run(self, call: Call, *more: int) -> None:
        self.table.once(self.leaf_words, self.stream)
        self._pass(call).run(call, self.stream, self.table.address, self.numbers, *more)


def _taken(call: Call, plan: Cuda, gathered: Gathered) -> bool:
    call.words[0 : 2 * call.leaves : 2] = gathered.addresses
    plan._run(call)
    plan._launched()
    return True


def source(program: Program, k: int | None, row: Row, dtype: str) -> str:
    """The text of the step, or of what part `k` measures."""
    return text(program, k, options(row), dtype).text


_END = np.uint64(2**64 - 1)
