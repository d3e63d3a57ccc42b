"""Files: read only if they are regular, and replaced whole or not at all."""

from __future__ import annotations

import functools
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

__all__ = ["opened", "regular", "replacing"]


def regular(path: str | os.PathLike[str], status: os.stat_result) -> None:
    """Raise OSError for a folder, a pipe, a socket or a device."""
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is no regular file; wanted the path of one")


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, open for reading.

    Opening a pipe would wait, a device may have no end, and opening one may have effects: so the path is checked before
    it is opened, and the open file afterwards, for it may be another one by then.
    """
    regular(path, os.stat(path))
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller closes it
    try:
        regular(path, os.fstat(file.fileno()))
    except OSError:
        file.close()
        raise
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@contextmanager
def replacing(target: str | os.PathLike[str], mode: int = 0o666) -> Iterator[BinaryIO]:
    """A context with a new file, which takes the place of `target` in the end; if anything fails, the old file stays.

    Until then the new file is locked and has a short name in the same folder. A process that is killed leaves it there
    without its lock, and the next process of this machine that replaces a file in this folder removes it. On Windows,
    which has no such locks, it stays.
    """
    folder = os.path.dirname(os.path.abspath(target))
    with suppress(OSError):
        _sweep(folder)
    file = _temporary(folder, mode)
    try:
        with file:
            yield file
            if sys.platform == "win32":
                file.close()  # Windows renames no open file; elsewhere it stays locked until it has its name
            os.replace(file.name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(file.name)
        raise


def _temporary(folder: str, mode: int) -> BinaryIO:
    """A new file under a name that no other has or had, locked where that is possible."""
    while True:
        path = os.path.join(folder, f".anyoptim-{'-'.join(_machine())}-{os.urandom(8).hex()}.tmp")
        file = open(path, "xb", opener=functools.partial(os.open, mode=mode))  # noqa: SIM115 - the caller closes it
        # Another process may have found it before it was locked, and removed it.
        if _locked(file.fileno()) is not False and os.path.exists(path):
            return file
        file.close()


def _sweep(folder: str) -> None:
    """Remove the temporary files of dead processes, which are those that can be locked.

    Two machines of one name that share a folder, but not its locks, would remove each other's.
    """
    for name in os.listdir(folder):
        first, *parts = name.removesuffix(".tmp").split("-")
        # Some network file systems hide the locks of one machine from the others.
        if first == ".anyoptim" and not {*_machine()}.isdisjoint(parts):
            path = os.path.join(folder, name)
            with suppress(OSError):
                number = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
                try:
                    if _locked(number):
                        os.unlink(path)
                finally:
                    os.close(number)


@functools.cache
def _machine() -> tuple[str, ...]:
    """What a machine is known by: its name, and when it was started, which is the same in all its containers."""
    if sys.platform == "win32":
        return ()
    marks = [os.uname().nodename.encode()]
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", "rb") as file:
        marks.append(file.read())
    return tuple(f"{zlib.crc32(mark):08x}" for mark in marks)


def _locked(number: int) -> bool | None:
    """Lock an open file until it is closed: False if another process has locked it, None where files have no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
