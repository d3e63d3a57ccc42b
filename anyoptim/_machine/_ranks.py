"""Ranks: processes that own parts of the same parameters, and what they tell each other in the course of an update.

There is one kind of call, in which each rank gives something and is given that of all. So ranks that have come to
different points of an update, because one has failed or was given something else, still meet, and find that out.

An exception of a signal's handler, KeyboardInterrupt above all, comes where a rank waits for others, more often than
anywhere else. The call is made by a loop of C, which also writes down that it was begun and what it has given: so such
an exception comes before all of it or after all of it, and whether others still wait for this rank can be told.
"""

from __future__ import annotations

import operator
import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Literal, TypeVar

from anyoptim._arrays._communicators import Communicator, communicator

__all__ = ["ALONE", "Meeting", "meeting"]

T = TypeVar("T")


class Meeting:
    """What ranks tell each other in one update: here of a process that has whole parameters, and nobody to ask.

    It is a context: an error in it, before all have agreed, is raised on all ranks.
    """

    together = False
    """Whether there are other ranks to meet."""

    def __enter__(self) -> Meeting:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Tell the others of an error, for which they may be waiting."""

    def note(self, what: Any, facts: Callable[[], Mapping[str, str]]) -> None:
        """From the next call on, compare this on all ranks: its `repr`; `facts` says it in words, by names."""

    def exchange(self, own: T) -> list[T]:
        """What each rank gives, in the order of ranks.

        Raises ValueError if what they noted differs, and RuntimeError if one has failed.
        """
        return [own]

    def agree(self) -> None:
        """Meet for the last time, and raise as `exchange` does: what follows does not fail."""


ALONE = Meeting()


def meeting(comm: Any) -> Meeting:
    """The meeting of the ranks of a communicator for one update; without one that of this process."""
    return ALONE if comm is None else _RanksMeeting(communicator(comm))


class _RanksMeeting(Meeting):
    """A meeting of ranks, of which each update has its own."""

    together = True

    def __init__(self, ranks: Communicator) -> None:
        import hashlib  # noqa: PLC0415 - for those who have ranks: importing takes time

        self._ranks, self._noted = ranks, hashlib.sha256()
        self._facts: list[Callable[[], Mapping[str, str]]] = []
        self._begun: list[_Call] = []
        """What each call that was begun is for."""
        self._heard: list[list[bytes]] = []
        """What all have said in each call that came to its end."""
        self._late: BaseException | None = None
        """What was raised when all had agreed, which goes on once this rank has written, too."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and self._waited_for():
            with suppress(Exception):  # the error that is raised already says more
                self._gathered("failure", (_words(error), b"", None))
        if self._late is not None:
            raise self._late

    def _waited_for(self) -> bool:
        """Whether the other ranks wait for this one in another call: not in one that has failed, or behind the last."""
        if len(self._begun) > len(self._heard) or (self._begun and self._begun[-1] == "difference"):
            return False
        return not (self._heard and _failures(_told(self._heard[-1]))) and not self._agreed()

    def _agreed(self) -> bool:
        """Whether all ranks have said in the last call that the update can be written."""
        if not self._begun or self._begun[-1] != "agreement" or len(self._begun) > len(self._heard):
            return False
        return not _apart(_told(self._heard[-1]))  # who has failed has noted nothing

    def note(self, what: Any, facts: Callable[[], Mapping[str, str]]) -> None:
        self._noted.update(repr(what).encode())
        self._facts.append(facts)

    def exchange(self, own: T) -> list[T]:
        return self._met("exchange", own, "asks all ranks for a reduction")

    def agree(self) -> None:
        try:
            self._met("agreement", None, "is ready to be written")
        except BaseException as error:
            if not self._agreed():
                raise
            self._late = error

    def _met(self, call: _Call, own: T, why: str) -> list[T]:
        """What each rank gives, where all have come to the same point of the update."""
        self.note(why, lambda: {"an update": why})
        told = self._gathered(call, ("", self._noted.digest(), own))
        if _apart(told):
            found: dict[str, str] = {}
            for facts in self._facts:
                found |= facts()
            each = self._gathered("difference", ("", b"", found))
            raise ValueError(_difference([of_rank for _, _, of_rank in each]))
        return [given for _, _, given in told]

    def _gathered(self, call: _Call, own: _Said) -> list[_Said]:
        """What all ranks say. Raises RuntimeError if another one has failed."""
        gather = partial(self._ranks.allgather, pickle.dumps(own))
        calls: tuple[Callable[[], Any], ...] = (partial(self._begun.append, call), gather)
        self._heard.extend(filter(None, map(operator.call, calls)))
        told = _told(self._heard[-1])
        if not own[0] and (failed := _failures(told)):
            raise RuntimeError(f"{'; '.join(failed)}; this update is not taken on any rank")
        return told


_Call = Literal["exchange", "agreement", "difference", "failure"]
_Said = tuple[str, bytes, Any]
"""What a rank has failed with, or nothing; the digest of what it noted; and what it gives."""


def _told(heard: list[bytes]) -> list[_Said]:
    return [pickle.loads(each) for each in heard]  # noqa: S301 - of ranks of one program


def _failures(told: list[_Said]) -> list[str]:
    return [f"rank {rank} has failed, {why}" for rank, (why, _, _) in enumerate(told) if why]


def _apart(told: list[_Said]) -> bool:
    """Whether ranks have noted different things."""
    return len({noted for _, noted, _ in told}) > 1


def _words(error: BaseException) -> str:
    """What an error says, whatever its own words raise."""
    words = ""
    with suppress(Exception):
        words = str(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _difference(each: list[Mapping[str, str]]) -> str:
    """What is not the same on all ranks, of what each says by names."""
    wanted = "wanted the same on all ranks, each with its own parts of the arrays; this update is not taken on any"
    first = each[0]
    for rank, other in enumerate(each):
        apart = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        for name in sorted(apart, key=lambda name: name in first and name in other):  # what is missing first
            one, another = first.get(name, "missing"), other.get(name, "missing")
            return f"{name}: {one} on rank 0, but {another} on rank {rank}; {wanted}"
    return f"ranks have come to different points of an update; {wanted}"
