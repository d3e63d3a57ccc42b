"""The CUDA engine: the traced rules as CUDA C, one launch a step for all parameters of a device and dtype, in place."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import Array
from anyoptim._arrays._memory import ANY_ORDER, MemoryLayout, axis_order, merged_ranges
from anyoptim._engines._base import CoefficientTable, Commit, Leaf, NDArray, Plan, Replay, Result, Written
from anyoptim._engines.cuda._device import Owned, device
from anyoptim._engines.cuda._elements import ELEMENTS
from anyoptim._engines.cuda._programs import kernel_of
from anyoptim._engines.cuda._source import CHUNK, REDUCTION, THREADS, Kernel, coefficients
from anyoptim._trace._expressions import evaluate
from anyoptim._trace._program import Coefficients, Program, all_floats, static_options
from anyoptim._trace._reduction import BLOCK, power_of_two
from anyoptim._trace._symbols import Scalar, Symbol, symbol

__all__ = ["Cuda", "Gathered", "broken", "chunk_map", "device", "missing", "ready", "refusal", "rows_of"]

CHUNKS = np.dtype([("begin", np.int64), ("leaf", np.int32), ("count", np.int32)])
"""The kernels' `struct Chunk`."""

Expressions = tuple[tuple[int, Scalar], ...]
"""What is known on the device alone, by its place among the numbers. A `number` in it is the place of one behind the
rows, so that rows with other numbers have equal expressions, and the same kernel."""

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


def ready(program: Program, row: Coefficients, dtype: str, number: int) -> None:
    """Compile for arrays of one dtype on the device of this number."""
    there, parts = device(number), (*program.measures, None)
    found = [kernel_of(program, k, static_options(row[:k]), element(dtype)) for k in parts]
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
    own = {axis_order(library.memory(a)) for a in (p, *leaf.slots)} - {ANY_ORDER}
    gaps = len(own) > 1 or None in own
    if gaps or (program.measures and any(axes != tuple(sorted(axes or ())) for axes in own)):
        return "it isn't contiguous" if gaps else "it isn't contiguous in C order"  # as a measure goes
    if not own | {ANY_ORDER} >= {axis_order(library.memory(x))}:
        return "its gradient isn't contiguous in the same order"
    return None


class Gathered(NamedTuple):
    """Gradients."""

    addresses: NDArray
    kept: Sequence[Array]  # what may be nobody else's any more


class Pass:
    """A kernel over the chunks of some leaves, step after step: `set` makes ready whatever `run` needs."""

    def __init__(self, owned: Owned, kernel: Kernel, chunks: NDArray) -> None:
        self._owned, self._device, self.scalars = owned, owned.device, kernel.scalars
        self._kernel = self._device.kernel(kernel.name, kernel.text)
        self._blocks, self._chunks = len(chunks), owned.kept(self._device.put(chunks.view(np.uint64)))
        self._step: Any = None

    def set(self, addresses: NDArray, which: Sequence[int], rows: Sequence[Coefficients | None], dtype: Any) -> None:
        """For each leaf the address of its gradient and the number of its row; the rows."""
        numbers, expressions = rows_of(self.scalars, rows, dtype)
        n = 2 * len(addresses)
        self._words = np.empty(n + numbers.size, np.uint64)
        self.addresses, self.numbers = self._words[:n:2], self._words[n:].view(np.float64)
        self.addresses[...], self._words[1:n:2], self.numbers[...] = addresses, which, numbers
        if self._step is None or self._step.size < self._words.nbytes:
            self._step = self._device.allocate(self._words.size)
            self._at = self._owned.kept(self._step)
        self._rows = self._at + 8 * n
        self._behind = self._rows + 8 * len(rows) * len(self.scalars)
        found = coefficients(expressions) if expressions else None
        self._computed = found and self._device.kernel(found.name, found.text)

    def run(self, plan: Cuda, *more: int) -> None:
        """Launch it for its plan, after what it needs."""
        if not self._blocks:
            return
        launch, stream, rows = self._device.launch, plan.stream, self._rows
        self._device.send(self._step, self._words, plan.sending)
        if self._computed is not None:
            launch(stream, self._computed, 1, 1, rows, self._behind, plan.numbers)
        launch(stream, self._kernel, self._blocks, THREADS, plan.table, self._chunks, self._at, rows, *more)

    def again(self, plan: Cuda, gathered: Gathered) -> None:
        """What was set but for the addresses, with the numbers that stand in its place now."""
        self.addresses[...] = gathered.addresses
        plan.run([self])


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
        self.sending: Any = None  # that in whose order words are sent
        self.destinations: list[Array] = [leaf.destination for leaf in leaves]
        self.results = [Result(leaf.p, leaf.slots) for leaf in leaves]
        dtype = library.dtype(leaves[0].p)
        self.element = element(dtype)
        self.dtype = np.dtype(ELEMENTS[self.element].real)  # of the arithmetic and the slots
        memories = [[library.memory(a) for a in (leaf.p, *leaf.slots)] for leaf in leaves]
        # How long each gradient is.
        self.bytes = np.array([math.prod(m.shape) * m.itemsize if m else 0 for m, *_ in memories], np.uint64)
        self.memories = [m for of in memories for m in of if m is not None]
        self.fingerprint = library.fingerprint(self.destinations)
        parts = 1 if self.element == dtype else 2
        self.chunks, self.blocks = chunk_map([math.prod(leaf.p.shape) * parts for leaf in leaves])
        rows = zip(self.blocks, memories, strict=False)  # there is one more: where the last one ends
        table = [word for first, of in rows for word in (first, *map(_address, of))]
        self.passes: dict[Any, Pass] = {}
        with self.device.scope():
            self.owned = Owned(self.device)
            # What it alone knows stands behind the table: for each part of the program its norm.
            words = np.array([*table, *[0] * len(program.parts)], np.uint64)
            self.table = self.owned.kept(self.device.put(words))
            self.numbers = self.table + 8 * len(table)
            if program.measures:  # where the block sums of one stand
                self.sums = self.owned.kept(self.device.allocate(self.blocks[-1]))

    @property
    def written(self) -> Written:
        return Written(there=self.memories)

    def avoid_aliasing(self, written: Written) -> None:
        mine = [m for m in written.there if self.memories and m.space == self.memories[0].space]
        # One more, behind all others, so that there always is a next one.
        self.forbidden = [np.array([*stretch, 2**64 - 1], np.uint64) for stretch in merged_ranges(mine)]

    def _apart(self, addresses: NDArray) -> NDArray:
        """Of each gradient, whether it shares no memory with what is written."""
        begins, ends = self.forbidden
        return np.asarray(addresses + self.bytes <= begins[ends.searchsorted(addresses, side="right")])

    def quick(self, xs: Sequence[Array]) -> Gathered | None:
        self.stream = self.sending = self.device.stream(self.library.stream(self.number))
        if not self.library.unchanged_all(self.destinations, self.fingerprint) or self.library.capturing(self.number):
            return None
        found = self.library.addresses(xs, self.fingerprint)
        if found is None:
            return None
        addresses = np.array(found, np.uint64)
        return Gathered(addresses, ()) if self._apart(addresses).all() else None

    def gather(self, xs: Sequence[Array]) -> Gathered:
        self.stream = self.sending = self.device.stream(self.library.stream(self.number))
        kept = [self.library.load(x) for x in xs]
        addresses = np.array([_address(self.library.memory(x)) for x in kept], np.uint64)
        for i in np.flatnonzero(~self._apart(addresses)):
            kept[i] = self.library.copied(kept[i])
            addresses[i] = _address(self.library.memory(kept[i]))
        return Gathered(addresses, kept)

    def norm(self, k: int, gathered: Gathered, rows: CoefficientTable) -> Any:
        n = self.blocks[-1]
        if not n:
            return 0.0
        half, all_ = power_of_two(n) // 2, HALVERS * HALVING
        with self.device.scope():
            self.run(self._passes(k, gathered, rows), self.sums)
            if half > all_:
                self._reduce("halve", HALVERS, HALVING, self.sums, n, half, all_)
                n, half = all_, all_ // 2
            self._reduce("halve", 1, HALVING, self.sums, n, half, 1)
            self._reduce("root", 1, 1, self.sums, self.numbers + 8 * k)
            self.sending.record(self.owned.event)
        return symbol(k)

    def known(self, k: int) -> float:
        """What `norm` gave for part `k`, on the host. Waits for the device."""
        with self.device.scope():
            return float(self.device.fetched(self.numbers + 8 * k, 1, self.stream)[0])

    def squares(self, k: int, gathered: Gathered, rows: CoefficientTable) -> list[NDArray]:
        # For several devices at once: their sums meet on the host.
        with self.device.scope():
            self.run(self._passes(k, gathered, rows), self.sums)
            sums = self.device.fetched(self.sums, self.blocks[-1], self.stream)
        return [sums[a:b] for a, b in itertools.pairwise(self.blocks)]

    def _reduce(self, name: str, blocks: int, threads: int, *arguments: int) -> None:
        self.device.launch(self.stream, self.device.kernel(name, REDUCTION), blocks, threads, *arguments)

    def prepare(self, gathered: Gathered, rows: CoefficientTable) -> Commit:
        self.last_step = None
        with self.device.scope():
            passes = self._passes(None, gathered, rows)
        if len(rows.distinct) == 1 and all(map(all_floats, rows.distinct[0])):
            (one,) = passes
            self.last_step = Replay(
                rows.distinct[0], one.scalars, self.dtype, one.numbers[: len(one.scalars)], one.again
            )

        def commit() -> Sequence[Result]:
            self.run(passes)
            self.touch()
            return self.results

        return commit

    def _passes(self, k: int | None, gathered: Gathered, rows: CoefficientTable) -> list[Pass]:
        """What to run, one kernel for each set of static options, with what it is given."""
        static = [static_options(row) for row in rows.distinct]
        found = []
        for key in dict.fromkeys(static):
            members = None if static.count(key) == len(static) else tuple(static[r] == key for r in rows.row_of_leaf)
            one = self.passes.get((k, key, members))
            if one is None:
                own = ... if members is None else np.array(members)[self.chunks["leaf"]]
                kernel = kernel_of(self.program, k, key, self.element)
                one = self.passes[k, key, members] = Pass(self.owned, kernel, self.chunks[own])
            own_rows = [row if of == key else None for row, of in zip(rows.distinct, static, strict=True)]
            one.set(gathered.addresses, rows.row_of_leaf, own_rows, self.dtype)
            found.append(one)
        return found

    def run(self, passes: Sequence[Pass], *more: int) -> None:
        """Launch what is set."""
        with self.device.scope():
            for one in passes:
                one.run(self, *more)
            self.sending.record(self.owned.event)  # then the device will be done with what is owned


def _address(memory: MemoryLayout | None) -> int:
    return 0 if memory is None else memory.address


def chunk_map(lengths: Sequence[int]) -> tuple[np.ndarray[Any, Any], list[int]]:
    """For each chunk its first element, leaf and length; and the first block of the reduction in each leaf."""
    each = np.array(lengths, np.int64)
    counts = -(-each // CHUNK)
    leaf = np.repeat(np.arange(len(each)), counts)
    chunks = np.empty(len(leaf), CHUNKS)
    chunks["leaf"], chunks["begin"] = leaf, CHUNK * (np.arange(len(leaf)) - (counts.cumsum() - counts)[leaf])
    chunks["count"] = np.minimum(CHUNK, each[leaf] - chunks["begin"])
    return chunks, [0, *np.cumsum(-(-each // BLOCK)).tolist()]


def rows_of(
    scalars: Sequence[Scalar], rows: Sequence[Coefficients | None], dtype: Any
) -> tuple[np.ndarray[Any, Any], Expressions]:
    """The values of `scalars` in each row, one after another, zeros for None; then the numbers that expressions are of.

    Where the device is to put the value of an expression there is a 0.
    """
    numbers, behind = list[float](), list[float]()
    expressions = []
    for row, scalar in itertools.product(rows, scalars):
        value = 0.0 if row is None else evaluate(scalar, row, dtype)
        if isinstance(value, Symbol):
            expressions.append((len(numbers), _numbered(value.scalar, behind)))
            value = 0.0
        numbers.append(value)
    return np.array([*numbers, *behind], np.float64), tuple(expressions)


def _numbered(scalar: Scalar, behind: list[float]) -> Scalar:
    """With the place of each number instead of its value."""
    if scalar.op == "number":
        behind.append(float.fromhex(scalar.arguments[0]))
        return Scalar("number", (len(behind) - 1,))
    return Scalar(scalar.op, tuple(_numbered(a, behind) if isinstance(a, Scalar) else a for a in scalar.arguments))
