"""Kernels on a device, the words that they are given, and memory for these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import Array
from anyoptim._engines._device import Device
from anyoptim._engines._leaf import NDArray
from anyoptim._program import Row
from anyoptim._render._tables import rows_of
from anyoptim._render.cuda import THREADS, Kernel, coefficients

__all__ = ["Gathered", "Owned", "Pass"]


class Gathered(NamedTuple):
    """Gradients."""

    addresses: NDArray
    kept: Sequence[Array]  # what may be nobody else's any more


class Owned:
    """Memory of a device that goes back when its owner is gone and the device is done."""

    def __init__(self, device: Device) -> None:
        self.device, self.event = device, device.core_device.create_event()
        self.buffers: list[Any] = []

    def room(self, words: int) -> Any:
        """A buffer for so many words."""
        self.buffers.append(self.device.allocate(words))
        return self.buffers[-1]


class Pass:
    """A kernel over the chunks of some leaves, step after step: `set` makes ready whatever `run` needs."""

    def __init__(self, owned: Owned, kernel: Kernel, chunks: NDArray) -> None:
        self._owned, self._device, self.scalars = owned, owned.device, kernel.scalars
        self._kernel = self._device.kernel(kernel.name, kernel.text)
        self._blocks, self._chunks = len(chunks), chunks.view(np.uint64)
        self._map, self._step, self._sent = owned.room(self._chunks.size), owned.room(0), False

    def set(self, addresses: NDArray, which: Sequence[int], rows: Sequence[Row | None], dtype: Any) -> None:
        """For each leaf the address of its gradient and the number of its row; the rows."""
        numbers, expressions = rows_of(self.scalars, rows, dtype)
        self._leaves, self._numbers = len(addresses), len(rows) * len(self.scalars)
        self._words = np.empty(2 * self._leaves + numbers.size, np.uint64)
        self.addresses, self.numbers = self._words[: 2 * self._leaves : 2], self._words[2 * self._leaves :].view("f8")
        self.addresses[...], self._words[1 : 2 * self._leaves : 2], self.numbers[...] = addresses, which, numbers
        if self._step.size < self._words.nbytes:
            self._step = self._owned.room(self._words.size)
        found = coefficients(expressions) if expressions else None
        self._computed = found and self._device.kernel(found.name, found.text)

    def run(self, stream: Any, sending: Any, leaves: int, known: int, *more: int) -> None:
        """Launch it, after what it needs: `leaves` and `known` are where the table and what only the device knows are.

        Words are sent in the order of a stream of their own.
        """
        if not self._blocks:
            return
        device = self._device
        if not self._sent:
            device.send(self._map, self._chunks, sending)
            self._sent = True
        device.send(self._step, self._words, sending)
        chunks, step = int(self._map.handle), int(self._step.handle)
        rows = step + 16 * self._leaves
        if self._computed is not None:
            device.launch(stream, self._computed, 1, 1, rows, rows + 8 * self._numbers, known)
        device.launch(stream, self._kernel, self._blocks, THREADS, leaves, chunks, step, rows, *more)
