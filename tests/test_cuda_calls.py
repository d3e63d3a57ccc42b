"""What the CUDA engine says to the driver and to NVRTC, and what it makes of their answers: no device is needed."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim import _engines
from anyoptim._engines import cuda
from tests import libraries, shim
from tests.libraries import Library

TEXT = 'extern "C" __global__ void nothing(double *v) { *v += 1.0; }\n'


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"anyoptim._engines.{name}")
    except ImportError as why:
        if "cuda-shim" in libraries.REQUIRED:
            pytest.fail(f"ANYOPTIM_REQUIRE lists cuda-shim: {why}")
        pytest.skip(str(why))


class Driver:
    """The driver's functions: a context stack, a mode of capture, and answers; real only in its enumerations."""

    ANSWERS: dict[str, tuple[Any, ...]] = {
        "cuDeviceGet": ("handle",),
        "cuDevicePrimaryCtxRetain": ("context",),
        "cuModuleLoadData": ("module",),
        "cuModuleGetFunction": ("function",),
        "cuMemAlloc": (4096,),
        "cuEventCreate": ("event",),
        "cuStreamCreate": (77,),
    }

    def __init__(self, real: Any) -> None:
        self._real = real
        self.calls: list[tuple[Any, ...]] = []
        self.stack: list[Any] = []
        self.mode = "strict"
        self.modes: list[Any] = []
        """In which mode each call was made."""
        self.failing: tuple[str, int] | None = None
        """Which call fails, and which time."""
        self.answers = {**self.ANSWERS}
        self.status: dict[str, Any] = {}
        self.launched: list[list[int]] = []
        """The arguments of kernels, read where the driver would read them."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu") or name[2].islower():
            return getattr(self._real, name)
        return functools.partial(self._call, name)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        if name in {"cuGetErrorName", "cuGetErrorString"}:
            return self._real.CUresult.CUDA_SUCCESS, f"{arguments[0].name} {name[10:]}".encode()
        self.calls.append((name, *arguments))
        self.modes.append(self.mode)
        if self.failing == (name, sum(call[0] == name for call in self.calls)):
            return (self._real.CUresult.CUDA_ERROR_UNKNOWN, *(None for _ in self.answers.get(name, ())))
        if name == "cuCtxPushCurrent":
            self.stack.append(*arguments)
        if name == "cuCtxPopCurrent":
            return self._ok(self.stack.pop())
        if name == "cuThreadExchangeStreamCaptureMode":
            before, (self.mode,) = self.mode, arguments
            return self._ok(before)
        if name == "cuDeviceGetAttribute":
            return self._ok({"MAJOR": 9, "MINOR": 3}[arguments[0].name.rpartition("_")[2]])
        if name == "cuLaunchKernel":
            places = (ctypes.c_void_p * 3).from_address(arguments[9])
            self.launched.append([ctypes.c_uint64.from_address(place).value for place in places if place])
        return (self.status.get(name, self._real.CUresult.CUDA_SUCCESS), *self.answers.get(name, ()))

    def _ok(self, *results: Any) -> tuple[Any, ...]:
        return (self._real.CUresult.CUDA_SUCCESS, *results)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """In place of the real one."""
    module = _module("_driver")
    fake = Driver(module.driver)
    fake.answers["cuMemHostAlloc"] = (ctypes.addressof(_WORDS),)
    monkeypatch.setattr(module, "driver", fake)
    monkeypatch.setattr(module._nvrtc, "code", lambda text, architecture: f"{text} for {architecture}")
    return fake


@pytest.fixture
def device(driver: Driver) -> Any:
    """A device behind it."""
    found = _module("_driver").Device(2)
    driver.calls.clear()
    driver.modes.clear()
    return found


_ARRAY = np.zeros(3)
_WORDS = (ctypes.c_uint64 * 8)(*range(8))

TOLD: dict[str, tuple[Callable[[Any], Any], Sequence[tuple[Any, ...]], bool]] = {
    # What is asked of the device; what it tells the driver; whether others' captures are to allow it.
    "load": (
        lambda d: d.load("name", "text"),
        [("cuModuleLoadData", "text for 93"), ("cuModuleGetFunction", "module", b"name")],
        True,
    ),
    "allocate": (lambda d: d.allocate(640), [("cuMemAlloc", 640)], True),
    "send": (lambda d: d.send(1, 2, 24, 9), [("cuMemcpyHtoDAsync", 1, 2, 24, 9)], False),
    "fetch": (
        lambda d: d.fetch(_ARRAY, 7, 9),
        [("cuMemcpyDtoHAsync", _ARRAY.ctypes.data, 7, 24, 9), ("cuStreamSynchronize", 9)],
        False,
    ),
    "record": (lambda d: d.record("event", 9), [("cuEventRecord", "event", 9)], False),
    "over": (lambda d: d.over("event"), [("cuEventQuery", "event")], True),
    "place again": (
        lambda d: (d.place(6, _ARRAY), d.place(7, _ARRAY)),
        [("cuMemcpyHtoDAsync", 7, _ARRAY.ctypes.data, 24, 77), ("cuStreamSynchronize", 77)],
        True,
    ),
}


@pytest.mark.parametrize("what", TOLD)
def test_what_the_driver_is_told(what: str, device: Any, driver: Driver) -> None:
    """In the device's context, which is left again; memory and modules even while somebody captures a stream."""
    ask, told, relaxed = TOLD[what]
    ask(device)
    own = [call for call in driver.calls if "Ctx" not in call[0] and "Exchange" not in call[0]]
    assert own[-len(told) :] == [*told]
    assert len(own) == len(told) or what == "place again"
    assert sum(call[0] == "cuStreamCreate" for call in own) == (what == "place again")
    assert driver.calls[0] == ("cuCtxPushCurrent", "context")
    assert driver.calls[-1][0] == "cuCtxPopCurrent"
    assert (driver.stack, driver.mode) == ([], "strict")
    modes = {mode for call, mode in zip(driver.calls, driver.modes, strict=True) if call in told}
    assert modes == {driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED if relaxed else "strict"}


def test_what_is_found_out_first(driver: Driver) -> None:
    """The primary context, as the array libraries', and the compute capability."""
    device = _module("_driver").Device(2)
    told = [("cuInit", 0), ("cuDeviceGet", 2), ("cuDevicePrimaryCtxRetain", "handle")]
    assert driver.calls[:3] == told
    assert device.architecture == 93
    assert not driver.stack


def _fresh(device: Any) -> Any:
    """Without a stream of its own yet."""
    device._aside = None
    return device


ANSWERED: dict[str, Callable[[Any], Any]] = {
    **{what: ask for what, (ask, _, _) in TOLD.items()},
    "place": lambda d: _fresh(d).place(7, _ARRAY),
    "pinned": lambda d: d.pinned(64),
    "event": lambda d: d.event(),
    "launch": lambda d: d.launch("function", 5, 256, 9, (1, 2, 3)),
    "init": lambda d: type(d)(2),
}


@pytest.mark.parametrize("what", ANSWERED)
def test_every_failure_is_told(what: str, device: Any, driver: Driver) -> None:
    """Each call in turn fails: its name and the driver's words; the context and the mode of capture are left."""
    ANSWERED[what](device)
    if what == "place again":
        driver.calls.clear()
        ANSWERED[what](device)
    made = [call[0] for call in driver.calls]
    assert made
    error = _module("_driver").CudaError
    for i, name in enumerate(made):
        driver.calls.clear()
        driver.stack.clear()
        driver.mode = "strict"
        driver.failing = (name, made[: i + 1].count(name))
        with pytest.raises(error, match=rf"^{name} failed: CUDA_ERROR_UNKNOWN Name: CUDA_ERROR_UNKNOWN String$"):
            ANSWERED[what](device)
        driver.failing = None
        assert len(driver.stack) == (name == "cuCtxPopCurrent"), name
        assert driver.mode == "strict" or "Exchange" in name, name


def test_a_driver_that_can_t_be_loaded(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    module = _module("_driver")

    def absent(*_: Any) -> None:
        raise RuntimeError("libcuda.so.1 is not there")

    monkeypatch.setattr(driver, "cuInit", absent, raising=False)
    with pytest.raises(module.CudaError, match=r"^cuInit failed: libcuda\.so\.1 is not there$"):
        module.Device(0)


@pytest.mark.parametrize("values", [(1, 2, 3), (2**64 - 1, 0, 2**63)])
def test_launches_hand_over_eight_bytes_each(values: tuple[int, ...], device: Any, driver: Driver) -> None:
    """By their addresses, which the driver reads before it returns."""
    device.launch("function", 5, 256, 9, values)
    (call,) = [call for call in driver.calls if call[0] == "cuLaunchKernel"]
    assert call[1:10] == ("function", 5, 1, 1, 256, 1, 1, 0, 9)
    assert call[11:] == (0,)
    assert driver.launched == [[*values]]


def test_pinned_memory_is_seen_as_words(device: Any, driver: Driver) -> None:
    address, words = device.pinned(64)
    assert address == ctypes.addressof(_WORDS)
    assert words.tolist() == [*range(8)]
    words[3] = 77
    assert _WORDS[3] == 77
    _WORDS[3] = 3
    assert ("cuMemHostAlloc", 64, driver.CU_MEMHOSTALLOC_PORTABLE) in driver.calls


def test_events_are_asked_and_not_waited_for(device: Any, driver: Driver) -> None:
    module, results = _module("_driver"), driver.CUresult
    assert device.event() == "event"
    assert ("cuEventCreate", driver.CUevent_flags.CU_EVENT_DISABLE_TIMING) in driver.calls
    for status, over in ((results.CUDA_SUCCESS, True), (results.CUDA_ERROR_NOT_READY, False)):
        driver.status["cuEventQuery"] = status
        assert device.over("event") is over
    driver.status["cuEventQuery"] = results.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(module.CudaError, match="cuEventQuery failed: CUDA_ERROR_ILLEGAL_ADDRESS"):
        device.over("event")
    assert (driver.stack, driver.mode) == ([], "strict")
    assert not any("Synchronize" in call[0] for call in driver.calls)


# NVRTC -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nvrtc(nvrtc: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """And a list of what was compiled."""
    found = nvrtc
    real, made = found._compiled, []

    def compiled(text: str, target: str) -> Any:
        made.append(target)
        return real(text, target)

    monkeypatch.setattr(found, "_compiled", compiled)
    found.made = made
    yield found
    del found.made


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _answered(nvrtc: Any, monkeypatch: pytest.MonkeyPatch, answers: dict[str, tuple[Any, ...]]) -> list[str]:
    """NVRTC with these answers to some of the calls, and a list of all."""
    real, calls = nvrtc._call, []

    def call(name: str, *arguments: Any) -> Any:
        calls.append(name)
        return answers[name] if name in answers else real(name, *arguments)

    monkeypatch.setattr(nvrtc, "_call", call)
    return calls


def test_machine_code_is_kept(nvrtc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By text, architecture, options and version; nothing else is left in the folder."""
    first = nvrtc.code(TEXT, 90)
    assert nvrtc.code(TEXT, 90) == first
    assert nvrtc.made == ["sm_90"]
    assert len(_files(tmp_path)) == 1
    nvrtc.code(TEXT, 80)
    nvrtc.code(TEXT + "\n", 90)
    monkeypatch.setattr(nvrtc, "OPTIONS", nvrtc.OPTIONS[1:])
    nvrtc.code(TEXT, 90)
    _answered(nvrtc, monkeypatch, {"nvrtcVersion": (99, 0)})
    nvrtc.code(TEXT, 90)
    assert nvrtc.made == ["sm_90", "sm_80", "sm_90", "sm_90", "sm_90"]
    assert len(_files(tmp_path)) == 5


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda held: b"",
    "short": lambda held: held[:20],
    "cut": lambda held: held[:-1],
    "a bit": lambda held: held[:100] + bytes([held[100] ^ 1]) + held[101:],
    "of the digest": lambda held: bytes([held[0] ^ 1]) + held[1:],
    "another's": lambda held: b"x" * 5000,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew(damage: str, nvrtc: Any, tmp_path: Path) -> None:
    first = nvrtc.code(TEXT, 90)
    (path,) = _files(tmp_path)
    held = path.read_bytes()
    path.write_bytes(DAMAGES[damage](held))
    assert nvrtc.code(TEXT, 90) == first
    assert path.read_bytes() == held
    assert nvrtc.code(TEXT, 90) == first
    assert len(nvrtc.made) == 2


def test_a_folder_that_can_t_be_written_to(nvrtc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept, and nothing fails: no folder, or one without the right or the space."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert nvrtc.code(TEXT, 90) == nvrtc.code(TEXT, 90)
    assert len(nvrtc.made) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    nvrtc.code(TEXT, 90)
    assert [path.name for path in _files(tmp_path)] == ["file"]


@pytest.mark.parametrize("architecture", [75, 80, 87, 89, 90, 100, 120, 121])
def test_targets(architecture: int, nvrtc: Any) -> None:
    if architecture not in nvrtc._call("nvrtcGetSupportedArchs")[0]:
        pytest.skip("not known to this NVRTC")
    assert nvrtc.code(TEXT, architecture).startswith(b"\x7fELF")
    assert nvrtc.made == [f"sm_{architecture}"]


def test_targets_that_nvrtc_does_not_know(nvrtc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine code of an older member of the generation, else PTX for the driver; an older generation is refused."""
    newest = max(nvrtc._call("nvrtcGetSupportedArchs")[0])
    made = nvrtc.code(TEXT, 200)
    assert nvrtc.made == [f"compute_{newest}"]
    assert made.endswith(b"\0")
    assert f".target sm_{newest}".encode() in made
    assert b".entry nothing" in made
    _answered(nvrtc, monkeypatch, {"nvrtcGetSupportedArchs": ([80, 86, 90],)})
    assert nvrtc.code(TEXT, 89).startswith(b"\x7fELF")
    assert b".target sm_90" in nvrtc.code(TEXT, 100)
    assert nvrtc.made[1:] == ["sm_86", "compute_90"]
    with pytest.raises(nvrtc.CompilationError, match=r"has no code for compute capability 75"):
        nvrtc.code(TEXT, 75)


def test_a_kernel_that_nvrtc_refuses(nvrtc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log and the text; the program is destroyed; nothing is kept."""
    calls = _answered(nvrtc, monkeypatch, {})
    with pytest.raises(nvrtc.CompilationError) as caught:
        nvrtc.code("int f() { return undeclared; }", 90)
    told = str(caught.value)
    assert "NVRTC_ERROR_COMPILATION" in told
    assert 'identifier "undeclared" is undefined' in told
    assert told.endswith("int f() { return undeclared; }")
    assert "\0" not in told
    assert calls[-1] == "nvrtcDestroyProgram"
    assert not _files(tmp_path)


def test_nvrtc_that_can_t_be_loaded(nvrtc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any) -> None:
        raise RuntimeError("libnvrtc.so.13 is not there")

    monkeypatch.setattr(nvrtc.nvrtc, "nvrtcVersion", absent)
    with pytest.raises(nvrtc.CompilationError, match=r"NVRTC can't be found .*nvrtc\): libnvrtc.so.13 is not there"):
        nvrtc.code(TEXT, 90)


def test_options(nvrtc: Any) -> None:
    """All are said, for the compiler's defaults are not ours."""
    assert {*nvrtc.OPTIONS} >= {"--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true"}


# What is missing ---------------------------------------------------------------------------------------------------

ABSENT = {
    "cuda": "cuda.bindings can't be found (pip install 'anyoptim[cuda13]')",
    "cuda.bindings": "cuda.bindings can't be found (pip install 'anyoptim[cuda13]')",
}


@pytest.fixture
def forgetful() -> Iterator[None]:
    """What is found out to be missing is forgotten."""
    cuda.missing.cache_clear()
    yield
    cuda.missing.cache_clear()


@pytest.mark.parametrize("name", ABSENT)
def test_without_its_packages(
    name: str, need: Callable[[str], Library], forgetful: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays of a device run on portable, with the reason; who asks for the engine is told so."""
    need("cuda-shim")
    real = importlib.util.find_spec

    def find(of: str) -> Any:
        if of == "cuda.bindings" and name == "cuda":
            raise ModuleNotFoundError("No module named 'cuda'")
        if of == name:
            return None
        return object() if of == "cuda.bindings" else real(of)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    assert cuda.missing() == ABSENT[name]
    machine = shim.install(shim.Machine())
    p, optimizer = shim.asarray(np.ones(3)), ao.SGD(lr=0.5)
    optimizer.update(p, shim.asarray(np.ones(3)))
    assert p.tolist() == [0.5] * 3
    (share,) = optimizer.explain(p, p)
    assert (share.engine, share.reason) == ("portable", ABSENT[name])
    for ask in (lambda: ao.SGD(engine="cuda"), lambda: optimizer.compile(p)):
        with pytest.raises(ImportError) as caught:
            ask()
        assert str(caught.value) == f"engine is 'cuda', but {ABSENT[name]}"
    assert not machine.launches
    assert "__global__" in optimizer.kernel_source("cuda")


def test_nothing_is_missing(forgetful: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert cuda.missing() is None
    _engines.known("cuda")
