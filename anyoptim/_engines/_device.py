"""A CUDA device, by NVIDIA's cuda.core: kernels, memory and copies. It's imported when an array on a device arrives.

Ours is when memory may be used again: nothing here waits for the device but `fetched`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anyoptim._engines import _cache
from anyoptim._engines._leaf import NDArray

__all__ = ["OPTIONS", "Device", "device", "programs", "target"]

OPTIONS = {"fma": False, "ftz": False, "prec_div": True, "prec_sqrt": True, "std": "c++17"}
"""Every operation rounded as it is written: none contracted, none approximate, no subnormal flushed to zero."""


@functools.cache
def device(number: int) -> Device:
    """The device of this number, as the array libraries count them."""
    from cuda import core  # noqa: PLC0415 - for those who have one
    from cuda.bindings import driver, nvrtc  # noqa: PLC0415

    # What NVRTC knows cuda.core doesn't tell.
    return Device(number, core, driver, _told(*nvrtc.nvrtcGetSupportedArchs()), programs)


class Device:
    """A device, by its primary context, which is the one that array libraries use. All is to be called in its `scope`.

    Buffers, events, kernels and streams are cuda.core's.
    """

    def __init__(self, number: int, core: Any, driver: Any, known: Sequence[int], programs: Callable[[], Any]) -> None:
        self.core, self.driver, self._programs = core, driver, programs
        self.core_device, self.context = core.Device(number), -1
        # An event and buffers, to be freed when it's done. Not by finalizers, which run at any time: they only append.
        self.dropped: deque[tuple[Any, Sequence[Any]]] = deque()
        self._pinned: defaultdict[int, deque[tuple[Any, NDArray, Any]]] = defaultdict(deque)
        with self.scope():
            self.context = int(self.core_device.context.handle)
            self.aside = self.core_device.create_stream()  # for what goes on beside all streams of others
            self._target = target(int(self.core_device.arch), known)
        # To make one takes cuda.core up to half as long as a step takes.
        self._config = functools.lru_cache(256)(lambda grid, block: core.LaunchConfig(grid=grid, block=block))
        default, of = core.LEGACY_DEFAULT_STREAM, core.Stream.from_handle
        self.stream = functools.lru_cache(64)(lambda handle: of(handle) if handle else default)
        self.kernel = functools.cache(self._kernel)  # and never unloaded: a graph may have it

    def scope(self) -> _Scope:
        """Within it the device is the current one, and what a capture on anybody's stream forbids is allowed."""
        return _Scope(self)

    def _kernel(self, name: str, text: str) -> Any:
        """The kernel of this name in CUDA C."""
        program = self.core.Program(text, "c++", self.core.ProgramOptions(arch=self._target, **OPTIONS))
        kind = "cubin" if self._target.startswith("sm_") else "ptx"
        folder = _cache.folder()
        try:
            made = program.compile(kind, cache=folder and self._programs()(f"{folder}/programs"))
        except OSError:  # there is no room in it
            made = program.compile(kind)
        return made.get_kernel(name)

    def launch(self, stream: Any, kernel: Any, blocks: int, threads: int, *arguments: Any) -> None:
        """Run a kernel, whose parameters all have eight bytes, in the order of a stream."""
        self.core.launch(stream, self._config(blocks, threads), kernel, *arguments)

    def allocate(self, words: int) -> Any:
        """Room for so many words on the device, which any stream may use at once."""
        with contextlib.suppress(IndexError):
            while True:
                event, buffers = self.dropped.popleft()
                if not event.is_done:
                    self.dropped.append((event, buffers))  # its stream may have stopped, and those of others not
                    break
        # In few sizes, so that what comes back finds a taker.
        found = self.core_device.memory_resource.allocate(-(-max(words, 1) // 512) * 4096, stream=self.aside)
        self.aside.sync()  # which has nothing else to do
        return found

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
            pinned, event = self.core.LegacyPinnedMemoryResource().allocate(to.size), self.core_device.create_event()
            there = np.ctypeslib.as_array((ctypes.c_uint64 * (to.size // 8)).from_address(int(pinned.handle)))
        there[: len(words)] = words
        to.copy_from(pinned, stream=stream)
        stream.record(event)
        ready.append((pinned, there, event))

    def fetched(self, address: int, n: int, stream: Any) -> NDArray:
        """So many float64 numbers from the device, when the stream has come so far. Waits for that."""
        found = np.zeros(n)
        if n:
            view = self.core.Buffer.from_handle
            view(found.ctypes.data, 8 * n).copy_from(view(address, 8 * n), stream=stream)
            stream.sync()
        return found


class _Scope:
    """What `scope` says.

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


@functools.cache
def programs() -> Any:
    """NVIDIA's cache of machine code, in the user's cache folder."""
    import hashlib  # noqa: PLC0415 - for those who have a device

    from cuda.core.utils import FileStreamProgramCache  # noqa: PLC0415

    class Programs(FileStreamProgramCache):  # type: ignore[misc]
        """What is kept begins with its digest, so that a file that was damaged is made anew."""

        def __getitem__(self, key: object) -> bytes:
            kept: bytes = super().__getitem__(key)
            if hashlib.sha256(kept[32:]).digest() != kept[:32]:
                raise KeyError(key)
            return kept[32:]

        def __setitem__(self, key: object, value: Any) -> None:
            super().__setitem__(key, hashlib.sha256(code := bytes(value.code)).digest() + code)

    return Programs


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
