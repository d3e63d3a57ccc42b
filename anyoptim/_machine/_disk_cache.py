"""Files in the user's cache folder with machine code, named by what it was compiled from.

What is read there is run. Each file begins with a digest of its name and of the rest: one that was damaged or renamed
counts as missing. That is no protection from those who can write there, for anybody can make a digest. So the folder is
made for its owner alone, and is not used if it belongs to another or others can write to it. On Windows permissions are
of another kind: there the folder lies in the user's profile, which others can't write to.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress

from anyoptim._arrays._files import opened, replacing

__all__ = ["folder", "keep", "read"]


def folder() -> str | None:
    """The folder, which is made if need be; None where there is no home, no right to make it, or no privacy."""
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "")
    if not os.path.isabs(base) and sys.platform != "win32":
        base = os.path.expanduser("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")
    path = os.path.join(base, "anyoptim")
    if not os.path.isabs(path):  # without a home it would be wherever the process is
        return None
    try:
        _make(path)
        status = os.lstat(path)
    except OSError:
        return None
    return path if stat.S_ISDIR(status.st_mode) and _private(status) else None


def _make(path: str) -> None:
    """Make a folder, and those that it lies in, for its owner alone, whatever the umask lets others do."""
    if not os.path.isdir(path) and path != os.path.dirname(path):
        _make(os.path.dirname(path))
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)


def _private(status: os.stat_result) -> bool:
    """Whether nobody but this user can write to a file or folder."""
    return sys.platform == "win32" or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def read(name: str) -> bytes | None:
    """The content that is kept under this name, undamaged; or None."""
    path = folder()
    if path is None:
        return None
    try:
        with opened(os.path.join(path, name)) as file:
            data = file.read() if _private(os.fstat(file.fileno())) else b""
    except OSError:
        return None
    content = data[32:]
    return content if data[:32] == _digest(name, content) else None


def keep(name: str, content: bytes) -> None:
    """Keep a content under a name, where there is a folder to keep it in."""
    path = folder()
    if path is not None:
        with suppress(OSError), replacing(os.path.join(path, name), 0o600) as file:
            file.write(_digest(name, content) + content)


def _digest(name: str, content: bytes) -> bytes:
    import hashlib  # noqa: PLC0415 - for those who compile

    return hashlib.sha256(name.encode() + b"\0" + content).digest()
