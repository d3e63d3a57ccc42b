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


def regular(path: str | os.PathLike[str], found: os.stat_result) -> None:
    """Raise OSError for a folder, a pipe, a socket or a device."""
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is no regular file; wanted the path of one")


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, to be read.

    A pipe would be waited for, a device may have no end, and opening one may do something: what lies there is looked at
    before it is opened, and again afterwards, for it may be another by then.
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
    """A new file, which takes the place of another in the end; if anything fails, the old one stays and no new one.

    Until then it lies beside the other under a short name, locked. A process that is killed leaves it there, and its
    lock goes: the next process of this machine that replaces a file in this folder removes it. Not so on Windows, which
    has no such locks.
    """
    folder = os.path.dirname(os.path.abspath(target))
    with suppress(OSError):
        _sweep(folder)
    file = _beside(folder, mode)
    try:
        with file:
            yield file
            if sys.platform == "win32":
                file.close()  # where no open file can be renamed; elsewhere it is locked until it has its name
            os.replace(file.name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(file.name)
        raise


def _beside(folder: str, mode: int) -> BinaryIO:
    """A new file under a name that no other has or had, locked if that can be."""
    while True:
        path = os.path.join(folder, f".anyoptim-{'-'.join(_machine())}-{os.urandom(8).hex()}.tmp")
        file = open(path, "xb", opener=functools.partial(os.open, mode=mode))  # noqa: SIM115 - the caller closes it
        # Another process may have found it before it was locked, and removed it.
        if _locked(file.fileno()) is not False and os.path.exists(path):
            return file
        file.close()


def _sweep(folder: str) -> None:
    """Remove what dead processes left: those files that can be locked.

    Two machines of one name that share a folder, but not its locks, would take each other's.
    """
    for name in os.listdir(folder):
        first, *marks = name.removesuffix(".tmp").split("-")
        # Some network file systems keep the locks of each machine from the others.
        if first == ".anyoptim" and not {*_machine()}.isdisjoint(marks):
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
    """Fingerprint of this machine: its name, and when it was started, which is the same in all its containers."""
    if sys.platform == "win32":
        return ()
    found = [os.uname().nodename.encode()]
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", "rb") as file:
        found.append(file.read())
    return tuple(f"{zlib.crc32(mark):08x}" for mark in found)


def _locked(number: int) -> bool | None:
    """Lock an open file, until it is closed: False if another has locked it, None where that can't be."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
