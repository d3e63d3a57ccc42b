"""Steps that are recorded in CUDA graphs: what changes from replay to replay stands on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from anyoptim._arrays import Library
from anyoptim._engines._base import CoefficientTable, Leaf, NDArray, Plan
from anyoptim._engines.cuda import _engine as cuda
from anyoptim._engines.cuda._source import REDUCTION
from anyoptim._trace._program import Program
from anyoptim._trace._symbols import Symbol, symbol

__all__ = ["Cells", "Recorded"]


class Cells:
    """Numbers of an optimizer, float64, on a device: what it measures, the count of replays, its hyperparameters."""

    def __init__(self, library: Library, number: int, norms: int, values: Sequence[float]) -> None:
        self.library, self.number, self.device = library, number, cuda.device(number)
        self._count, self._first = norms, norms + 1
        with self.device.scope():
            cells = self.device.put(np.array([0.0] * self._first + [*values]).view(np.uint64))
        self.address = int(cells.handle)
        _FOR_EVER.append(cells)

    @property
    def engines(self) -> Mapping[str, Callable[..., Plan]]:
        """Those whose steps can be recorded in a CUDA graph."""
        return {"cuda": partial(Recorded, self)}

    @property
    def count(self) -> Symbol:
        """How many steps were replayed, this one included."""
        return symbol(self._count)

    def value(self, i: int) -> Symbol:
        """The value of this number as it was last set."""
        return symbol(self._first + i)

    @property
    def _stream(self) -> Any:
        return self.device.stream(self.library.stream(self.number))

    def set(self, i: int, value: float) -> None:
        """Have replays from now on, on the library's current stream, read another value."""
        with self.device.scope():
            cell = self.device.core.Buffer.from_handle(self.address + 8 * (self._first + i), 8)
            self.device.send(cell, np.array([value]).view(np.uint64), self._stream)

    def tick(self, by: int) -> None:
        """Count so many steps; while a graph is being recorded, at each of its replays."""
        with self.device.scope():
            count, kernel = self.address + 8 * self._count, self.device.kernel("tick", REDUCTION)
            self.device.launch(self._stream, kernel, 1, 1, count, by)

    def counted(self) -> int:
        """How many steps were counted. Waits for the device."""
        with self.device.scope():
            return int(self.device.fetched(self.address + 8 * self._count, 1, self._stream)[0])


_FOR_EVER: list[Any] = []
"""Nobody tells when a graph is gone; what its replays write to, parameters and slots too, must not be another's."""


class Recorded(cuda.Cuda):
    """The same as a part of a graph: everything is read where it was, and as it was, when that was recorded."""

    lasting = False

    def __init__(self, cells: Cells, program: Program, leaves: Sequence[Leaf]) -> None:
        super().__init__(program, leaves)
        self.numbers = cells.address

    def gather(self, xs: Sequence[Any]) -> cuda.Gathered:
        found = super().gather(xs)
        # Words are there at once, and events are not the recording's, which can't be asked for: nothing is given back.
        self.sending = self.device.aside
        _FOR_EVER.append((self, xs, found))
        return found

    def squares(self, k: int, gathered: cuda.Gathered, rows: CoefficientTable) -> list[NDArray]:
        raise RuntimeError(
            "a norm over several dtypes or devices meets on the host, and can't be captured in a CUDA graph; "
            "wanted parameters of one dtype on one device"
        )
