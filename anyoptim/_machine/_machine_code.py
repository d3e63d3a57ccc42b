"""Functions as machine code: compiled once on a machine that has a cache folder, and loaded without Numba.

What is kept is an object file, as a compiler of C would make one, which llvmlite links into this process in
milliseconds. Numba, whose import takes half a second, is needed to compile alone (`_compiling`): here, or in a process
of its own while steps go on (`_elsewhere`).
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from anyoptim._arrays import host_address
from anyoptim._machine import _disk_cache
from anyoptim._machine._generated import Text

__all__ = ["Bound", "Native", "address_of", "block_of", "known", "native"]

NDArray = np.ndarray[Any, Any]


_STATUS = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
"""A function that Numba made: where its result goes, and an exception, and its argument. It holds no lock."""


class Native:
    """A function as machine code."""

    def __init__(self, address: int) -> None:
        self._function = _STATUS(address)
        self._kept = self._cell, self._exception = ctypes.c_int8(), ctypes.c_void_p()
        self.run = self.giving(self._cell, self._exception)
        """A call, given the address of a block, whose result nobody asks for."""

    def giving(self, cell: ctypes.c_int8, exception: ctypes.c_void_p) -> Callable[..., int]:
        """A call, given the address of a block, that puts the function's result into the cell."""
        return partial(self._function, *(ctypes.c_void_p(ctypes.addressof(of)) for of in (cell, exception)))

    def bind(self, *arrays: NDArray, first: int = 0, last: int = 0) -> Bound:
        """The function of these arrays, which it keeps, and of its two integers."""
        return Bound(self, arrays, first, last)


class Bound:
    """A function as machine code with its arguments; its arrays stay where they are."""

    __slots__ = ("_kept", "cell", "run")

    def __init__(self, native: Native, arrays: tuple[NDArray, ...], first: int, last: int) -> None:
        block, exception = block_of(first, last, *arrays), ctypes.c_void_p()
        self.cell = ctypes.c_int8()
        """What the function gave the last time."""
        self._kept = arrays, block, exception
        self.run: Callable[[], int] = partial(native.giving(self.cell, exception), address_of(block))
        """A call without arguments, which is one call of C, and gives nothing of interest."""

    def __call__(self) -> bool:
        """What the function gives."""
        self.run()
        return bool(self.cell.value)


def block_of(first: int, last: int, *arrays: NDArray) -> NDArray:
    """The two integers of a function, and for each of its arrays where it is, and how long each of its axes is."""
    return np.array([first, last, *(n for a in arrays for n in (host_address(a), *a.shape))], np.uint64)


def address_of(block: NDArray) -> ctypes.c_void_p:
    """The address of a block, as a call takes it."""
    return ctypes.c_void_p(host_address(block))


_loaded: dict[Text, Native] = {}


def native(of: Text) -> Native:
    """The function as machine code: loaded before, or kept in the cache folder, or compiled now."""
    if of not in _loaded and not known(of):
        from anyoptim._machine._compiling import compiled  # noqa: PLC0415 - a second that few pay

        add(of, compiled(of), keep=True)
    return _loaded[of]


def known(of: Text) -> bool:
    """Whether the function is loaded, or can be without being compiled, and so is now."""
    name = None if of in _loaded else _file_name(of)
    content = None if name is None else _disk_cache.read(name)
    if content is not None:
        with suppress(Exception):  # then it is compiled anew
            add(of, content)
    return of in _loaded


def add(of: Text, content: bytes, *, keep: bool = False) -> None:
    """Load what compiling gave: names of symbols, and an object file."""
    names, _, code = content.partition(b"\0")
    _loaded[of] = Native(_linker()(code, *names.decode().split()))
    name = _file_name(of) if keep else None
    if name is not None:
        _disk_cache.keep(name, content)


@functools.cache
def _linker() -> Callable[..., int]:
    """A function of an object file and names that links it into this process, and gives the address of the first."""
    import llvmlite.binding as llvm  # noqa: PLC0415 - 30 ms that only those pay who come here

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # Numba's runtime calls it to free arrays that compiled code has made, and ours makes none.
    if llvm.address_of_symbol(_UNUSED) is None:
        llvm.add_symbol(_UNUSED, ctypes.cast(_nothing, ctypes.c_void_p).value)
    machine = llvm.Target.from_default_triple().create_target_machine()
    linker = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)

    def link(code: bytes, symbol: str, *needed: str) -> int:
        missing = [name for name in needed if llvm.address_of_symbol(name) is None]
        if missing:  # which would end the process
            raise ImportError(f"machine code calls {', '.join(missing)}, which this process does not have")
        linker.add_object_file(llvm.ObjectFileRef.from_data(code))
        linker.finalize_object()
        address: int = linker.get_function_address(symbol)
        return address

    return link


_UNUSED = "NRT_MemInfo_call_dtor"


_nothing = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)


OWN = ("_bits", "_array_headers", "_intrinsics", "_compiling")
"""The modules that are part of the machine code of what calls them, or say how it is made."""


def _file_name(of: Text) -> str | None:
    """A file name made of all that machine code depends on: texts, Numba, the processor; None where one is hidden."""
    around = _surroundings()
    return None if around is None else f"{_digest(repr((of, around)))}.kernel"


@functools.cache
def _surroundings() -> tuple[str, ...] | None:
    try:
        texts = [*_texts()]
    except Exception:  # whatever a loader may raise that has none
        return None
    from llvmlite.binding import get_host_cpu_features, get_host_cpu_name  # noqa: PLC0415 - see `_linker`

    settings = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NUMBA_")]
    processor = get_host_cpu_name(), get_host_cpu_features().flatten(), sys.platform
    return *map(_digest, texts), str(sys.implementation.cache_tag), *processor, *settings


def _texts() -> Iterator[bytes]:
    """The texts, or else the byte code, of the modules in `OWN`, and the version of Numba."""
    for name in OWN:
        spec: Any = importlib.util.find_spec(f"anyoptim._machine.{name}")
        yield spec.loader.get_data(spec.origin)
    numba: Any = importlib.util.find_spec("numba")
    yield numba.loader.get_data(os.path.join(os.path.dirname(numba.origin), "_version.py"))


def _digest(content: str | bytes) -> str:
    import hashlib  # noqa: PLC0415 - for those who compile

    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
