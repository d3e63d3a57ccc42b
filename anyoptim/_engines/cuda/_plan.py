"""The plans of the CUDA engine: traced rules as CUDA C, one launch a step for all parameters of a device and dtype."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import Array
from anyoptim._arrays._beside import BesideOnDevice
from anyoptim._arrays._memory import MemoryLayout, merged_ranges
from anyoptim._engines._base import Commit, Leaf, NDArray, Pass, Plan, Result, Written
from anyoptim._engines.cuda._source import (
    BLOCK,
    CHUNK,
    REDUCTION,
    THREADS,
    Kernel,
    coefficients,
    kernel,
    kernel_reduction,
)
from anyoptim._machine._c_elements import ELEMENTS
from anyoptim._machine._completed import in_one_go
from anyoptim._machine._cuda_device import Owned, device
from anyoptim._trace._coefficients import CoefficientTable, Replay, lasting, rows_of
from anyoptim._trace._exact_sum import COLUMNS
from anyoptim._trace._graph import graph_of
from anyoptim._trace._program import Coefficients, Program, StaticOptions, static_options
from anyoptim._trace._reductions import Norm, Reduction
from anyoptim._trace._symbols import symbol

__all__ = ["CudaPlan", "Gathered", "chunk_map", "device", "kernel_of", "precompile", "source_of"]

CHUNKS = np.dtype([("begin", np.int64), ("leaf", np.int32), ("count", np.int32)])
"""The dtype of the kernels' `struct Chunk`."""

HALVERS, HALVING = 32, 1024
"""The blocks of threads that share the first halvings of a long reduction, and the threads in each."""


@functools.lru_cache(maxsize=256)
def kernel_of(
    program: Program, k: int | None, static: StaticOptions, dtype: str, taken: tuple[str, ...] = ()
) -> Kernel:
    """The kernel of the step, or of the reduction that is part `k`, by a name that is none of those taken."""
    graph = graph_of(program, k, static, of_complex=element(dtype) != dtype)
    if k is None:
        return kernel(graph, element(dtype), taken)
    return kernel_reduction(graph, program.reduction(k).kind, element(dtype), taken)


def source_of(passes: Sequence[Pass], dtype: str) -> str:
    """One text of all passes, in which the types stand once, and each kernel once and by a name of its own."""
    keys = [(program, k, static_options(row)) for program, k, row in passes]
    kernels: dict[str, Kernel] = {}
    for program, k, static in {kernel_of(*key, dtype): key for key in keys}.values():
        one = kernel_of(program, k, static, dtype, tuple(kernels))
        kernels[one.name] = one
    norms = [REDUCTION] if any(k is not None and _symbolic(program.reduction(k)) for program, k, _ in passes) else []
    return "\n".join([one.types, *(one.body for one in kernels.values()), *norms])


def precompile(program: Program, row: Coefficients, dtype: str, number: int | None) -> None:
    """Compile the kernels of a program for arrays of one dtype on the device of this number."""
    assert number is not None  # noqa: S101 - the engine reaches the array
    compiler, parts = device(number), (*program.reductions, None)
    kernels = [kernel_of(program, k, static_options(row[:k]), dtype) for k in parts]
    with compiler.scope():
        for one in kernels:
            compiler.kernel(one.name, one.text)
        for name in ("halve", "root") if any(_symbolic(program.reduction(k)) for k in program.reductions) else ():
            compiler.kernel(name, REDUCTION)


def _symbolic(reduction: Reduction) -> bool:
    """Whether its value stays on the device: that of all parameters, from which coefficients are computed there."""
    return isinstance(reduction, Norm) and reduction.over == "all"


def element(dtype: str) -> str:
    """The dtype of the reals that arrays of a dtype consist of: for complex numbers that of their parts."""
    return {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)


class Gathered(NamedTuple):
    """The gradients of a step."""

    addresses: NDArray
    kept: Sequence[Array]
    """The arrays at these addresses, which may have no other owner."""


class Launch:
    """The launch of a kernel over the chunks of some leaves, step after step: `set` lays ready what `calls` needs."""

    def __init__(self, owned: Owned, kernel: Kernel, chunks: NDArray, dtype: Any) -> None:
        self._owned, self._device, self.scalars, self._dtype = owned, owned.device, kernel.scalars, dtype
        self._kernel = self._device.kernel(kernel.name, kernel.text)
        self._blocks, self._chunks = len(chunks), owned.kept(self._device.put(chunks.view(np.uint64)))
        self._step: Any = None

    def set(self, addresses: NDArray, row_of_leaf: Sequence[int], rows: Sequence[Coefficients | None]) -> None:
        """Lay ready the address of each leaf's gradient, the number of its row, and the rows."""
        numbers, expressions = rows_of(self.scalars, rows, self._dtype)
        n = 2 * len(addresses)
        self._words = np.empty(n + numbers.size, np.uint64)
        self.addresses, self.numbers = self._words[:n:2], self._words[n:].view(np.float64)
        self.addresses[...], self._words[1:n:2], self.numbers[...] = addresses, row_of_leaf, numbers
        if self._step is None or self._step.size < self._words.nbytes:
            self._step = self._device.allocate(self._words.size)
            self._at = self._owned.kept(self._step)
        self._rows = self._at + 8 * n
        self._behind = self._rows + 8 * len(rows) * len(self.scalars)
        before = coefficients(expressions) if expressions else None
        self._coefficients = before and self._device.kernel(before.name, before.text)

    def calls(self, plan: CudaPlan, *more: int) -> list[Callable[[], None]]:
        """The launch of the kernel for its plan, if it has anything to do; what the kernel reads is sent now."""
        if not self._blocks:
            return []
        launch, stream, rows = self._device.launch, plan.stream, self._rows
        self._device.send(self._step, self._words, plan.sending)
        if self._coefficients is not None:
            launch(stream, self._coefficients, 1, 1, rows, self._behind, plan.numbers)()
        return [launch(stream, self._kernel, self._blocks, THREADS, plan.table, self._chunks, self._at, rows, *more)]


class CudaPlan(Plan):
    """A plan for contiguous arrays of one dtype and one library that lie on one device."""

    in_place = True
    symbolic_norms = True

    def __init__(self, program: Program, leaves: Sequence[Leaf]) -> None:
        super().__init__(program, leaves)
        self.library = library = leaves[0].library
        number = library.cuda(leaves[0].p)
        assert number is not None  # noqa: S101 - it was not refused
        self.number, self.device = number, device(number)
        self.stream: Any = None  # the library's current one when a step begins
        self.sending: Any = None  # the stream in whose order words are sent
        self.destinations: list[Array] = [leaf.destination for leaf in leaves]
        self.results = [Result(leaf.p, leaf.slots) for leaf in leaves]
        self.dtype_name = library.dtype(leaves[0].p)
        self.dtype = np.dtype(ELEMENTS[element(self.dtype_name)].real)  # that of the arithmetic
        memories = [[library.memory(a) for a in (leaf.p, *leaf.slots)] for leaf in leaves]
        # The length of each gradient.
        self.bytes = np.array([math.prod(m.shape) * m.itemsize if m else 0 for m, *_ in memories], np.uint64)
        self.memories = [m for each in memories for m in each if m is not None]
        self.fingerprint = library.fingerprint(self.destinations)
        self.chunks, self.blocks = chunk_map([math.prod(leaf.p.shape) * (1 + leaf.of_complex) for leaf in leaves])
        self.addresses = [[*map(_address, each)] for each in memories]
        self.beside = BesideOnDevice(library, leaves, self.dtype.name)
        self.launches: dict[Any, Launch] = {}
        with self.device.scope():
            self.owned = Owned(self.device)
            self._lay()
            if program.reductions:  # room for the rows of one reduction
                self.sums = self.owned.kept(self.device.allocate(COLUMNS * self.blocks[-1]))

    def _lay(self) -> None:
        """Put the table of addresses on the device."""
        # There is one block more: the end of the last leaf.
        rows = zip(self.blocks, self.addresses, self.beside.addresses, strict=False)
        table = [word for first, own, beside in rows for word in (first, *own, *beside)]
        # The norms, which the device alone knows, stand behind the table: one for each part of the program.
        words = np.array([*table, *[0] * len(self.program.parts)], np.uint64)
        self.table = self.owned.kept(self.device.put(words))
        self.numbers = self.table + 8 * len(table)

    @property
    def written(self) -> Written:
        return Written(device=self.memories)

    def avoid_aliasing(self, written: Written) -> None:
        same_space = [m for m in written.device if self.memories and m.space == self.memories[0].space]
        # One stretch more, behind all others, so that each gradient has a stretch behind it.
        stretches = merged_ranges(same_space)
        self.forbidden = [np.array([*stretch, 2**64 - 1], np.uint64) for stretch in stretches]
        if self.beside.detach(stretches):
            with self.device.scope():
                self._lay()

    def _no_overlap(self, addresses: NDArray) -> NDArray:
        """For each gradient, whether it shares no memory with what is written."""
        begins, ends = self.forbidden
        return np.asarray(addresses + self.bytes <= begins[ends.searchsorted(addresses, side="right")])

    def regather(self, xs: Sequence[Array]) -> Gathered | None:
        self.stream = self.sending = self.device.stream(self.library.stream(self.number))
        self.beside.load()
        if not self.library.unchanged_all(self.destinations, self.fingerprint) or self.library.capturing(self.number):
            return None
        begins = self.library.addresses(xs, self.fingerprint)
        if begins is None:
            return None
        addresses = np.array(begins, np.uint64)
        return Gathered(addresses, ()) if self._no_overlap(addresses).all() else None

    def gather(self, xs: Sequence[Array]) -> Gathered:
        self.stream = self.sending = self.device.stream(self.library.stream(self.number))
        self.beside.load()
        kept = [self.library.load(x) for x in xs]
        addresses = np.array([_address(self.library.memory(x)) for x in kept], np.uint64)
        for i in np.flatnonzero(~self._no_overlap(addresses)):
            kept[i] = self.library.copied(kept[i])
            addresses[i] = _address(self.library.memory(kept[i]))
        return Gathered(addresses, kept)

    def value(self, k: int, gathered: Gathered, rows: CoefficientTable) -> Any:
        n = self.blocks[-1]
        reduction = self.program.reduction(k)
        if not (n and _symbolic(reduction)):
            return super().value(k, gathered, rows) if n else reduction.value(np, [])
        half, threads = (1 << (n - 1).bit_length()) // 2, HALVERS * HALVING
        with self.device.scope():
            self.run(self._launches(k, gathered, rows), self.sums)
            if half > threads:
                self._reduce("halve", HALVERS, HALVING, self.sums, n, half, threads)
                n, half = threads, threads // 2
            self._reduce("halve", 1, HALVING, self.sums, n, half, 1)
            self._reduce("root", 1, 1, self.sums, self.numbers + 8 * k)
            self.sending.record(self.owned.event)
        return symbol(k)

    def fetch_norm(self, k: int) -> float:
        with self.device.scope():
            return float(self.device.fetched(self.numbers + 8 * k, 1, self.stream)[0])

    def reduced(self, k: int, gathered: Gathered, rows: CoefficientTable) -> list[NDArray]:
        # The sums of several devices meet on the host.
        with self.device.scope():
            self.run(self._launches(k, gathered, rows), self.sums)
            words = self.device.fetched(self.sums, COLUMNS * self.blocks[-1], self.stream)
        largest = self.program.reduction(k).kind == "largest"
        table = words.view(np.float64 if largest else np.int64).reshape(-1, COLUMNS)[:, : 1 if largest else COLUMNS]
        return [table[a:b] for a, b in itertools.pairwise(self.blocks)]

    def _reduce(self, name: str, blocks: int, threads: int, *arguments: int) -> None:
        self.device.launch(self.stream, self.device.kernel(name, REDUCTION), blocks, threads, *arguments)()

    def prepare_anew(self, gathered: Gathered, rows: CoefficientTable) -> Commit:
        self.last_step = None
        with self.device.scope():
            self.latest = launches = self._launches(None, gathered, rows)
        if len(rows.distinct) == 1 and lasting(rows.distinct):
            (one,) = launches
            self.last_step = Replay(rows, one.scalars, self.dtype, [one.numbers[: len(one.scalars)]])
        return self.again(gathered)

    def again(self, gathered: Gathered) -> Commit:
        todo = [*self.latest]
        for one in todo:
            one.addresses[...] = gathered.addresses

        def commit() -> Sequence[Result]:
            self.run(todo)
            self.touch()
            return self.results

        return commit

    def _launches(self, k: int | None, gathered: Gathered, rows: CoefficientTable) -> list[Launch]:
        """The launches of a step, or of the reduction that is part `k`: one for each set of static options."""
        static = [static_options(row) for row in rows.distinct]
        launches = []
        for key in dict.fromkeys(static):
            members = None if static.count(key) == len(static) else tuple(static[r] == key for r in rows.row_of_leaf)
            one = self.launches.get((k, key, members))
            if one is None:
                chunks = self.chunks if members is None else self.chunks[np.array(members)[self.chunks["leaf"]]]
                its_kernel = kernel_of(self.program, k, key, self.dtype_name)
                one = self.launches[k, key, members] = Launch(self.owned, its_kernel, chunks, self.dtype)
            its_rows = [row if other == key else None for row, other in zip(rows.distinct, static, strict=True)]
            one.set(gathered.addresses, rows.row_of_leaf, its_rows)
            launches.append(one)
        return launches

    def run(self, launches: list[Launch], *more: int) -> None:
        """Run launches that are set, and cross each out; so that called again it goes on with what is left."""
        with self.device.scope():
            while launches:
                in_one_go([*launches[0].calls(self, *more), partial(launches.pop, 0)])
            self.sending.record(self.owned.event)  # after which the device is done with what is owned


def _address(memory: MemoryLayout | None) -> int:
    return 0 if memory is None else memory.address


def chunk_map(lengths: Sequence[int]) -> tuple[np.ndarray[Any, Any], list[int]]:
    """A row for each chunk: first element, leaf, length. And the first block of the reduction in each leaf."""
    each = np.array(lengths, np.int64)
    counts = -(-each // CHUNK)
    leaf = np.repeat(np.arange(len(each)), counts)
    chunks = np.empty(len(leaf), CHUNKS)
    chunks["leaf"], chunks["begin"] = leaf, CHUNK * (np.arange(len(leaf)) - (counts.cumsum() - counts)[leaf])
    chunks["count"] = np.minimum(CHUNK, each[leaf] - chunks["begin"])
    return chunks, [0, *np.cumsum(-(-each // BLOCK)).tolist()]
