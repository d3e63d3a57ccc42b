"""Generated code as files in the user's cache folder, compiled once per machine."""

from __future__ import annotations

import contextlib
import linecache
import os
from collections.abc import Callable
from sys import modules
from types import ModuleType
from typing import Any

from anyoptim._engines import _cache

__all__ = ["compiled", "function", "stamped"]


def stamped(text: str, *modules: ModuleType) -> str:
    """With a first line that changes when these modules change, whose functions are compiled into what calls them."""
    import hashlib  # noqa: PLC0415 - for those who compile
    import inspect  # noqa: PLC0415

    stamp = hashlib.sha256("".join(map(inspect.getsource, modules)).encode()).hexdigest()[:16]
    return f"# Made by anyoptim; with its own functions as of {stamp}.\n{text}"


def function(name: str, text: str) -> Callable[..., Any]:
    """The function of this name in the module that the text is.

    The text goes to a file named by its content, for Numba to keep the machine code beside, and for debuggers and
    tracebacks. Where that can't be written, all is as it would be otherwise, but for this process alone.
    """
    import hashlib  # noqa: PLC0415 - for those who compile

    stem = f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    path = _cache.kept(f"{stem}.py", text.encode())
    module = ModuleType(f"anyoptim_{stem}")
    module.__file__ = f"<anyoptim {stem}>" if path is None else path
    if path is None:
        linecache.cache[module.__file__] = (len(text), None, text.splitlines(keepends=True), module.__file__)
    modules[module.__name__] = module  # where Numba looks for it when it loads what it kept
    exec(compile(text, module.__file__, "exec"), vars(module))  # noqa: S102 - our text, not what stood in the file
    found: Callable[..., Any] = vars(module)[name]
    return found


def compiled(call: Callable[..., Any], signature: str) -> Callable[..., Any]:
    """The function as machine code, from where Numba keeps it, if it does."""
    from numba import njit  # noqa: PLC0415 - a second that only those pay who come here

    # Without the check for zero divisors, which stops SIMD, and without `fastmath`, which rounds differently.
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    if os.path.exists(call.__code__.co_filename):
        # What may go wrong with a folder: it is full, read-only, on a network, or another's broken file is in it.
        with contextlib.suppress(Exception):
            kept: Callable[..., Any] = njit(signature, cache=True, **options)(call)
            return kept
    anew: Callable[..., Any] = njit(signature, **options)(call)
    return anew
