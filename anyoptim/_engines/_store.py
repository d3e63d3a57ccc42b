"""Generated code as files in the user's cache folder, compiled once per machine."""

from __future__ import annotations

import contextlib
import hashlib
import linecache
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from sys import modules
from types import ModuleType
from typing import Any

__all__ = ["compiled", "function"]


def function(name: str, text: str) -> Callable[..., Any]:
    """The function of this name in the module that the text is.

    The text goes to a file named by its content, for Numba to keep the machine code beside, and for debuggers and
    tracebacks. Where that can't be written, all is as it would be otherwise, but for this process alone.
    """
    stem = f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    path = _written(stem, text)
    module = ModuleType(f"anyoptim_{stem}")
    module.__file__ = f"<anyoptim {stem}>" if path is None else str(path)
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


def _written(stem: str, text: str) -> Path | None:
    """The file with this text, or None where there can be none."""
    import platformdirs  # noqa: PLC0415 - comes with the extra `fast`, as Numba does

    path = platformdirs.user_cache_path("anyoptim", appauthor=False) / "kernels" / f"{stem}.py"
    try:
        if path.read_text(encoding="utf-8") == text:
            return path  # left alone: Numba takes a newer file for another
    except (OSError, UnicodeDecodeError):
        pass
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # By way of another name, so that nobody ever sees half of it.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{stem}_")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError:
        return None
    return path
