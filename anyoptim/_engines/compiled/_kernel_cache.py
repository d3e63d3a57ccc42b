"""Generated code that Numba compiles: once on a machine that has a cache folder, and once a process otherwise."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from contextlib import suppress
from sys import modules
from types import ModuleType
from typing import Any

from anyoptim._machine import _disk_cache
from anyoptim._trace._text import executed

__all__ = ["compiled", "dispatcher", "function"]

# Without the check for zero divisors, which stops SIMD, and without `fastmath`, which rounds differently.
OPTIONS = {"nogil": True, "error_model": "numpy"}

OWN = ("_machine._bits", "_machine._array_headers", "_engines.compiled._intrinsics")
"""The modules whose functions and constants become part of the machine code of what calls them."""


def function(name: str, text: str) -> Callable[..., Any]:
    """The function of this name in a module with this text, which debuggers and tracebacks can show."""
    stem = f"{name} {_digest(text)[:16]}"
    module = ModuleType(f"anyoptim {stem}")
    modules[module.__name__] = module  # where Numba looks for it when it loads what was kept
    call: Callable[..., Any] = executed(text, f"<anyoptim {stem}>", vars(module))[name]
    return call


def compiled(name: str, text: str, signature: str) -> Callable[..., Any]:
    """The function of this name in a text, as machine code, which comes from the cache folder if it is there.

    It does not look at the types of its arguments: they have to be those of the signature.
    """
    (only,) = dispatcher(name, text, signature).overloads.values()
    machine_code: Callable[..., Any] = only.entry_point
    return machine_code


def dispatcher(name: str, text: str, signature: str) -> Any:
    """What Numba makes of a text, with machine code for one signature."""
    from numba import njit  # noqa: PLC0415 - a second that only those pay who come here

    made: Any = njit(**OPTIONS)(function(name, text))
    intrinsics = _intrinsics_digest()
    if intrinsics is not None:
        made._cache = _OneFileCache(intrinsics, text, signature)
    made.compile(signature)
    made.disable_compile()
    return made


class _OneFileCache:
    """The cache that Numba asks before it compiles a function, and tells afterwards: one file.

    Numba's own cache unpickles what lies in its folder and runs it, whoever put it there and whatever became of it. The
    calls here are not public: where a version of Numba has others, nothing is kept.
    """

    cache_path = None

    def __init__(self, *texts: str) -> None:
        self._texts = texts

    def _name(self, context: Any) -> str:
        """A file name made of all that machine code depends on: the texts, this Python and Numba, the processor."""
        import numba  # noqa: PLC0415

        versions = sys.implementation.cache_tag, getattr(sys, "abiflags", ""), numba.__version__
        return f"{_digest(repr((self._texts, OPTIONS, versions, context.codegen().magic_tuple())))}.kernel"

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The machine code that Numba kept, or None."""
        import pickle  # noqa: PLC0415

        from numba.core.compiler import CompileResult  # noqa: PLC0415

        with suppress(Exception):
            context.refresh()
            content = _disk_cache.read(self._name(context))
            if content is not None:
                return CompileResult._rebuild(context, *pickle.loads(content))  # noqa: S301 - as it was written
        return None

    def save_overload(self, signature: Any, made: Any) -> None:
        """Keep machine code, unless addresses of this process are part of it."""
        from numba.core.serialize import dumps  # noqa: PLC0415

        with suppress(Exception):
            if not made.library.has_dynamic_globals and not made.lifted:
                _disk_cache.keep(self._name(made.target_context), dumps(made._reduce()))


@functools.cache
def _intrinsics_digest() -> str | None:
    """The digest of the texts, or else the byte code, of the modules in `OWN`; None if neither is there."""
    with suppress(Exception):
        specs: list[Any] = [importlib.util.find_spec(f"anyoptim.{name}") for name in OWN]
        return _digest(*[spec.loader.get_data(spec.origin) for spec in specs])
    return None


def _digest(*parts: str | bytes) -> str:
    import hashlib  # noqa: PLC0415 - for those who compile

    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.encode() if isinstance(part, str) else part)
    return whole.hexdigest()
