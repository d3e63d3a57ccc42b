"""Threads that share out one step."""

from __future__ import annotations

import contextlib
import functools
import operator
import os
import struct
import sys
import threading
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice, repeat, starmap
from typing import TYPE_CHECKING, Any

from anyoptim._arrays._quiet import quietly
from anyoptim._machine._completed import exhaust, in_one_go

if TYPE_CHECKING:
    from queue import SimpleQueue

__all__ = ["Call", "Pieces", "run", "spread", "threads"]


def threads() -> int:
    """The number of threads that the process may run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Call = Callable[[], object]
"""A call of a function of C, of arrays that lie ready."""


class Pieces:
    """Pieces of work that is being done, by several threads where that pays.

    Called again after an exception, from a signal's handler, say, it goes on with what is left: the calls of a piece
    are made in one go, and the last of them crosses the piece out. A piece whose calls fail is begun again.
    """

    def __init__(
        self,
        calls: Callable[..., Iterable[Call]],
        pieces: Sequence[tuple[Any, ...]],
        rooms: Sequence[tuple[Any, ...]] = ((),),
    ) -> None:
        """Lay work ready.

        Args:
            calls: gives the calls that do a piece, `calls(*room, *piece)`, in the thread that does it.
            pieces: the pieces.
            rooms: for each thread that may work something that it has to itself.
        """
        self._calls, self._todo = calls, iter(pieces)
        number = 1 if _SHARING.now() else max(min(len(rooms), len(pieces)), 1)
        # Each thread has a room, and a list of the piece that it has claimed and not yet done.
        self._places: list[tuple[list[Any], tuple[Any, ...]]] = [([], room) for room in rooms[:number]]
        self._offered = deque(self._places[1:])
        self._returned = _queue() if number > 1 else None
        self._back: list[Any] = []
        """The places of others that are free again; all of them, when nobody helps any more."""
        self._mode = _flushing() if number > 1 else None

    def __call__(self) -> None:
        """Do the pieces that are left. They are done when it returns, and no thread works on when it raises."""
        try:
            if self._offered:
                _SHARING.pieces = self
                _ask(self._help, len(self._offered))
            self._work(*self._places[0])
        finally:
            if self._returned is not None:
                self._wait(self._returned)
                _SHARING.pieces = None
        # Also what another thread has claimed and left, because something failed there. If it fails again, it raises.
        for place in self._places:
            self._work(*place)

    def shared(self) -> bool:
        """Whether other threads work on it."""
        free = len(self._back) + len(self._offered) + (0 if self._returned is None else self._returned.qsize())
        return free < len(self._places) - 1

    def _help(self) -> None:
        try:
            place = self._offered.popleft()
        except IndexError:  # the work is over
            return
        try:
            # A thread may treat subnormal numbers differently from this one, and its bits would differ.
            if _flushing() == self._mode:
                self._work(*place)
        except BaseException:
            return
        finally:
            if self._returned is not None:
                self._returned.put(place)

    def _work(self, claimed: list[Any], room: tuple[Any, ...]) -> None:
        while True:
            if not claimed:
                claimed.extend(islice(self._todo, 1))
            if not claimed:
                return
            run(chain(self._calls(*room, *claimed[0]), (claimed.clear,)))

    def _wait(self, returned: SimpleQueue[Any]) -> None:
        """Wait for all who help, whatever comes: while one works, nobody may free what it reads and writes."""
        interruption, others = None, len(self._places) - 1
        while len(self._back) < others:
            try:
                with contextlib.suppress(IndexError):  # at the end of those that nobody has taken
                    exhaust(map(returned.put, map(deque.popleft, repeat(self._offered))))
                self._back.extend(map(operator.call, repeat(returned.get, others - len(self._back))))
            except BaseException as error:
                interruption = error
        if interruption is not None:
            raise interruption


def run(calls: Iterable[Call]) -> None:
    """Make calls in one go, in which NumPy does not warn."""
    quietly(in_one_go, calls)


def spread(call: Callable[..., object], pieces: Sequence[tuple[Any, ...]], least: int = 2) -> None:
    """Make `call(*piece)` for each piece, in this thread and, where there are at least so many, in others beside it.

    All pieces are done when it returns; if it raises, no thread works on.
    """
    number = threads() if len(pieces) >= least else 1
    if number == 1:
        quietly(exhaust, starmap(call, pieces))
    else:
        Pieces(lambda *piece: [functools.partial(call, *piece)], pieces, [()] * number)()


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

    helps = False
    pieces: Pieces | None = None
    """What it shares out; after an exception perhaps what it did share out."""

    def now(self) -> bool:
        return self.helps or (self.pieces is not None and self.pieces.shared())


_SHARING = _Sharing()


def _queue() -> SimpleQueue[Any]:
    from queue import SimpleQueue  # noqa: PLC0415 - when there are threads

    return SimpleQueue()


class _Pool:
    """Threads that wait for calls to make, and end with the process.

    Those of concurrent.futures may wait for ever once a signal's handler has raised an exception in its midst, where
    Python code holds a lock that nobody gives back. Here are queues of C alone.
    """

    def __init__(self) -> None:
        self.calls, self.threads = _queue(), 0

    def serve(self) -> None:
        """What each thread does."""
        _SHARING.helps = True
        get = self.calls.get
        while True:
            get()()


_POOLS: list[_Pool] = []


def _ask(call: Callable[[], object], number: int) -> None:
    """Have so many threads make a call."""
    if not _POOLS:
        _POOLS.append(_Pool())
    pool = _POOLS[0]
    with contextlib.suppress(RuntimeError):  # when the process ends, no thread begins any more
        while pool.threads < number:
            start_new_thread(pool.serve, ())
            pool.threads += 1
    for _ in range(number):
        pool.calls.put(call)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOLS.clear)  # a child has its parent's pool but none of its threads
