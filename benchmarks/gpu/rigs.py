"""What the parts ask of an array library and its device: arrays, clocks, streams, graphs."""

from __future__ import annotations

import contextlib
import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Copy", "CuPy", "Host", "Rig", "Torch", "present"]

BLOCK = 1 << 20
"""Floats that are drawn for a buffer, which repeats them: a copy of zeros may be faster than one of anything else."""

OCCUPIED, TIMES = 512 * 2**20, 6
"""Bytes, and how often they are copied, to keep a device busy: about 2 ms of an H100, and ten times its cache."""


class Rig(ABC):
    """An array library and its device. Events and streams are the library's own."""

    name: str
    """As `tests.libraries` has it."""
    title: str
    """For people."""
    xp: Any
    """The library."""

    def __init__(self) -> None:
        self._busy: Copy | None = None

    @abstractmethod
    def array(self, values: NDArray[Any]) -> Any:
        """The values in a new array."""

    @abstractmethod
    def empty(self, n: int) -> Any:
        """A float32 array of any values."""

    def parameters(self, values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The values in new arrays of the kind that a model has."""
        return {k: self.array(a) for k, a in values.items()}

    @abstractmethod
    def numpy(self, x: Any) -> NDArray[Any]:
        """The values of an array, when the current stream has come so far."""

    @abstractmethod
    def copy(self, x: Any) -> Any:
        """A contiguous array with the same values, new."""

    @abstractmethod
    def assign(self, to: Any, x: Any) -> None:
        """Copy the values of one contiguous array to another."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until the device has done everything."""

    @abstractmethod
    def event(self) -> Any:
        """A new event, which can be timed."""

    @abstractmethod
    def record(self, event: Any) -> None:
        """Let the event take place when the current stream comes to it."""

    @abstractmethod
    def between(self, first: Any, second: Any) -> float:
        """The milliseconds between two events that have taken place."""

    @abstractmethod
    def stream(self) -> Any:
        """A new stream, which waits for no other by itself."""

    @abstractmethod
    def on(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """Make a stream the current one."""

    @abstractmethod
    def follow(self, event: Any) -> None:
        """Let the current stream wait for an event."""

    @abstractmethod
    def captured(self, work: Callable[[], object]) -> Callable[[], object]:
        """What a graph recorded while the work was called, to be replayed."""

    @abstractmethod
    def used(self) -> int:
        """Bytes of the device that anybody holds."""

    @abstractmethod
    def free(self) -> None:
        """Give back what the library keeps for itself."""

    def occupy(self) -> None:
        """Keep the device busy for about two milliseconds; its cache then holds nothing of what came before."""
        self._busy = self._busy or Copy(self, OCCUPIED)
        for _ in range(TIMES):
            self._busy()


class Copy:
    """Two buffers of so many bytes, of which a call copies the first to the second."""

    def __init__(self, rig: Rig, n: int) -> None:
        self._rig = rig
        self._from, self._to = rig.empty(n // 4), rig.empty(n // 4)
        block = rig.array(np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32))
        for i in range(0, n // 4, BLOCK):
            part = self._from[i : i + BLOCK]
            rig.assign(part, block[: len(part)])

    def __call__(self) -> None:
        self._rig.assign(self._to, self._from)

    def wrong(self) -> float:
        """How many of the last elements did not arrive."""
        ends = (self._rig.numpy(a[-BLOCK:]) for a in (self._from, self._to))
        return float(np.sum(np.not_equal(*ends)))


class Host(Rig):
    """NumPy: the reference, and nothing to wait for."""

    name, title, xp = "numpy", "NumPy", np

    def array(self, values: NDArray[Any]) -> Any:
        return np.array(values)

    def empty(self, n: int) -> Any:
        return np.zeros(n, np.float32)

    def numpy(self, x: Any) -> NDArray[Any]:
        return np.array(x)

    def copy(self, x: Any) -> Any:
        return x.copy()

    def assign(self, to: Any, x: Any) -> None:
        to[...] = x

    def wait(self) -> None: ...

    def event(self) -> Any:
        return [0]

    def record(self, event: Any) -> None:
        event[0] = time.perf_counter_ns()

    def between(self, first: Any, second: Any) -> float:
        return float(second[0] - first[0]) / 1e6

    def stream(self) -> Any:
        return None

    def on(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def follow(self, event: Any) -> None: ...

    def captured(self, work: Callable[[], object]) -> Callable[[], object]:
        return work

    def used(self) -> int:
        return 0

    def free(self) -> None: ...


class CuPy(Rig):
    """CuPy, on its current device."""

    name, title = "cupy", "CuPy"

    def __init__(self, xp: Any = None) -> None:
        super().__init__()
        self.xp = xp or importlib.import_module("cupy")
        if not self.xp.cuda.runtime.getDeviceCount():
            raise RuntimeError("CuPy sees no device")

    def array(self, values: NDArray[Any]) -> Any:
        return self.xp.array(values)

    def empty(self, n: int) -> Any:
        return self.xp.empty(n, np.float32)

    def numpy(self, x: Any) -> NDArray[Any]:
        return np.array(self.xp.asnumpy(x))

    def copy(self, x: Any) -> Any:
        return x.copy()

    def assign(self, to: Any, x: Any) -> None:
        self.xp.copyto(to, x)

    def wait(self) -> None:
        self.xp.cuda.runtime.deviceSynchronize()

    def event(self) -> Any:
        return self.xp.cuda.Event()

    def record(self, event: Any) -> None:
        self.xp.cuda.get_current_stream().record(event)

    def between(self, first: Any, second: Any) -> float:
        return float(self.xp.cuda.get_elapsed_time(first, second))

    def stream(self) -> Any:
        return self.xp.cuda.Stream(non_blocking=True)

    def on(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        manager: contextlib.AbstractContextManager[Any] = stream
        return manager

    def follow(self, event: Any) -> None:
        self.xp.cuda.get_current_stream().wait_event(event)

    def captured(self, work: Callable[[], object]) -> Callable[[], object]:
        stream = self.stream()
        with stream:
            stream.begin_capture()
            try:
                work()
            finally:
                graph = stream.end_capture()
        return partial(graph.launch, stream)

    def used(self) -> int:
        free, total = self.xp.cuda.runtime.memGetInfo()
        return int(total - free)

    def free(self) -> None:
        self.xp.get_default_memory_pool().free_all_blocks()


class Torch(Rig):
    """torch, on its current CUDA device."""

    name, title = "torch-cuda", "torch"

    def __init__(self, torch: Any = None, device: str = "cuda") -> None:
        super().__init__()
        self.xp, self.device = torch or importlib.import_module("torch"), device
        if not self.xp.cuda.is_available():
            raise RuntimeError("torch sees no CUDA device")

    def array(self, values: NDArray[Any]) -> Any:
        return self.xp.tensor(np.asarray(values), device=self.device)

    def empty(self, n: int) -> Any:
        return self.xp.empty(n, dtype=self.xp.float32, device=self.device)

    def parameters(self, values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        return {k: self.xp.nn.Parameter(self.array(a)) for k, a in values.items()}

    def numpy(self, x: Any) -> NDArray[Any]:
        return np.array(x.detach().cpu().numpy())

    def copy(self, x: Any) -> Any:
        return x.clone(memory_format=self.xp.contiguous_format)

    def assign(self, to: Any, x: Any) -> None:
        to.copy_(x)

    def wait(self) -> None:
        self.xp.cuda.synchronize()

    def event(self) -> Any:
        return self.xp.cuda.Event(enable_timing=True)

    def record(self, event: Any) -> None:
        event.record()

    def between(self, first: Any, second: Any) -> float:
        return float(first.elapsed_time(second))

    def stream(self) -> Any:
        return self.xp.cuda.Stream()

    def on(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        manager: contextlib.AbstractContextManager[Any] = self.xp.cuda.stream(stream)
        return manager

    def follow(self, event: Any) -> None:
        self.xp.cuda.current_stream().wait_event(event)

    def captured(self, work: Callable[[], object]) -> Callable[[], object]:
        graph = self.xp.cuda.CUDAGraph()
        with self.xp.cuda.graph(graph):
            work()
        replay: Callable[[], object] = graph.replay
        return replay

    def used(self) -> int:
        free, total = self.xp.cuda.mem_get_info()
        return int(total - free)

    def free(self) -> None:
        self.xp.cuda.empty_cache()


def present() -> dict[str, Rig]:
    """Those that work here, by name. Says of the others why not; they have no results, which the goals then miss."""
    found: dict[str, Rig] = {}
    for kind in (CuPy, Torch):
        try:
            found[kind.name] = kind()
        except Exception as error:  # whatever a broken installation raises
            print(f"{kind.name} can't be used: {type(error).__name__}: {error}")
    return found
