"""Files in the user's cache folder, named by their content or by what it was made from.

What this needs is imported by those who compile, not by all who import anyoptim.
"""

from __future__ import annotations

import os

__all__ = ["folder", "kept", "read"]


def folder(name: str) -> str:
    """The folder of this name in the user's cache."""
    import platformdirs  # noqa: PLC0415 - comes with the extras of the engines that compile

    return os.path.join(platformdirs.user_cache_dir("anyoptim", appauthor=False), name)


def _path(name: str) -> str:
    return os.path.join(folder("kernels"), name)


def read(name: str) -> bytes | None:
    """What the file holds, if there is one that can be read."""
    try:
        with open(_path(name), "rb") as file:
            return file.read()
    except OSError:
        return None


def kept(name: str, content: bytes) -> str | None:
    """The path of the file with this content, or None where there can be none: no folder, no right, no space."""
    import tempfile  # noqa: PLC0415

    path = _path(name)
    if read(name) == content:
        return path  # left alone: Numba takes a newer file for another
    parent = os.path.dirname(path)
    try:
        os.makedirs(parent, exist_ok=True)
        # By way of another name, so that nobody ever sees half of it.
        handle, temporary = tempfile.mkstemp(dir=parent, prefix=f".{name}_")
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
