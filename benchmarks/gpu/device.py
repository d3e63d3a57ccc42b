"""Which GPU there is, asked of the driver alone: no array library is needed to say that there is none."""

from __future__ import annotations

import ctypes
import importlib.metadata
import subprocess
from typing import Any, NamedTuple

from benchmarks.machine import machine

__all__ = ["Device", "NoDeviceError", "described", "device"]

PACKAGES = (
    "cupy-cuda13x",
    "cupy-cuda12x",
    "cuda-bindings",
    "nvidia-cuda-nvrtc",
    "array-api-compat",
    "optree",
    "pytest",
    "hypothesis",
)
MAJOR, MINOR = 75, 76
"""The attributes of the driver that give the compute capability."""


class NoDeviceError(RuntimeError):
    """Why no NVIDIA GPU can be used here."""


class Device(NamedTuple):
    """What the driver says of the first device."""

    gpu: str
    capability: str
    gpu_memory_gib: int
    cuda: str
    """The newest CUDA that the driver knows."""
    driver: str


def device() -> Device:
    """The first device. Raises NoDeviceError."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise NoDeviceError(f"the NVIDIA driver can't be loaded ({error})") from None
    number, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    _call(driver, "cuInit", 0)
    count = _integer(driver, "cuDeviceGetCount")
    if not count:
        raise NoDeviceError("the NVIDIA driver has no device")
    _call(driver, "cuDeviceGet", ctypes.byref(number), 0)
    _call(driver, "cuDeviceGetName", name, len(name), number)
    _call(driver, "cuDeviceTotalMem_v2", ctypes.byref(memory), number)
    major, minor = (_integer(driver, "cuDeviceGetAttribute", a, number) for a in (MAJOR, MINOR))
    cuda = _integer(driver, "cuDriverGetVersion")
    return Device(
        name.value.decode(),
        f"{major}.{minor}",
        round(memory.value / 2**30),
        f"{cuda // 1000}.{cuda % 1000 // 10}",
        _driver_version(),
    )


def _integer(driver: Any, function: str, *arguments: Any) -> int:
    found = ctypes.c_int()
    _call(driver, function, ctypes.byref(found), *arguments)
    return found.value


def _call(driver: Any, function: str, *arguments: Any) -> None:
    status = getattr(driver, function)(*arguments)
    if status:
        raise NoDeviceError(f"{function} of the NVIDIA driver answered {status}")


def _driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return told[0] if told else "unknown"


def described(found: Device, commit: str = "") -> dict[str, Any]:
    """The machine, its device, and the versions of what is measured. `commit` where the folder has no history."""
    return {
        **machine(),
        **found._asdict(),
        **{name: _version(name) for name in PACKAGES},
        **({"commit": commit} if commit else {}),
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
