"""Kernels on a device, and what they are given: tables, chunk maps, rows of coefficients."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import Array
from anyoptim._engines._buffers import Machine, Upload, buffers
from anyoptim._engines._leaf import NDArray
from anyoptim._program import Options, Program
from anyoptim._reduction import BLOCK
from anyoptim._render import CHUNK, REDUCTION, THREADS, Kernel, coefficients, kernel, kernel_measure
from anyoptim._trace import Scalar, trace, trace_measure

__all__ = ["CHUNKS", "Call", "Gathered", "Loaded", "Owned", "Pass", "chunk_map", "load", "reduction", "text"]

CHUNKS = np.dtype([("begin", np.int64), ("leaf", np.int32), ("count", np.int32)])


def chunk_map(lengths: Sequence[int]) -> tuple[NDArray, list[int]]:
    """For each chunk its first element, leaf and length; and the first block of the reduction in each leaf."""
    lengths_, firsts = np.array(lengths, np.int64), np.zeros(len(lengths) + 1, np.int64)
    counts = -(-lengths_ // CHUNK)
    chunks = np.zeros(int(counts.sum()), CHUNKS)
    chunks["leaf"] = np.repeat(np.arange(len(lengths_)), counts)
    ends = np.cumsum(counts)
    chunks["begin"] = (np.arange(len(chunks)) - np.repeat(ends - counts, counts)) * CHUNK
    chunks["count"] = np.minimum(CHUNK, np.repeat(lengths_, counts) - chunks["begin"])
    np.cumsum(-(-lengths_ // BLOCK), out=firsts[1:])
    return chunks, firsts.tolist()


class Loaded(NamedTuple):
    """A kernel on a device."""

    function: Any
    scalars: tuple[Scalar, ...]


def text(program: Program, k: int | None, static: Options, dtype: str) -> Kernel:
    """The CUDA C of the step, or of what part `k` measures."""
    if k is None:
        return kernel(trace(program, static), dtype)
    return kernel_measure(trace_measure(program, k, static), dtype)


@functools.lru_cache(maxsize=256)
def load(machine: Machine, program: Program, k: int | None, static: Options, dtype: str) -> Loaded:
    """The machine code of the step, or of what part `k` measures."""
    found = text(program, k, static, dtype)
    return Loaded(machine.load(found.name, found.text), found.scalars)


@functools.cache
def reduction(machine: Machine, name: str) -> Any:
    """One of the kernels that are no rule's."""
    return machine.load(name, REDUCTION)


@functools.lru_cache(maxsize=256)
def _coefficients(machine: Machine, expressions: tuple[tuple[int, Scalar], ...]) -> Any:
    found = coefficients(expressions)
    return machine.load(found.name, found.text)


class Gathered(NamedTuple):
    """Gradients."""

    addresses: NDArray
    kept: Sequence[Array]
    """What may be nobody else's any more."""


class Call(NamedTuple):
    """A kernel and what it is given at one step."""

    kernel: Loaded
    members: tuple[bool, ...] | None
    """Which leaves it is for; None for all."""
    words: NDArray
    """For each leaf the address of its gradient and the number of its row; the rows; what expressions are of."""
    leaves: int
    expressions: tuple[tuple[int, Scalar], ...]
    """What of the rows the device has to compute."""
    numbers: int
    """How many there are in all rows."""


class Owned:
    """Memory of a device that goes back when its owner is gone and the device is done."""

    def __init__(self, machine: Machine, kind: type[Upload] = Upload) -> None:
        self._machine, self._kind = machine, kind
        self._uploads: list[Upload] = []
        self.event = buffers(machine).event()

    def upload(self, words: int) -> Upload:
        """Room for so many words."""
        self._uploads.append(self._kind(self._machine, words))
        return self._uploads[-1]

    def give(self) -> None:
        """Give all back, for when the event is over."""
        while self._uploads:
            self._uploads.pop().give(self.event)


class Pass:
    """A kernel over the chunks of some leaves, step after step: what it needs is made ready before anything is run."""

    def __init__(self, machine: Machine, owned: Owned, chunks: NDArray) -> None:
        self._machine, self._owned = machine, owned
        self._chunks = chunks.view(np.uint64)
        self._blocks = len(chunks)
        self._map = owned.upload(self._chunks.size)
        self._step = owned.upload(0)

    def ready(self, call: Call) -> None:
        """Make what a call needs: its place on the device, and the kernel for its expressions."""
        if self._step.bytes < call.words.nbytes:
            self._step = self._owned.upload(call.words.size)
        if call.expressions:
            _coefficients(self._machine, call.expressions)

    def run(self, call: Call, stream: int, table: int, numbers: int, *more: int) -> None:
        """Launch it, after what it needs: `table` and `numbers` are addresses on the device."""
        if not self._blocks:
            return
        step = self._step
        self._map.once(self._chunks, stream)
        step.send(call.words, stream)
        rows = step.address + 16 * call.leaves
        if call.expressions:
            function = _coefficients(self._machine, call.expressions)
            self._machine.launch(function, 1, 1, stream, (rows, rows + 8 * call.numbers, numbers))
        arguments = (table, self._map.address, step.address, rows, *more)
        self._machine.launch(call.kernel.function, self._blocks, THREADS, stream, arguments)
