"""A CUDA device that is none: kernels compiled by g++, memory of the host, and streams whose work waits.

The text of the kernels, the tables and all of the engine but the driver's calls are the same as on a device. Arithmetic
is C++'s on the host, without contraction, which rounds each operation as CUDA's does with the engine's options.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from anyoptim import _arrays
from anyoptim._arrays._numpy import NumPy
from anyoptim._engines import _cache, cuda
from anyoptim._memory import Memory

NUMBER = 4711
"""Of the device, as the array library counts."""

COMMAND = ("g++", "-O2", "-std=c++17", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-shared", "-w")


CACHE = Path(_cache.folder() or tempfile.gettempdir()) / "shim"
"""What g++ made is kept here for the other processes of a run, and for the next run."""


@functools.cache
def _folder() -> Path:
    """A folder for this compiler, these options and this header, with the header parsed in it."""
    header = Path(__file__).with_name("shim.h").read_text()
    version = subprocess.run([COMMAND[0], "-v"], check=True, capture_output=True, text=True).stderr
    folder = CACHE / _digest("\n".join([version, *COMMAND, header]))
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=CACHE))
        (made / "shim.h").write_text(header)
        options = [option for option in COMMAND if option != "-shared"]
        subprocess.run([*options, "-x", "c++-header", "-o", made / "shim.h.gch", made / "shim.h"], check=True)
        try:
            made.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(made)
    return folder


@functools.cache
def library_of(text: str) -> ctypes.CDLL:
    """The text, compiled."""
    path = _folder() / f"{_digest(text)}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            source, made = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
            source.write_text(f'#include "shim.h"\n{text}')
            subprocess.run([*COMMAND, "-I", _folder(), "-o", made, source], check=True)
            made.replace(path)  # so that nobody ever sees half of it
    return ctypes.CDLL(str(path))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def call(name: str, text: str, blocks: int, threads: int, arguments: Any) -> None:
    """Run a kernel."""
    found = library_of(text)
    values = (ctypes.c_uint64 * len(arguments))(*(int(a) for a in arguments))
    kernel = ctypes.cast(getattr(found, name), ctypes.c_void_p)
    waits = bool(re.search(r"__shfl_down_sync|__syncthreads", text))
    found.run(kernel, ctypes.c_uint(blocks), ctypes.c_uint(threads), values, len(arguments), waits)


class Event:
    """Over when what was recorded last is done."""

    def __init__(self) -> None:
        self.pending = 0

    def ended(self) -> None:
        self.pending -= 1


class Machine:
    """The device. Its work waits until `finish`, unless it is `eager`."""

    def __init__(self, eager: bool = True) -> None:
        self.eager = eager
        self.waiting: list[Callable[[], object]] = []
        self.launches: list[tuple[str, int]] = []
        """The kernels by name, and their blocks."""
        self.stream = 7
        self.captured: list[Callable[[], object]] | None = None
        """What a graph records, if there is one."""
        self._memory: list[Any] = []

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...

    def finish(self) -> None:
        """Do all that waits."""
        while self.waiting:
            self.waiting.pop(0)()

    def _do(self, work: Callable[[], object], stream: int) -> None:
        assert stream == self.stream
        if self.captured is not None:
            self.captured.append(work)
            return
        self.waiting.append(work)
        if self.eager:
            self.finish()

    def load(self, name: str, text: str) -> tuple[str, str]:
        library_of(text)
        return name, text

    def launch(self, function: tuple[str, str], blocks: int, threads: int, stream: int, arguments: Any) -> None:
        assert blocks > 0
        self.launches.append((function[0], blocks))
        self._do(functools.partial(call, *function, blocks, threads, tuple(arguments)), stream)

    def allocate(self, n: int) -> int:
        memory = np.full(n // 8 + 2, 0xAB_AD_CA_FE_DE_AD_BE_EF, np.uint64)  # nothing that anyone could use
        self._memory.append(memory)
        return int(memory.ctypes.data + 15) // 16 * 16

    def pinned(self, n: int) -> tuple[int, np.ndarray[Any, Any]]:
        words = np.zeros(n // 8, np.uint64)
        self._memory.append(words)
        return words.ctypes.data, words

    def send(self, to: int, pinned: int, n: int, stream: int) -> None:
        self._do(functools.partial(ctypes.memmove, to, pinned, n), stream)

    def fetch(self, array: np.ndarray[Any, Any], address: int, stream: int) -> None:
        assert self.captured is None, "a wait for the device while it is captured"
        self.finish()
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def event(self) -> Event:
        return Event()

    def record(self, event: Event, stream: int) -> None:
        assert self.captured is None, "an event of a capture can't be asked"
        event.pending += 1
        self._do(event.ended, stream)

    def over(self, event: Event) -> bool:
        return not event.pending

    def place(self, to: int, words: np.ndarray[Any, Any]) -> None:
        ctypes.memmove(to, words.ctypes.data, words.nbytes)


class Array(np.ndarray[Any, Any]):
    """An array on it."""

    __array_priority__ = 1.0  # so that it is one, too, what NumPy makes of several


class _Namespace:
    """NumPy's, but what it creates lies there."""

    __name__ = "shim"

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._xp, name)
        if name not in {"arange", "asarray", "empty", "full", "ones", "zeros"}:
            return found
        return lambda *arguments, **options: np.asarray(found(*arguments, **options)).view(Array)


class Library(NumPy):
    """The library of these."""

    def host(self, x: Any) -> None:
        return None

    def device(self, x: Any) -> Any:
        return f"cuda:{NUMBER}"

    def placement(self, like: Any) -> Any:
        return None

    def load(self, x: Any) -> Any:
        return x

    def array(self, result: Any) -> Any:
        return np.asarray(result).view(Array)

    def plain(self, x: Any, p: Any) -> bool:
        return False

    def owned(self, result: Any) -> Any:
        return result if result.base is None else result.copy(order="K")

    def rebound(self, old: Any, new: Any) -> Any:
        return new

    def cuda(self, x: Any) -> int | None:
        return NUMBER

    def stream(self, number: int) -> int:
        return machine().stream

    def capturing(self, number: int) -> bool:
        return machine().captured is not None

    def marks(self, ps: Any) -> _arrays.Marks:
        begins = [p.ctypes.data if p.size else 0 for p in ps]
        strides = [p.strides for p in ps]
        return _arrays.Marks(begins, [p.dtype for p in ps], [p.shape for p in ps], strides, [NUMBER] * len(ps))

    def stayed(self, ps: Any, marks: _arrays.Marks) -> bool:
        return self.marks(ps) == marks and all(p.flags.writeable for p in ps)

    def addresses(self, xs: Any, marks: _arrays.Marks) -> list[int] | None:
        if {*map(type, xs)} != {Array}:
            return None
        found = self.marks(xs)
        return found.begins if found[1:] == marks[1:] else None

    def address(self, x: Any) -> int | None:
        return int(x.ctypes.data) if x.flags.c_contiguous else None

    def memory(self, x: Any) -> Memory | None:
        found = _arrays.host_memory(x)._replace(space=f"cuda:{NUMBER}")
        return found if x.size else None

    def still(self, x: Any, memory: Memory | None) -> bool:
        return memory is not None and x.flags.writeable and self.memory(x) == memory


_machine = Machine()
_real = cuda.device


def machine() -> Machine:
    """The device that there is now."""
    return _machine


def device(number: int) -> Any:
    """This one, or the driver's of another number: a machine may have real ones besides."""
    return _machine if number == NUMBER else _real(number)


def install(new: Machine | None = None) -> Machine:
    """Let anyoptim meet such arrays, on this device or the one there is."""
    global _machine  # noqa: PLW0603 - there is one
    _machine = new or _machine
    _arrays._BY_TYPE[Array] = Library(_Namespace(_arrays.library(np.empty(0)).xp))
    cuda.device = device
    return _machine


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
