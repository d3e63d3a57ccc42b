"""A CUDA device, by NVIDIA's cuda.core: kernels, memory and copies. It's imported when an array on a device arrives.

Ours is when memory may be used again: nothing here waits for the device but `fetch`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anyoptim._engines._leaf import NDArray

__all__ = ["OPTIONS", "Device", "device", "target"]

OPTIONS = {"fma": False, "ftz": False, "prec_div": True, "prec_sqrt": True, "std": "c++17"}
"""Every operation rounded as it is written: none contracted, none approximate, no subnormal flushed to zero."""


@functools.cache
def device(number: int) -> Device:
    """The device of this number, as the array libraries count them."""
    from cuda import core  # noqa: PLC0415 - for those who have one
    from cuda.bindings import driver, nvrtc  # noqa: PLC0415

    from anyoptim._engines._programs import programs  # noqa: PLC0415

    # What NVRTC knows cuda.core doesn't tell.
    return Device(number, core, driver, _told(*nvrtc.nvrtcGetSupportedArchs()), programs)


class Device:
    """A device, by its primary context, which is the one that array libraries use. All is to be called in its `scope`.

    Buffers, events, kernels and streams are cuda.core's.
    """

    def __init__(self, number: int, core: Any, driver: Any, known: Sequence[int], programs: Callable[[], Any]) -> None:
        self.core, self.driver, self._programs = core, driver, programs
        self.core_device, self.context = core.Device(number), -1
        self._dropped: deque[tuple[Any, Sequence[Any]]] = deque()
        self._pinned: defaultdict[int, deque[tuple[Any, NDArray, Any]]] = defaultdict(deque)
        with self.scope():
            self.context = int(self.core_device.context.handle)
            self.aside = self.core_device.create_stream()  # for what goes on beside all streams of others
            self._target = target(int(self.core_device.arch), known)
        # To make one takes cuda.core up to half as long as a step takes.
        self._config = functools.lru_cache(256)(lambda grid, block: core.LaunchConfig(grid=grid, block=block))
        self.stream = functools.lru_cache(64)(self._stream)
        self.kernel = functools.cache(self._kernel)  # and never unloaded: a graph may have it

    def scope(self) -> _Scope:
        """Within it the device is the current one, and what a capture on anybody's stream forbids is allowed."""
        return _Scope(self)

    def _stream(self, handle: int) -> Any:
        return self.core.Stream.from_handle(handle) if handle else self.core.LEGACY_DEFAULT_STREAM

    def _kernel(self, name: str, text: str) -> Any:
        """The kernel of this name in CUDA C."""
        program = self.core.Program(text, "c++", self.core.ProgramOptions(arch=self._target, **OPTIONS))
        kind = "cubin" if self._target.startswith("sm_") else "ptx"
        try:
            made = program.compile(kind, cache=self._programs())
        except OSError:  # the folder can't be read, or can't be written to
            made = program.compile(kind)
        return made.get_kernel(name)

    def launch(self, stream: Any, kernel: Any, blocks: int, threads: int, *arguments: Any) -> None:
        """Run a kernel, whose parameters all have eight bytes, in the order of a stream."""
        self.core.launch(stream, self._config(blocks, threads), kernel, *arguments)

    def event(self) -> Any:
        """A new event, which is done."""
        return self.core_device.create_event()

    def allocate(self, n: int) -> Any:
        """So many bytes on the device, which any stream may use at once."""
        with contextlib.suppress(IndexError):
            while True:  # garbage, as far as the device is done with it
                event, buffers = self._dropped.popleft()
                if not event.is_done:
                    self._dropped.append((event, buffers))  # its stream may have stopped, and those of others not
                    break
        found = self.core_device.memory_resource.allocate(n, stream=self.aside)
        self.aside.sync()  # which has nothing else to do
        return found

    def drop(self, event: Any, buffers: Sequence[Any]) -> None:
        """Take these back when the event is done. It calls nobody: garbage is collected at any time."""
        self._dropped.append((event, buffers))

    def send(self, to: Any, words: NDArray, stream: Any) -> None:
        """Copy words, uint64, to the beginning of a buffer, in the order of a stream.

        From pinned memory, which is used again when its event is done: that of cuda.core which is in the order of
        streams is handed out while the device may still read it.
        """
        ready = self._pinned[to.size]
        try:
            pinned, there, event = ready.popleft()
            if not event.is_done:
                ready.append((pinned, there, event))
                raise IndexError
        except IndexError:
            pinned, event = self.core.LegacyPinnedMemoryResource().allocate(to.size), self.event()
            there = np.ctypeslib.as_array((ctypes.c_uint64 * (to.size // 8)).from_address(int(pinned.handle)))
        there[: len(words)] = words
        to.copy_from(pinned, stream=stream)
        stream.record(event)
        ready.append((pinned, there, event))

    def view(self, address: int, n: int) -> Any:
        """So many bytes of somebody's memory, as a buffer."""
        return self.core.Buffer.from_handle(address, n)

    def fetch(self, array: NDArray, address: int, stream: Any) -> None:
        """Fill an array of the host from the device, when the stream has come so far. Waits for that."""
        self.view(array.ctypes.data, array.nbytes).copy_from(self.view(address, array.nbytes), stream=stream)
        stream.sync()


class _Scope:
    """A device is current, for a while.

    These calls of the driver are ours: cuda.core makes a context current, but does not put back what was before,
    another or none; and it knows no modes of capture.
    """

    def __init__(self, of: Device) -> None:
        self._of, self._driver = of, of.driver

    def __enter__(self) -> None:
        relaxed = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        self._mode = _told(*self._driver.cuThreadExchangeStreamCaptureMode(relaxed))
        try:
            self._before = _told(*self._driver.cuCtxGetCurrent())
            if int(self._before) != self._of.context:
                self._of.core_device.set_current()
        except BaseException:
            self._driver.cuThreadExchangeStreamCaptureMode(self._mode)
            raise

    def __exit__(self, *_: object) -> None:
        if int(self._before) != self._of.context:
            self._driver.cuCtxSetCurrent(self._before)
        self._driver.cuThreadExchangeStreamCaptureMode(self._mode)


def _told(status: Any, *found: Any) -> Any:
    if status:
        raise RuntimeError(f"a call of CUDA failed: {status.name}")
    return found[0]


def target(architecture: int, known: Sequence[int]) -> str:
    """The newest of NVRTC's that such a device runs: machine code within its generation, else PTX."""
    best = max((a for a in known if a <= architecture), default=None)
    if best is None:
        raise RuntimeError(f"NVRTC has no code for compute capability {architecture}; wanted at least {min(known)}")
    return f"sm_{best}" if best // 10 == architecture // 10 else f"compute_{best}"
