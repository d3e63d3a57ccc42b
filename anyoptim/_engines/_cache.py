"""Files in the user's cache folder, named by their content or by what it was made from."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["kept", "read"]


def _path(name: str) -> Path:
    import platformdirs  # noqa: PLC0415 - comes with the extras of the engines that compile

    return platformdirs.user_cache_path("anyoptim", appauthor=False) / "kernels" / name


def read(name: str) -> bytes | None:
    """What the file holds, if there is one that can be read."""
    try:
        return _path(name).read_bytes()
    except OSError:
        return None


def kept(name: str, content: bytes) -> Path | None:
    """The file with this content, or None where there can be none: no folder, no right to write, no space."""
    path = _path(name)
    if read(name) == content:
        return path  # left alone: Numba takes a newer file for another
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # By way of another name, so that nobody ever sees half of it.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{name}_")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError:
        return None
    return path
