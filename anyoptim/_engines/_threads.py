"""Threads that share out one step."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing it takes a tenth of the time that importing anyoptim may take
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["spread", "threads"]


def threads() -> int:
    """The number of threads that the process may run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(call: Callable[..., object], pieces: Sequence[tuple[Any, ...]]) -> None:
    """Make `call(*piece)` for each piece, in this thread and, where there are several pieces, in others beside it.

    All pieces are done when it returns or raises.
    """
    if len(pieces) == 1 or _SHARING.now:
        for piece in pieces:
            call(*piece)
        return
    try:
        _SHARING.now = True
        _share(call, pieces)
    finally:
        _SHARING.now = False


def _share(call: Callable[..., object], pieces: Sequence[tuple[Any, ...]]) -> None:
    mode = _flushing()
    queue = deque(pieces)

    def following() -> tuple[Any, ...] | None:
        with contextlib.suppress(IndexError):
            return queue.popleft()
        return None

    def work() -> None:
        # A thread may treat subnormal numbers differently from this one, and its bits would differ.
        if _flushing() == mode:
            while (piece := following()) is not None:
                call(*piece)

    helpers: list[Future[None]] = []
    # A thread that still trains when the main one has ended is given no helpers.
    with contextlib.suppress(RuntimeError):
        for _ in range(min(threads(), len(pieces)) - 1):
            helpers.append(_pool().submit(work))  # noqa: PERF401 - one by one, so that those before a failure are known
    try:
        work()
    finally:
        _wait_for(helpers)
    for helper in helpers:
        helper.result()


def _wait_for(helpers: Sequence[Future[None]]) -> None:
    """Wait for all helpers, whatever comes: while one works, nobody may free what it reads and writes."""
    from concurrent.futures import wait  # noqa: PLC0415 - when there are threads

    interrupted = None
    while not all(helper.done() for helper in helpers):
        try:
            wait(helpers)
        except BaseException as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


def _flushing() -> tuple[bool, bool]:
    """Whether this thread flushes subnormal results to zero, and whether it takes subnormal operands for zeros."""
    # The result is looked at by its bytes, because a comparison takes operands, too.
    return struct.pack("d", sys.float_info.min * 0.5) == bytes(8), _SUBNORMAL[0] * 2.0**1000 == 0.0


_SUBNORMAL = struct.unpack("d", (1).to_bytes(8, sys.byteorder))


class _Sharing(threading.local):
    """Whether this thread shares out a step now, or takes part in one that another shares out.

    A step that a finalizer or the handler of a signal takes meanwhile is not shared: it would wait for locks and
    threads that wait for the step it interrupts.
    """

    now = False


_SHARING = _Sharing()


def _helps() -> None:
    _SHARING.now = True


_POOLS: list[ThreadPoolExecutor] = []


def _pool() -> ThreadPoolExecutor:
    """The pool of threads, which is made when it is first wanted."""
    if not _POOLS:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - when there are threads

        _POOLS.append(ThreadPoolExecutor(max(threads() - 1, 1), "anyoptim", _helps))
    return _POOLS[0]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOLS.clear)  # a child has its parent's pool but none of its threads
