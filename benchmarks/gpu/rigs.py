"""What the parts ask of an array library and its device: arrays, streams, graphs."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK", "CuPy", "Rig", "Torch", "present"]

BLOCK = 1 << 20
"""Floats that are drawn for a long array, which repeats them: a copy of zeros may be faster than one of others."""

On = Callable[[], contextlib.AbstractContextManager[Any]]


class Rig:
    """An array library. This one is NumPy: the reference, with nothing to wait for."""

    name = "numpy"
    """As `tests.support.libraries` has it."""
    xp: Any = np

    def array(self, values: NDArray[Any]) -> Any:
        """The values in a new array."""
        return self.xp.array(values)

    def rows(self, x: Any, n: int) -> Any:
        """A new array of so many equal rows."""
        return self.xp.tile(x, (n, 1))

    def arrays(self, values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The values in new arrays; of rows that are one and the same only that is sent."""
        return {k: self.array(a) if all(a.strides) else self.rows(self.array(a[0]), len(a)) for k, a in values.items()}

    def parameters(self, values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The same in arrays of the kind that a model has."""
        return self.arrays(values)

    def numpy(self, x: Any) -> NDArray[Any]:
        """The values of an array, when the current stream has come so far."""
        return np.array(x)

    def copy(self, x: Any) -> Any:
        """A contiguous array with the same values, new."""
        return x.copy()

    def assign(self, to: Any, x: Any) -> None:
        """Copy the values of one contiguous array to another."""
        self.xp.copyto(to, x)

    def wait(self) -> None:
        """Wait until the device has done everything."""

    def stream(self) -> On:
        """What makes a new stream the current one, which waits for no other by itself."""
        return contextlib.nullcontext

    def mark(self) -> Any:
        """An event that takes place when the current stream comes to it."""

    def follow(self, event: Any) -> None:
        """Let the current stream wait for an event."""

    def captured(self, work: Callable[[], object]) -> Callable[[], object]:
        """What a graph recorded while the work was called, to be replayed."""
        return work

    def used(self) -> int:
        """Bytes of the device that anybody holds."""
        return 0

    def free(self) -> None:
        """Give back what the library keeps for itself."""


class CuPy(Rig):
    """CuPy, on its current device."""

    name = "cupy"

    def __init__(self, xp: Any = None) -> None:
        self.xp = xp or importlib.import_module("cupy")
        self.cuda = self.xp.cuda
        if not self.cuda.runtime.getDeviceCount():
            raise RuntimeError("CuPy sees no device")

    def numpy(self, x: Any) -> NDArray[Any]:
        return np.array(self.xp.asnumpy(x))

    def wait(self) -> None:
        self.cuda.runtime.deviceSynchronize()

    def stream(self) -> On:
        made = self.cuda.Stream(non_blocking=True)
        return lambda: made

    def mark(self) -> Any:
        return self.cuda.get_current_stream().record()

    def follow(self, event: Any) -> None:
        self.cuda.get_current_stream().wait_event(event)

    def captured(self, work: Callable[[], object]) -> Callable[[], object]:
        with self.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            try:
                work()
            finally:
                graph = stream.end_capture()
        return partial(graph.launch, stream)

    def used(self) -> int:
        free, total = self.cuda.runtime.memGetInfo()
        return int(total - free)

    def free(self) -> None:
        self.xp.get_default_memory_pool().free_all_blocks()


class Torch(Rig):
    """torch, on its current CUDA device."""

    name = "torch-cuda"

    def __init__(self, torch: Any = None, device: str = "cuda") -> None:
        self.xp, self.device = torch or importlib.import_module("torch"), device
        self.cuda = self.xp.cuda
        if not self.cuda.is_available():
            raise RuntimeError("torch sees no CUDA device")

    def array(self, values: NDArray[Any]) -> Any:
        return self.xp.tensor(np.asarray(values), device=self.device)

    def parameters(self, values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        return {k: self.xp.nn.Parameter(a) for k, a in self.arrays(values).items()}

    def numpy(self, x: Any) -> NDArray[Any]:
        return np.array(x.detach().cpu().numpy())

    def copy(self, x: Any) -> Any:
        return x.clone(memory_format=self.xp.contiguous_format)

    def assign(self, to: Any, x: Any) -> None:
        to.copy_(x)

    def wait(self) -> None:
        self.cuda.synchronize()

    def stream(self) -> On:
        return partial(self.cuda.stream, self.cuda.Stream())

    def mark(self) -> Any:
        return self.cuda.current_stream().record_event()

    def follow(self, event: Any) -> None:
        self.cuda.current_stream().wait_event(event)

    def captured(self, work: Callable[[], object]) -> Callable[[], object]:
        graph = self.cuda.CUDAGraph()
        with self.cuda.graph(graph):
            work()
        return graph.replay  # type: ignore[no-any-return]

    def used(self) -> int:
        free, total = self.cuda.mem_get_info()
        return int(total - free)

    def free(self) -> None:
        self.cuda.empty_cache()


def present() -> dict[str, Rig]:
    """Those that work here, by name. Says of the others why not; they have no results, which the goals then miss."""
    found: dict[str, Rig] = {}
    for kind in (CuPy, Torch):
        try:
            found[kind.name] = kind()
        except Exception as error:  # whatever a broken installation raises
            print(f"{kind.name} can't be used: {type(error).__name__}: {error}")
    return found
