"""The CUDA driver: every call with its status checked, and nothing else. Imported when an array on a device arrives."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from cuda.bindings import driver

from anyoptim._engines import _nvrtc

__all__ = ["CudaError", "Device", "device"]

_NOT_READY = driver.CUresult.CUDA_ERROR_NOT_READY
_RELAXED = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED


class CudaError(RuntimeError):
    """A call of the CUDA driver failed: which one, and how."""


@functools.cache
def device(number: int) -> Device:
    """The device of this number, as the array libraries count them."""
    return Device(number)


class Device:
    """A device, by its primary context, which is the one that array libraries use.

    Memory is given as addresses, streams and events as integers. Nothing here waits for the device but `fetch` and
    `place`.
    """

    def __init__(self, number: int) -> None:
        _call("cuInit", 0)
        (handle,) = _call("cuDeviceGet", number)
        (self._context,) = _call("cuDevicePrimaryCtxRetain", handle)
        kind = driver.CUdevice_attribute
        major, minor = (
            _call("cuDeviceGetAttribute", attribute, handle)[0]
            for attribute in (
                kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.architecture = 10 * major + minor
        self._aside: Any = None

    def __enter__(self) -> None:
        _call("cuCtxPushCurrent", self._context)

    def __exit__(self, *_: object) -> None:
        _call("cuCtxPopCurrent")

    def load(self, name: str, text: str) -> Any:
        """The kernel of this name in CUDA C."""
        # While a stream of somebody's is captured, what may allocate has to be allowed.
        with self, _Relaxed():
            (module,) = _call("cuModuleLoadData", _nvrtc.code(text, self.architecture))
            (function,) = _call("cuModuleGetFunction", module, name.encode())
        return function

    def launch(self, function: Any, blocks: int, threads: int, stream: int, arguments: Sequence[int]) -> None:
        """Run a kernel, whose parameters all have eight bytes, in the order of a stream."""
        values = (ctypes.c_uint64 * len(arguments))(*arguments)
        first = ctypes.addressof(values)
        places = (ctypes.c_void_p * len(arguments))(*range(first, first + 8 * len(arguments), 8))
        with self:
            _call(
                "cuLaunchKernel", function, blocks, 1, 1, threads, 1, 1, 0, stream, ctypes.addressof(places), 0
            )  # which copies the arguments

    def allocate(self, n: int) -> int:
        """So many bytes on the device."""
        with self, _Relaxed():
            return int(_call("cuMemAlloc", n)[0])

    def pinned(self, n: int) -> tuple[int, np.ndarray[Any, Any]]:
        """So many bytes of the host, eight at a time, from which the device can copy while the host goes on."""
        with self, _Relaxed():
            (address,) = _call("cuMemHostAlloc", n, driver.CU_MEMHOSTALLOC_PORTABLE)
        return int(address), np.ctypeslib.as_array((ctypes.c_uint64 * (n // 8)).from_address(int(address)))

    def send(self, to: int, pinned: int, n: int, stream: int) -> None:
        """Copy bytes of pinned memory to the device, in the order of a stream."""
        with self:
            _call("cuMemcpyHtoDAsync", to, pinned, n, stream)

    def fetch(self, array: np.ndarray[Any, Any], address: int, stream: int) -> None:
        """Fill an array of the host from the device, when the stream has come so far. Waits for that."""
        with self:
            _call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, stream)
            _call("cuStreamSynchronize", stream)

    def event(self) -> Any:
        """A new event, which is over."""
        with self, _Relaxed():
            return _call("cuEventCreate", driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)[0]

    def record(self, event: Any, stream: int) -> None:
        """Let the event be over when all is done that the stream has to do by now."""
        with self:
            _call("cuEventRecord", event, stream)

    def over(self, event: Any) -> bool:
        """Whether it is over."""
        with self, _Relaxed():
            (status,) = driver.cuEventQuery(event)
        if status == _NOT_READY:
            return False
        _check("cuEventQuery", status)
        return True

    def place(self, to: int, words: np.ndarray[Any, Any]) -> None:
        """Copy to the device at once, beside whatever streams do, and wait until it is there."""
        with self, _Relaxed():
            if self._aside is None:
                (self._aside,) = _call("cuStreamCreate", driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
            _call("cuMemcpyHtoDAsync", to, words.ctypes.data, words.nbytes, self._aside)
            _call("cuStreamSynchronize", self._aside)


class _Relaxed:
    """Allow this thread, for a while, calls that a capture on any stream forbids by default."""

    def __enter__(self) -> None:
        (self._before,) = _call("cuThreadExchangeStreamCaptureMode", _RELAXED)

    def __exit__(self, *_: object) -> None:
        _call("cuThreadExchangeStreamCaptureMode", self._before)


def _call(name: str, *arguments: Any) -> tuple[Any, ...]:
    try:
        status, *results = getattr(driver, name)(*arguments)
    except RuntimeError as error:  # of the loader
        raise CudaError(f"{name} failed: {error}") from error
    _check(name, status)
    return tuple(results)


def _check(name: str, status: Any) -> None:
    if status != driver.CUresult.CUDA_SUCCESS:
        told = [of(status)[1] for of in (driver.cuGetErrorName, driver.cuGetErrorString)]
        raise CudaError(f"{name} failed: {': '.join(t.decode() for t in told if t)}")
