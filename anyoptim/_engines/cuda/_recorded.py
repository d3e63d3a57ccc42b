"""Steps that are recorded in CUDA graphs: what changes from replay to replay stands on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from anyoptim._arrays import Library
from anyoptim._engines._base import Leaf, NDArray, Plan
from anyoptim._engines.cuda import _plan
from anyoptim._engines.cuda._source import REDUCTION
from anyoptim._machine._completed import in_one_go
from anyoptim._trace._coefficients import CoefficientTable
from anyoptim._trace._program import Program
from anyoptim._trace._symbols import Symbol, symbol

__all__ = ["Cells", "RecordedPlan"]


class Cells:
    """Numbers of an optimizer on a device, in float64: its norms, the count of replays, its hyperparameters."""

    def __init__(self, library: Library, number: int, norms: int, values: Sequence[float]) -> None:
        self.library, self.number, self.device = library, number, _plan.device(number)
        self._count, self._first = norms, norms + 1
        with self.device.scope():
            cells = self.device.put(np.array([0.0] * self._first + [*values]).view(np.uint64))
        self.address = int(cells.handle)
        _FOR_EVER.append(cells)

    @property
    def plans(self) -> Mapping[str, Callable[[Program, Sequence[Leaf]], Plan]]:
        """What makes the plans of the only engine whose steps can be recorded in a CUDA graph."""
        return {"cuda": partial(RecordedPlan, self)}

    @property
    def count(self) -> Symbol:
        """The number of steps that were replayed, this one included."""
        return symbol(self._count)

    def value(self, i: int) -> Symbol:
        """The value of a hyperparameter as it was last set."""
        return symbol(self._first + i)

    @property
    def _stream(self) -> Any:
        return self.device.stream(self.library.stream(self.number))

    def set(self, i: int, value: float) -> None:
        """Set the value that replays read from now on, in the order of the library's current stream."""
        with self.device.scope():
            cell = self.device.core.Buffer.from_handle(self.address + 8 * (self._first + i), 8)
            self.device.send(cell, np.array([value]).view(np.uint64), self._stream)

    def tick(self, by: int, then: Callable[[], object] = int) -> None:
        """Count so many steps, or do so at each replay of a graph that is recorded; and call `then` in the same go."""
        with self.device.scope():
            count, kernel = self.address + 8 * self._count, self.device.kernel("tick", REDUCTION)
            in_one_go([self.device.launch(self._stream, kernel, 1, 1, count, by), then])

    def counted(self) -> int:
        """The number of steps that were counted. Waits for the device."""
        with self.device.scope():
            return int(self.device.fetched(self.address + 8 * self._count, 1, self._stream)[0])


_FOR_EVER: list[Any] = []
"""What replays write to, parameters and slots too: nobody says when a graph is gone, and nothing of it may be freed."""


class RecordedPlan(_plan.CudaPlan):
    """A plan whose step is recorded in a graph, so that everything is read where it was at the time."""

    in_place = False

    def __init__(self, cells: Cells, program: Program, leaves: Sequence[Leaf]) -> None:
        super().__init__(program, leaves)
        self.numbers = cells.address

    def gather(self, xs: Sequence[Any]) -> _plan.Gathered:
        gathered = super().gather(xs)
        # By the stream aside words are there at once, and no event becomes the recording's, which couldn't be asked.
        self.sending = self.device.aside
        _FOR_EVER.append((self, xs, gathered))
        return gathered

    def reduced(self, k: int, gathered: _plan.Gathered, rows: CoefficientTable) -> list[NDArray]:
        raise RuntimeError(
            "a norm over several dtypes or devices meets on the host, and can't be captured in a CUDA graph; "
            "wanted parameters of one dtype on one device"
        )
