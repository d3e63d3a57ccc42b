"""Steps that are recorded in CUDA graphs: what changes from replay to replay stands on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anyoptim._arrays import Library
from anyoptim._engines import cuda
from anyoptim._engines._buffers import Placed, buffers
from anyoptim._engines._launches import Gathered, Owned, reduction
from anyoptim._engines._leaf import Leaf, NDArray, Rows
from anyoptim._program import Program
from anyoptim._trace import Symbol, symbol

__all__ = ["Cells", "Recorded"]


class Cells:
    """Numbers of an optimizer, float64, on a device: what it measures, the count of replays, its hyperparameters."""

    def __init__(self, library: Library, number: int, norms: int, values: Sequence[float]) -> None:
        self.library, self.number = library, number
        self.machine = cuda.device(number)
        self._count, self._first = norms, norms + 1
        self._values = [*values]
        self._owned = Owned(self.machine, Placed)
        self._cells = self._owned.upload(self._first + len(values))
        self._cells.send(np.array([0.0] * self._first + self._values).view(np.uint64), 0)
        self.address = self._cells.address

    @property
    def count(self) -> Symbol:
        """How many steps were replayed, this one included."""
        return symbol(self._count)

    def value(self, i: int) -> Symbol:
        """The value of this number as it was last set."""
        return symbol(self._first + i)

    def set(self, i: int, value: float) -> None:
        """Have replays from now on, on the library's current stream, read another value."""
        stream = self.library.stream(self.number)
        own = buffers(self.machine)
        pinned = own.pinned(8)
        pinned.words[:1].view(np.float64)[0] = value
        self.machine.send(self.address + 8 * (self._first + i), pinned.address, 8, stream)
        own.record(pinned.event, stream)
        own.give_pinned(pinned)

    def tick(self, by: int) -> None:
        """Count so many steps; while a graph is being recorded, at each of its replays."""
        stream = self.library.stream(self.number)
        count = self.address + 8 * self._count
        self.machine.launch(reduction(self.machine, "tick"), 1, 1, stream, (count, by % 2**64))

    def counted(self) -> int:
        """How many steps were counted. Waits for the device."""
        found = np.zeros(1)
        self.machine.fetch(found, self.address + 8 * self._count, self.library.stream(self.number))
        return int(found[0])


_FOR_EVER: list[Recorded] = []
"""Nobody tells when a graph is gone; what its replays write to, parameters and slots too, must not be another's."""


class Recorded(cuda.Cuda):
    """The same as a part of a graph: sent is nothing, and everything is read where it was when it was recorded."""

    lasting = False
    sending = Placed

    def __init__(self, cells: Cells, program: Program, leaves: Sequence[Leaf]) -> None:
        super().__init__(program, leaves)
        self.numbers = cells.address
        self._gathered: list[Any] = []
        _FOR_EVER.append(self)

    def gather(self, xs: Sequence[Any]) -> Gathered:
        found = super().gather(xs)
        self._gathered.append((xs, found))
        return found

    def squares(self, k: int, gathered: Gathered, rows: Rows) -> list[NDArray]:
        raise RuntimeError(
            "a norm over several dtypes or devices meets on the host, and can't be captured in a CUDA graph; "
            "wanted parameters of one dtype on one device"
        )

    def _launched(self) -> None:
        """Events of a recording can't be asked for, and nothing is given back."""
