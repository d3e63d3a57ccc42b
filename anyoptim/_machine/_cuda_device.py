"""A CUDA device, by NVIDIA's cuda.core: kernels, memory and copies. It is imported when an array on a device arrives.

When memory may be used again is decided here. Nothing but `fetched` waits for work that others gave the device.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from anyoptim._engines._base import NDArray
from anyoptim._machine import _disk_cache

__all__ = ["OPTIONS", "Device", "Owned", "device", "programs", "target"]

OPTIONS = {"fma": False, "ftz": False, "prec_div": True, "prec_sqrt": True, "std": "c++17"}
"""The options of the compiler: each operation is rounded as it is written, none contracted, no subnormal flushed."""


@functools.cache
def device(number: int) -> Device:
    """The device of this number, as the array libraries count them."""
    from cuda import core  # noqa: PLC0415 - for those who have one
    from cuda.bindings import driver, nvrtc  # noqa: PLC0415

    # Which architectures NVRTC knows, cuda.core doesn't tell.
    return Device(number, core, driver, _told(*nvrtc.nvrtcGetSupportedArchs()), programs)


class Device:
    """A device, by its primary context, which array libraries use too. All methods are to be called in its `scope`.

    Buffers, events, kernels and streams are cuda.core's.
    """

    def __init__(self, number: int, core: Any, driver: Any, known: Sequence[int], programs: Callable[[], Any]) -> None:
        self.core, self.driver, self._programs = core, driver, programs
        self.core_device, self.context = core.Device(number), -1
        self._relaxed = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        # Each with its event: buffers to be freed when that is done, and pinned memory by size to be used again.
        self.dropped: deque[tuple[Any, Any]] = deque()
        self._pinned: defaultdict[int, deque[tuple[Any, Any]]] = defaultdict(deque)
        with self.scope():
            self.context = int(self.core_device.context.handle)
            self.aside = self.core_device.create_stream()  # beside all streams of others, and always waited for
            self._target = target(int(self.core_device.arch), known)
        # To make a configuration takes cuda.core up to half as long as a step takes.
        self._config = functools.lru_cache(256)(lambda grid, block: core.LaunchConfig(grid=grid, block=block))
        default, from_handle = core.LEGACY_DEFAULT_STREAM, core.Stream.from_handle
        self.stream = functools.lru_cache(64)(lambda handle: from_handle(handle) if handle else default)
        self.kernel = functools.cache(self._kernel)  # and never unloaded: a graph may have it

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Make the device the current one, and allow what a capture on anybody's stream forbids.

        These calls of the driver are ours: cuda.core makes a context current, but does not put back what was before,
        another or none; and it knows no modes of capture.
        """
        driver = self.driver
        before = _told(*driver.cuCtxGetCurrent())
        other = int(before) != self.context
        mode = _told(*driver.cuThreadExchangeStreamCaptureMode(self._relaxed))
        try:
            if other:
                self.core_device.set_current()
            yield
        finally:
            if other:
                driver.cuCtxSetCurrent(before)
            driver.cuThreadExchangeStreamCaptureMode(mode)

    def _kernel(self, name: str, text: str) -> Any:
        """The kernel of this name in a text of CUDA C, compiled."""
        program = self.core.Program(text, "c++", self.core.ProgramOptions(arch=self._target, **OPTIONS))
        kind = "cubin" if self._target.startswith("sm_") else "ptx"
        return program.compile(kind, cache=self._programs()).get_kernel(name)

    def launch(self, stream: Any, kernel: Any, blocks: int, threads: int, *arguments: Any) -> functools.partial[None]:
        """A call that runs a kernel, whose parameters all have eight bytes, in the order of a stream."""
        return functools.partial(self.core.launch, stream, self._config(blocks, threads), kernel, *arguments)

    def allocate(self, words: int) -> Any:
        """A buffer of so many words on the device, which any stream may use at once."""
        while _done(self.dropped):
            pass  # and so freed
        # In few sizes, so that what is given back fits the next.
        buffer = self.core_device.memory_resource.allocate(-(-max(words, 1) // 512) * 4096, stream=self.aside)
        self.aside.sync()  # which has nothing else to do
        return buffer

    def send(self, to: Any, words: NDArray, stream: Any) -> None:
        """Copy words, uint64, to the beginning of a buffer, in the order of a stream; `aside` they are there at once.

        They go by pinned memory, which is used again when its event is done: cuda.core's own, in the order of streams,
        is handed out while the device may still read it.
        """
        reusable = _done(self._pinned[to.size])
        if reusable is None:
            pinned = self.core.LegacyPinnedMemoryResource().allocate(to.size)
            view = np.ctypeslib.as_array((ctypes.c_uint64 * (to.size // 8)).from_address(int(pinned.handle)))
            reusable = self.core_device.create_event(), (pinned, view)
        event, (pinned, view) = reusable
        view[: len(words)] = words
        to.copy_from(pinned, stream=stream)
        stream.record(event)
        self._pinned[to.size].append(reusable)
        if stream is self.aside:
            stream.sync()

    def put(self, words: NDArray) -> Any:
        """A buffer that begins with these words, uint64, which any stream may use at once."""
        buffer = self.allocate(len(words))
        self.send(buffer, words, self.aside)
        return buffer

    def fetched(self, address: int, n: int, stream: Any) -> NDArray:
        """So many float64 numbers from the device. Waits until the stream has come so far."""
        numbers = np.zeros(n)
        if n:
            view = self.core.Buffer.from_handle
            view(numbers.ctypes.data, 8 * n).copy_from(view(address, 8 * n), stream=stream)
            stream.sync()
        return numbers


class Owned:
    """Memory of a device, which is given back when its owner is gone and the device is done with it."""

    def __init__(self, device: Device) -> None:
        self.device, self.event = device, device.core_device.create_event()
        self._buffers: list[Any] = []
        # A finalizer runs at any time: it only appends.
        weakref.finalize(self, device.dropped.append, (self.event, self._buffers)).atexit = False

    def kept(self, buffer: Any) -> int:
        """The address of a buffer, which belongs to the owner from now on."""
        self._buffers.append(buffer)
        return int(buffer.handle)


@functools.cache
def programs() -> Any:
    """A cache of machine code as cuda.core wants it, of files in the user's cache folder."""
    from cuda.core.utils import ProgramCacheResource  # noqa: PLC0415 - for those who have a device

    class Programs(ProgramCacheResource):  # type: ignore[misc]
        __delitem__ = __len__ = clear = None  # which compiling doesn't ask for

        def __getitem__(self, key: bytes) -> bytes:
            code = _disk_cache.read(f"{key.hex()}.program")
            if code is None:
                raise KeyError(key)
            return code

        def __setitem__(self, key: bytes, made: Any) -> None:
            _disk_cache.keep(f"{key.hex()}.program", bytes(made.code))

    return Programs()


def _done(queue: deque[tuple[Any, Any]]) -> tuple[Any, Any] | None:
    """The first entry, if its event is done. Else it goes to the end: its stream may have stopped, and others not."""
    try:
        first = queue.popleft()
    except IndexError:
        return None
    if first[0].is_done:
        return first
    queue.append(first)
    return None


def _told(status: Any, *results: Any) -> Any:
    if status:
        raise RuntimeError(f"a call of CUDA failed: {status.name}")
    return results[0]


def target(architecture: int, known: Sequence[int]) -> str:
    """The newest target of NVRTC that such a device runs: machine code within its generation, else PTX."""
    best = max((a for a in known if a <= architecture), default=None)
    if best is None:
        raise RuntimeError(f"NVRTC has no code for compute capability {architecture}; wanted at least {min(known)}")
    return f"sm_{best}" if best // 10 == architecture // 10 else f"compute_{best}"
