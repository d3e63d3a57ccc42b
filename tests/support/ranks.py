"""Ranks as threads of this process, which meet as mpi4py's do; and arrays cut among them."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

LIMIT = 120.0
"""Seconds that a rank waits for the others: who waits in vain fails."""


class ThreadComm:
    """A communicator with mpi4py's interface for one of some threads. What they give is pickled, as mpi4py does.

    Between calls one thread runs at a time: stand-ins for devices are for one thread.
    """

    def __init__(self, rank: int, room: list[bytes], barrier: threading.Barrier, turn: threading.Lock) -> None:
        self._rank, self._room, self._barrier, self._turn = rank, room, barrier, turn
        self.calls = 0
        self.sent = 0
        """Bytes."""

    def Get_rank(self) -> int:  # noqa: N802 - MPI's name
        return self._rank

    def Get_size(self) -> int:  # noqa: N802 - MPI's name
        return len(self._room)

    def allgather(self, sendobj: Any) -> list[Any]:
        self.calls += 1
        self._room[self._rank] = pickle.dumps(sendobj)
        self.sent += len(self._room[self._rank])
        self._wait()
        found = [pickle.loads(each) for each in self._room]  # noqa: S301 - the tests' own
        self._wait()  # nobody gives something new before all have read
        return found

    def _wait(self) -> None:
        self._turn.release()
        try:
            self._barrier.wait()
        finally:
            self._turn.acquire()

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("a communicator can't be copied")


def run(size: int, of_rank: Callable[[ThreadComm], T]) -> list[T | BaseException]:
    """What a function gives on each of some ranks, or what it raises there.

    Raises AssertionError for ranks that wait for one another in vain, or have met different numbers of times.
    """
    barrier = threading.Barrier(size, timeout=LIMIT)
    room = [b""] * size
    turn = threading.Lock()
    comms = [ThreadComm(rank, room, barrier, turn) for rank in range(size)]
    found: list[Any] = [None] * size

    def call(comm: ThreadComm) -> None:
        with turn:
            try:
                found[comm.Get_rank()] = of_rank(comm)
            except BaseException as error:
                found[comm.Get_rank()] = error

    threads = [
        threading.Thread(target=call, args=(comm,), name=f"rank {k}", daemon=True) for k, comm in enumerate(comms)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * LIMIT)
        assert not thread.is_alive(), "a rank goes on for ever"
    assert not any(isinstance(each, threading.BrokenBarrierError) for each in found), found
    assert len({comm.calls for comm in comms}) == 1, [comm.calls for comm in comms]
    return found


def all_of(found: Sequence[T | BaseException]) -> list[T]:
    """What all ranks gave. Raises what the first of them has raised."""
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return list(found)  # type: ignore[arg-type] # none of them is an error


Cuts = Mapping[str, tuple[int, Sequence[int]]]
"""For each array the axis along which it is cut, and where."""


def slabs(arrays: Mapping[str, Any], cuts: Cuts, rank: int) -> dict[str, Any]:
    """A rank's own parts of arrays, in memory of its own."""
    found = {}
    for name, a in arrays.items():
        axis, places = cuts[name]
        found[name] = None if a is None else np.split(a, places, axis)[rank].copy()
    return found


def whole(parts: Sequence[Mapping[str, Any]], cuts: Cuts) -> dict[str, Any]:
    """The arrays of which ranks have these parts."""
    return {name: np.concatenate([of[name] for of in parts], axis) for name, (axis, _) in cuts.items()}
