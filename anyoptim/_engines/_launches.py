"""Kernels on a device, the words that they are given, and memory for these."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import Array
from anyoptim._engines._device import Device
from anyoptim._engines._leaf import NDArray
from anyoptim._program import Options, Program, Row
from anyoptim._render import THREADS, Expressions, Kernel, coefficients, kernel, kernel_measure, rows_of
from anyoptim._trace import Scalar, trace, trace_measure

__all__ = ["Gathered", "Owned", "Pass", "Upload", "load", "text"]


def text(program: Program, k: int | None, static: Options, dtype: str, taken: Collection[str] = ()) -> Kernel:
    """The CUDA C of the step, or of what part `k` measures, by a name that is none of those taken."""
    if k is None:
        return kernel(trace(program, static), dtype, taken)
    return kernel_measure(trace_measure(program, k, static), dtype, taken)


@functools.lru_cache(maxsize=256)
def load(
    device: Device, program: Program, k: int | None, static: Options, dtype: str
) -> tuple[Any, tuple[Scalar, ...]]:
    """The same as a kernel of the device, and what stands in a row of its coefficients."""
    found = text(program, k, static, dtype)
    return device.kernel(found.name, found.text), found.scalars


@functools.lru_cache(maxsize=256)
def _coefficients(device: Device, expressions: Expressions) -> Any:
    found = coefficients(expressions)
    return device.kernel(found.name, found.text)


class Gathered(NamedTuple):
    """Gradients."""

    addresses: NDArray
    kept: Sequence[Array]
    """What may be nobody else's any more."""


class Upload:
    """Words that stand on a device, sent there anew where they have changed."""

    def __init__(self, device: Device, words: int) -> None:
        self._device = device
        self._sent: NDArray | None = None
        # In few sizes, so that what comes back finds a taker.
        self.buffer = device.allocate(-(-max(8 * words, 1) // 4096) * 4096)
        self.address = int(self.buffer.handle)

    def send(self, words: NDArray, stream: Any) -> None:
        """Have the device see these words, uint64, in the order of a stream."""
        if self._sent is None or not np.array_equal(words, self._sent):
            self._device.send(self.buffer, words, stream)
            self._sent = words.copy()

    def once(self, words: NDArray, stream: Any) -> None:
        """The same for words that never change."""
        if self._sent is None:
            self.send(words, stream)


class Owned:
    """Memory of a device that goes back when its owner is gone and the device is done."""

    def __init__(self, device: Device) -> None:
        self.device, self.event = device, device.event()
        self._buffers: list[Any] = []

    def upload(self, words: int) -> Upload:
        """Room for so many words."""
        made = Upload(self.device, words)
        self._buffers.append(made.buffer)
        return made

    def give(self) -> None:
        """Give all back, for when the event is done."""
        self.device.drop(self.event, self._buffers)


class Pass:
    """A kernel over the chunks of some leaves, step after step: `set` makes ready whatever `run` needs."""

    def __init__(self, owned: Owned, loaded: tuple[Any, tuple[Scalar, ...]], chunks: NDArray) -> None:
        self._owned, (self._kernel, self.scalars) = owned, loaded
        self._chunks, self._blocks = chunks.view(np.uint64), len(chunks)
        self._map, self._step = owned.upload(self._chunks.size), owned.upload(0)

    def set(self, addresses: NDArray, which: Sequence[int], rows: Sequence[Row | None], dtype: Any) -> None:
        """For each leaf the address of its gradient and the number of its row; the rows."""
        numbers, expressions = rows_of(self.scalars, rows, dtype)
        self._leaves, self._numbers = len(addresses), len(rows) * len(self.scalars)
        self._words = np.empty(2 * self._leaves + numbers.size, np.uint64)
        self.numbers = self._words[2 * self._leaves :].view(np.float64)
        self.numbers[...], self._words[1 : 2 * self._leaves : 2] = numbers, which
        self.move(addresses)
        if self._step.buffer.size < self._words.nbytes:
            self._step = self._owned.upload(self._words.size)
        self._computed = _coefficients(self._owned.device, expressions) if expressions else None

    def move(self, addresses: NDArray) -> None:
        """Take gradients from elsewhere."""
        self._words[0 : 2 * self._leaves : 2] = addresses

    def run(self, stream: Any, sending: Any, leaves: int, known: int, *more: int) -> None:
        """Launch it, after what it needs: `leaves` and `known` are where the table and what only the device knows are.

        Words are sent in the order of a stream of their own.
        """
        if not self._blocks:
            return
        launch, step = self._owned.device.launch, self._step
        self._map.once(self._chunks, sending)
        step.send(self._words, sending)
        rows = step.address + 16 * self._leaves
        if self._computed is not None:
            launch(stream, self._computed, 1, 1, rows, rows + 8 * self._numbers, known)
        launch(stream, self._kernel, self._blocks, THREADS, leaves, self._map.address, step.address, rows, *more)
