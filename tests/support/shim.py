"""A CUDA device that is none: kernels compiled by g++, memory of the host, and streams whose work waits.

It stands in for cuda.core: the text of the kernels, the tables and all else of the engine are as on one. Arithmetic is
that of C++ on the host, without contraction, which rounds each operation as CUDA does with the options of the engine.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from anyoptim import _arrays
from anyoptim._arrays._memory import MemoryLayout
from anyoptim._arrays._numpy import NumPy
from anyoptim._engines import ENGINES
from anyoptim._engines.cuda import _plan as cuda
from anyoptim._machine import _disk_cache
from anyoptim._machine._cuda_device import Device

NUMBER = 4711
"""Of the device, as the array library counts."""

# Jumps between stacks are what _FORTIFY_SOURCE forbids.
COMMAND = ("g++", "-O1", "-std=c++17", "-ffp-contract=off", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-w")
LINKED = ("-fPIC", "-shared", "-nostdlib", "-lm", "-lc", "-lgcc")
"""Without all that kernels don't need: most of g++'s time goes by before it compiles and after."""

CACHE = Path(_disk_cache.folder() or tempfile.gettempdir()) / "shim"
"""What g++ made is kept here for the other processes of a run, and for the next run."""


@functools.cache
def _header() -> str:
    return Path(__file__).with_name("shim.h").read_text()


@functools.cache
def _version() -> str:
    return subprocess.run([COMMAND[0], "-v"], check=True, capture_output=True, text=True).stderr


@functools.cache
def library_of(text: str) -> ctypes.CDLL:
    """The text, compiled."""
    path = CACHE / f"{_digest(chr(0).join([_version(), *COMMAND, *LINKED, _header(), text]))}.so"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            source, made = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
            source.write_text(f"{_header()}\n{text}")
            subprocess.run([*COMMAND, source, "-o", made, *LINKED], check=True)
            made.replace(path)  # so that nobody ever sees half of it
    return ctypes.CDLL(str(path))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def call(name: str, text: str, blocks: int, threads: int, arguments: Any) -> None:
    """Run a kernel."""
    found = library_of(text)
    values = (ctypes.c_uint64 * len(arguments))(*(int(a) for a in arguments))
    kernel = ctypes.cast(getattr(found, name), ctypes.c_void_p)
    waits = bool(re.search(r"__shfl_xor_sync|__syncthreads", text))
    found.run(kernel, ctypes.c_uint(blocks), ctypes.c_uint(threads), values, len(arguments), waits)


class Buffer(NamedTuple):
    """MemoryLayout somewhere."""

    machine: Machine
    handle: int
    size: int
    memory: Any = None
    """What keeps it alive."""

    def copy_from(self, src: Buffer, *, stream: Stream) -> None:
        assert self.size == src.size  # or else cuda.core refuses
        self.machine.asked("copy_from")
        self.machine.do(functools.partial(ctypes.memmove, self.handle, src.handle, src.size), stream)


class Event:
    """Done when what was recorded last is."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self.pending = machine, 0

    @property
    def is_done(self) -> bool:
        self._machine.asked("is_done")
        return not self.pending

    def ended(self) -> None:
        self.pending -= 1


class Stream(NamedTuple):
    """By its number."""

    machine: Machine
    handle: int

    def record(self, event: Event) -> None:
        assert self.machine.captured is None or self.handle == ASIDE, "an event of a capture can't be asked"
        self.machine.asked("record")
        event.pending += 1
        self.machine.do(event.ended, self)

    def sync(self) -> None:
        if self.handle != ASIDE:
            assert self.machine.captured is None, "a wait for the device while it is captured"
            self.machine.asked("wait")
            self.machine.finish()


class Program(NamedTuple):
    """A text, and what it is compiled to."""

    machine: Machine
    text: str

    def compile(self, target_type: str, *, cache: Any = None) -> Program:
        self.machine.asked("compile")
        library_of(self.text)
        return self

    def get_kernel(self, name: str) -> tuple[str, str]:
        self.machine.loaded.append(name)
        return name, self.text


ASIDE, CONTEXT = 77, 4096
"""The stream that is the engine's own, whose work is done at once; and the device's context."""


class Machine:
    """A device as cuda.core and the driver show it. Its work waits until `finish`, unless it is `eager`."""

    def __init__(self, eager: bool = True) -> None:
        self.eager = eager
        self.waiting: list[Callable[[], object]] = []
        self.launches: list[tuple[str, int]] = []
        """The kernels by name, and their blocks."""
        self.loaded: list[str] = []
        """The kernels that were compiled, by name."""
        self.counts: Counter[str] = Counter()
        """What was asked of cuda.core, and how often."""
        self.live: dict[int, int] = {}
        """The bytes at each address that was allocated, until it's freed."""
        self.stream = 7
        self.captured: list[Callable[[], object]] | None = None
        """What a graph records, if there is one."""
        self.current, self.mode = 0, "global"
        core = SimpleNamespace(
            Device=lambda number: self,
            Stream=SimpleNamespace(from_handle=functools.partial(Stream, self)),
            LEGACY_DEFAULT_STREAM=Stream(self, 0),
            Buffer=SimpleNamespace(from_handle=functools.partial(Buffer, self)),
            LegacyPinnedMemoryResource=lambda: SimpleNamespace(
                allocate=functools.partial(self.allocate, what="pinned")
            ),
            LaunchConfig=lambda grid, block: (grid, block),
            ProgramOptions=lambda **options: options,
            Program=lambda code, code_type, options: Program(self, code),
            launch=self._launch,
        )
        self.memory_resource, self.context = self, SimpleNamespace(handle=CONTEXT)
        self.device = Device(NUMBER, core, self, [90], lambda: None)

    def asked(self, what: str) -> None:
        """Each call has to be in the device's scope."""
        assert (self.current, self.mode) == (CONTEXT, "relaxed"), what
        self.counts[what] += 1

    def finish(self) -> None:
        """Do all that waits."""
        while self.waiting:
            self.waiting.pop(0)()

    def do(self, work: Callable[[], object], stream: Stream) -> None:
        """At once, or when its turn comes."""
        if stream.handle == ASIDE:
            work()
            return
        assert stream == (self, self.stream)
        if self.captured is not None:
            self.captured.append(work)
            return
        self.waiting.append(work)
        if self.eager:
            self.finish()

    def _launch(self, *arguments: Any) -> None:
        self.launch(*arguments)  # which a test may replace

    def launch(self, stream: Stream, config: tuple[int, int], kernel: tuple[str, str], *arguments: Any) -> None:
        self.asked("launch")
        assert config[0] > 0
        self.launches.append((kernel[0], config[0]))
        self.do(functools.partial(call, *kernel, *config, arguments), stream)

    def allocate(self, n: int, *, stream: Stream | None = None, what: str = "allocate") -> Buffer:
        self.asked(what)
        memory = np.full(n // 8 + 2, 0xAB_AD_CA_FE_DE_AD_BE_EF, np.uint64)  # nothing that anyone could use
        address = int(memory.ctypes.data + 15) // 16 * 16
        self.live[address] = n
        weakref.finalize(memory, self.live.pop, address).atexit = False
        return Buffer(self, address, n, memory)

    def create_event(self) -> Event:
        self.asked("create_event")
        return Event(self)

    def create_stream(self) -> Stream:
        return Stream(self, ASIDE)

    def set_current(self) -> None:
        self.current = CONTEXT

    arch, CUstreamCaptureMode = "90", SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED="relaxed")

    def cuCtxGetCurrent(self) -> tuple[int, int]:  # noqa: N802
        return 0, self.current

    def cuCtxSetCurrent(self, context: int) -> None:  # noqa: N802
        self.current = context

    def cuThreadExchangeStreamCaptureMode(self, mode: str) -> tuple[int, str]:  # noqa: N802
        before, self.mode = self.mode, mode
        return 0, before


class Array(np.ndarray[Any, Any]):
    """An array on it."""

    __array_priority__ = 1.0  # so that it is one, too, what NumPy makes of several


class _Namespace:
    """NumPy's, but what it creates lies there."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if name not in {"arange", "asarray", "empty", "full", "ones", "zeros"}:
            return found
        return lambda *arguments, **options: np.asarray(found(*arguments, **options)).view(Array)


_NAMESPACE = _Namespace()


class Library(NumPy):
    """The library of these."""

    name = "shim"

    @classmethod
    def namespace(cls, x: Any) -> Any:
        return _NAMESPACE if isinstance(x, Array) else None

    def numpy_view(self, x: Any) -> None:
        return None

    def device(self, x: Any) -> Any:
        return f"cuda:{NUMBER}"

    def creation_device(self, like: Any) -> Any:
        return None

    def load(self, x: Any) -> Any:
        return x

    def array(self, result: Any) -> Any:
        return np.asarray(result).view(Array)

    def is_plain_gradient(self, x: Any, p: Any) -> bool:
        return False

    def unaliased(self, result: Any) -> Any:
        return result if result.base is None else result.copy(order="K")

    def rebound(self, old: Any, new: Any) -> Any:
        return new

    def cuda(self, x: Any) -> int | None:
        return NUMBER

    def stream(self, number: int) -> int:
        return machine().stream

    def capturing(self, number: int) -> bool:
        return machine().captured is not None

    def fingerprint(self, ps: Any) -> _arrays.Fingerprint:
        addresses = [p.ctypes.data if p.size else 0 for p in ps]
        strides = [p.strides for p in ps]
        return _arrays.Fingerprint(addresses, [p.dtype for p in ps], [p.shape for p in ps], strides, [NUMBER] * len(ps))

    def unchanged_all(self, ps: Any, fingerprint: _arrays.Fingerprint) -> bool:
        return self.fingerprint(ps) == fingerprint and all(p.flags.writeable for p in ps)

    def addresses(self, xs: Any, fingerprint: _arrays.Fingerprint) -> list[int] | None:
        if {*map(type, xs)} != {Array}:
            return None
        found = self.fingerprint(xs)
        return found.addresses if found[1:] == fingerprint[1:] else None

    def address(self, x: Any) -> int | None:
        return int(x.ctypes.data) if x.flags.c_contiguous else None

    def memory(self, x: Any) -> MemoryLayout | None:
        found = _arrays.host_memory(x)._replace(space=f"cuda:{NUMBER}")
        return found if x.size else None

    def unchanged(self, x: Any, memory: MemoryLayout | None) -> bool:
        return memory is not None and x.flags.writeable and self.memory(x) == memory


_machine = Machine()
_real = cuda.device


def machine() -> Machine:
    """The device that there is now."""
    return _machine


def device(number: int) -> Any:
    """This one, or the driver's of another number: a machine may have real ones besides."""
    return _machine.device if number == NUMBER else _real(number)


def install(new: Machine | None = None) -> Machine:
    """Let anyoptim meet such arrays, on this device or the one there is."""
    global _machine  # noqa: PLW0603 - there is one
    _machine = new or _machine
    _arrays.register(Library)
    vars(cuda).update(device=device)
    vars(ENGINES["cuda"]).update(missing=_nothing, broken=_nothing)  # whatever is installed
    return _machine


def _nothing() -> None:
    """What is missing."""


def missing() -> str | None:
    """Why kernels can't be compiled here, or None."""
    return None if shutil.which("g++") else "g++ is not installed"


def asarray(a: Any) -> Array:
    """The values on the device."""
    return np.array(a).view(Array)


def tonumpy(a: Any) -> np.ndarray[Any, Any]:
    """The values of an array on the device, when all is done."""
    _machine.finish()
    return np.array(a)
