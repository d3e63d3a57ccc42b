"""Threads that share out one step."""

from __future__ import annotations

import contextlib
import functools
import operator
import os
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from anyoptim._arrays._quiet import quietly

if TYPE_CHECKING:  # importing it takes a tenth of the time that importing anyoptim may take
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["Call", "Pieces", "run", "spread", "threads"]


def threads() -> int:
    """The number of threads that the process may run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Call = Callable[[], object]
"""A call of a function of C, of arrays that lie ready."""


class Pieces:
    """Pieces of work that is being done, by several threads where that pays: once each, also if an exception arrives.

    Called again after one, from a signal's handler, say, it goes on with what is left. For that, the calls of a piece
    are made in a loop of C, in which CPython runs no handler, and the last of them crosses the piece out.
    """

    def __init__(
        self,
        calls: Callable[..., Iterable[Call]],
        pieces: Sequence[tuple[Any, ...]],
        rooms: Sequence[tuple[Any, ...]] = ((),),
    ) -> None:
        """Lay work ready.

        Args:
            calls: gives the calls that do a piece, `calls(*room, *piece)`. Where several threads work, in each of them.
            pieces: the pieces.
            rooms: for each thread that may work something that it has to itself.
        """
        self._calls, self._todo = calls, iter(pieces)
        number = 1 if _SHARING.now else min(len(rooms), len(pieces))
        self._claims: list[tuple[list[Any], tuple[Any, ...]]] = [([], room) for room in rooms[: max(number, 1)]]
        self._mode = _flushing() if number > 1 else None

    def __call__(self) -> None:
        """Do the pieces that are left. They are done when it returns, and no thread works on when it raises."""
        others = self._claims[1:]
        if others:
            try:
                _SHARING.now = True
                self._share(others)
            finally:
                _SHARING.now = False
        # After an exception also what another thread has claimed and left.
        for claim in self._claims:
            self._work(*claim)

    def _share(self, others: Sequence[tuple[list[Any], tuple[Any, ...]]]) -> None:
        helpers: list[Future[None]] = []
        try:
            # A thread that still trains when the main one has ended is given no helpers.
            with contextlib.suppress(RuntimeError):
                for claim in others:  # one by one, so that those before a failure are known
                    helpers.append(_pool().submit(self._help, *claim))  # noqa: PERF401
            self._work(*self._claims[0])
        finally:
            _wait_for(helpers)
        for helper in helpers:
            helper.result()

    def _help(self, claimed: list[Any], room: tuple[Any, ...]) -> None:
        # A thread may treat subnormal numbers differently from this one, and its bits would differ.
        if _flushing() == self._mode:
            self._work(claimed, room)

    def _work(self, claimed: list[Any], room: tuple[Any, ...]) -> None:
        while True:
            if not claimed:
                claimed.extend(islice(self._todo, 1))
            if not claimed:
                return
            run(chain(self._calls(*room, *claimed[0]), (claimed.clear,)))


def run(calls: Iterable[Call]) -> None:
    """Make calls of functions of C in a loop of C, which no signal's handler cuts in two. NumPy does not warn there."""
    quietly(deque, map(operator.call, calls), 0)


def spread(call: Callable[..., object], pieces: Sequence[tuple[Any, ...]]) -> None:
    """Make `call(*piece)` for each piece, in this thread and, where there are several pieces, in others beside it.

    All pieces are done when it returns; if it raises, no thread works on.
    """
    Pieces(lambda *piece: [functools.partial(call, *piece)], pieces, [()] * threads())()


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
