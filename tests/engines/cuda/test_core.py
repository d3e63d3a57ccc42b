"""What the CUDA engine leaves to cuda.core and NVRTC, and what it makes of their absence: no device is needed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim import _engines
from anyoptim._engines import _base
from anyoptim._engines.cuda import Cuda
from tests.support import shim
from tests.support.internals import cuda_device
from tests.support.internals import disk_cache as _disk_cache
from tests.support.libraries import Library

TEXT = 'extern "C" __global__ void nothing(double *v) { *v += 1.0; }\n'


@pytest.fixture
def core(nvrtc: Any) -> Any:
    """The real one."""
    return importlib.import_module("cuda.core")


@pytest.mark.parametrize(
    ("name", "of", "arguments"),
    [
        ("launch", "launch", ("stream", "config", "kernel", 1, 2, 3)),
        ("Stream.from_handle", "Stream.from_handle", (7,)),
        ("Stream.record", "Stream.record", ("self", "event")),
        ("Stream.sync", "Stream.sync", ("self",)),
        ("Buffer.from_handle", "Buffer.from_handle", (4096, 8)),
        ("Buffer.copy_from", "Buffer.copy_from", ("self", "src", {"stream": "s"})),
        ("DeviceMemoryResource.allocate", "Machine.allocate", ("self", 8, {"stream": "s"})),
        ("LegacyPinnedMemoryResource.allocate", "Machine.allocate", ("self", 8)),
        ("Device.create_event", "Machine.create_event", ("self",)),
        ("Device.create_stream", "Machine.create_stream", ("self",)),
        ("Device.set_current", "Machine.set_current", ("self",)),
        ("Program.compile", "Program.compile", ("self", "cubin", {"cache": None})),
        ("ObjectCode.get_kernel", "Program.get_kernel", ("self", "name")),
    ],
)
def test_the_device_that_is_none_is_asked_as_one(name: str, of: str, arguments: Any, core: Any) -> None:
    """What the shim stands in for takes the same arguments in the real library."""
    options = arguments[-1] if isinstance(arguments[-1], dict) else {}
    given = arguments[:-1] if options else arguments
    real: Any = core
    for part in name.split("."):
        real = getattr(real, part)
    inspect.signature(real).bind(*given, **options)
    if of.split(".", maxsplit=1)[0] in {"Program", "Machine", "Stream"} and not of.endswith("from_handle"):
        fake: Any = shim
        for part in of.split("."):
            fake = getattr(fake, part)
        inspect.signature(fake).bind(*given, **options)


def test_attributes_that_are_read(core: Any) -> None:
    """As the shim has them."""
    wanted = {
        core.Device: ("arch", "context", "memory_resource"),
        core.Buffer: ("handle", "size"),
        core.Event: ("is_done",),
        core.Context: ("handle",),
    }
    assert all(hasattr(cls, name) for cls, names in wanted.items() for name in names)
    view = core.Buffer.from_handle(4096, 64)
    assert (view.handle, view.size) == (4096, 64)
    assert int(core.Stream.from_handle(1234).handle) == 1234
    config = core.LaunchConfig(grid=5, block=256)
    assert (config.grid, config.block) == ((5, 1, 1), (256, 1, 1))


def test_options(core: Any) -> None:
    """All are said, for the compiler's defaults are not ours."""
    said = core.ProgramOptions(arch="sm_90", **cuda_device.OPTIONS).as_bytes("nvrtc")
    assert {*said} >= {b"--fmad=false", b"--ftz=false", b"--prec-div=true", b"--prec-sqrt=true", b"-arch=sm_90"}


@pytest.mark.parametrize(
    ("architecture", "found"),
    [
        (75, "sm_75"),
        (80, "sm_80"),
        (87, "sm_86"),
        (89, "sm_86"),
        (90, "sm_90"),
        (100, "compute_90"),
        (200, "compute_90"),
    ],
)
def test_targets(architecture: int, found: str) -> None:
    """Machine code of the same or an older member of the generation, else PTX for the driver."""
    assert cuda_device.target(architecture, [90, 75, 80, 86]) == found


def test_an_older_generation_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no code for compute capability 70; wanted at least 75"):
        cuda_device.target(70, [75, 80])


def test_the_default_stream_has_no_handle() -> None:
    machine = shim.Machine()
    assert machine.device.stream(0).handle == 0
    assert machine.device.stream(9) is machine.device.stream(9)


# The cache of machine code ---------------------------------------------------------------------------------------


class Counted:
    """NVIDIA's compiler, behind a device whose kernels are the machine code."""

    def __init__(self, core: Any, programs: Any) -> None:
        self.core, self.programs, self.kinds = core, programs, list[str]()
        self.machine = shim.Machine()

    def __call__(self, text: str = TEXT, architecture: str = "sm_90") -> bytes:
        machine = self.machine.device
        program = SimpleNamespace(ProgramOptions=self.core.ProgramOptions, Program=self._program)
        of = cuda_device.Device(
            0, SimpleNamespace(**{**vars(machine.core), **vars(program)}), self.machine, [90], self.programs
        )
        of._target = architecture
        with of.scope():
            found: bytes = of.kernel("nothing", text)
        return found

    def _program(self, *arguments: Any) -> Any:
        real = self.core.Program(*arguments)

        def compiled(kind: str, cache: Any = None) -> Any:
            code = real.compile(kind, cache=cache)
            self.kinds.append(kind)
            return SimpleNamespace(get_kernel=lambda name: bytes(code.code))

        return SimpleNamespace(compile=compiled)


@pytest.fixture
def compiled(core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """A compiler with an empty folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Counted(core, cuda_device.programs)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_machine_code_is_kept(compiled: Counted, tmp_path: Path) -> None:
    """By text and architecture; nothing else is left in the folder."""
    first = compiled()
    assert first.startswith(b"\x7fELF")
    (path,) = _files(tmp_path)
    before = path.stat().st_mtime_ns
    assert compiled() == first
    assert path.stat().st_mtime_ns == before
    compiled(architecture="sm_80")
    compiled(TEXT + "\n")
    assert len(_files(tmp_path)) == 3


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda held: b"",
    "short": lambda held: held[:20],
    "cut": lambda held: held[:-1],
    "a bit": lambda held: held[:100] + bytes([held[100] ^ 1]) + held[101:],
    "of the digest": lambda held: bytes([held[0] ^ 1]) + held[1:],
    "another's": lambda held: b"x" * 5000,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew(damage: str, compiled: Counted, tmp_path: Path) -> None:
    first = compiled()
    (path,) = _files(tmp_path)
    held = path.read_bytes()
    path.write_bytes(DAMAGES[damage](held))
    assert compiled() == first
    assert path.read_bytes() == held


def test_a_file_under_the_name_of_another_kernel_is_made_anew(compiled: Counted, tmp_path: Path) -> None:
    """Whole as it is."""
    first = compiled()
    (path,) = _files(tmp_path)
    held = path.read_bytes()
    other = compiled(TEXT.replace("1.0", "2.0"))
    (of_other,) = {*_files(tmp_path)} - {path}
    path.write_bytes(of_other.read_bytes())
    assert compiled() == first != other
    assert path.read_bytes() == held


@pytest.mark.skipif(sys.platform == "win32", reason="has other permissions, and the folder is the user's own")
def test_a_file_that_others_can_write_to_is_made_anew(compiled: Counted, tmp_path: Path) -> None:
    first = compiled()
    (path,) = _files(tmp_path)
    path.chmod(0o622)
    assert compiled() == first
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_can_t_be_written_to(compiled: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept, and nothing fails: no folder, or one without the right or the space."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first = compiled()
    assert first.startswith(b"\x7fELF")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert compiled() == first
    monkeypatch.setattr(_disk_cache, "folder", lambda: None)
    assert compiled() == first
    assert [path.name for path in _files(tmp_path)] == ["file"]


def test_a_kernel_that_nvrtc_refuses(compiled: Counted, tmp_path: Path) -> None:
    """Its log is told, and nothing is kept."""
    with pytest.raises(Exception, match='identifier "undeclared" is undefined'):
        compiled("__device__ int f() { return undeclared; }")
    assert not _files(tmp_path)


# The driver --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["cuThreadExchangeStreamCaptureMode", "cuCtxGetCurrent", "set_current"])
def test_a_scope_that_fails_leaves_nothing_behind(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call's failure is told."""
    machine = shim.Machine()
    status: Any = SimpleNamespace(name="CUDA_ERROR_UNKNOWN")

    def failing(*_: Any) -> Any:
        if what == "set_current":
            raise RuntimeError("CUDA_ERROR_UNKNOWN")
        return (status, None)

    with monkeypatch.context() as patched:
        patched.setattr(machine, what, failing)
        with pytest.raises(RuntimeError, match="CUDA_ERROR_UNKNOWN"):
            machine.device.scope().__enter__()
    assert (machine.current, machine.mode) == (0, "global")


def test_a_device_without_a_driver(core: Any) -> None:
    """As on this machine, if it has none: the engine says what is missing, where it is asked for."""
    with contextlib.suppress(Exception):
        core.Device(0)
        pytest.skip("there is a device")
    cuda_device.device.cache_clear()
    with pytest.raises(Exception, match=r"driver|cuda|CUDA"):
        cuda_device.device(0)


# What is missing ---------------------------------------------------------------------------------------------------

ABSENT = "cuda.core can't be found (pip install 'cuda-core[cu13]': then one launch updates all)"


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is found out to be missing is forgotten."""
    _base.installed.cache_clear()
    yield
    _base.installed.cache_clear()


@pytest.mark.parametrize("name", ["cuda", "cuda.core"])
def test_without_cuda_core(
    name: str, need: Callable[[str], Library], forgetful: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays of a device run on portable, with the reason; who asks for the engine is told so."""
    need("cuda-shim")

    def find(of: str) -> Any:
        if name == "cuda":
            raise ModuleNotFoundError("No module named 'cuda'")

    monkeypatch.setattr(importlib.util, "find_spec", find)
    machine = shim.install(shim.Machine())
    monkeypatch.delattr(_engines.ENGINES["cuda"], "missing")  # the shim's
    assert _engines.ENGINES["cuda"].missing() == ABSENT
    p, optimizer = shim.asarray(np.ones(3)), ao.SGD(lr=0.5)
    optimizer.update(p, shim.asarray(np.ones(3)))
    assert p.tolist() == [0.5] * 3
    (share,) = optimizer.explain(p, p)
    assert (share.engine, share.reason) == ("portable", ABSENT)
    for ask in (lambda: ao.SGD(engine="cuda"), lambda: optimizer.compile(p)):
        with pytest.raises(ImportError) as caught:
            ask()
        assert str(caught.value) == f"engine is 'cuda', but {ABSENT}"
    assert shim.tonumpy(ao.dropout(p, 0.5, 3)).tolist() == ao.dropout(np.full(3, 0.5), 0.5, 3).tolist()
    assert not machine.launches
    assert "__global__" in optimizer.kernel_source("cuda")


def test_nothing_is_missing(forgetful: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert Cuda().missing() is None
    _engines.check_engine("cuda")
