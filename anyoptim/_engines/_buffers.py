"""Memory of a device, and pinned memory of its host, that is handed out again when the device is done with it.

Nothing here waits: what is not over yet stays where it is, and other memory is taken.
"""

from __future__ import annotations

import functools
from collections import defaultdict, deque
from typing import Any, NamedTuple, Protocol

import numpy as np

from anyoptim._engines._leaf import NDArray

__all__ = ["Buffers", "Event", "Machine", "Placed", "Upload", "buffers"]


class Machine(Protocol):
    """A device, as `_driver.Device` says."""

    def __hash__(self) -> int: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...
    def load(self, name: str, text: str) -> Any: ...
    def launch(self, function: Any, blocks: int, threads: int, stream: int, arguments: Any) -> None: ...
    def allocate(self, n: int) -> int: ...
    def pinned(self, n: int) -> tuple[int, NDArray]: ...
    def send(self, to: int, pinned: int, n: int, stream: int) -> None: ...
    def fetch(self, array: NDArray, address: int, stream: int) -> None: ...
    def event(self) -> Any: ...
    def record(self, event: Any, stream: int) -> None: ...
    def over(self, event: Any) -> bool: ...
    def place(self, to: int, words: NDArray) -> None: ...


class Event:
    """An event of a device, whose handle goes to another when nobody asks for it any more."""

    def __init__(self, handle: Any, handles: list[Any]) -> None:
        self.handle = handle
        self._handles = handles

    def __del__(self) -> None:
        self._handles.append(self.handle)


class _Free(NamedTuple):
    address: int
    event: Event


class _Pinned(NamedTuple):
    address: int
    words: NDArray
    event: Event


@functools.cache
def buffers(machine: Machine) -> Buffers:
    """Those of this device."""
    return Buffers(machine)


class Buffers:
    """The memory of a device that is free, or soon will be, by its size in bytes."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._events: list[Any] = []
        self._device: defaultdict[int, deque[_Free]] = defaultdict(deque)
        self._pinned: defaultdict[int, deque[_Pinned]] = defaultdict(deque)

    def event(self) -> Event:
        """An event that nobody else has, and that is over."""
        try:
            handle = self._events.pop()
        except IndexError:
            handle = self._machine.event()
        return Event(handle, self._events)

    def record(self, event: Event, stream: int) -> None:
        """Let the event be over when all is done that the stream has to do by now."""
        self._machine.record(event.handle, stream)

    def take(self, n: int) -> int:
        """Device memory of at least so many bytes."""
        found = self._over(self._device[_size(n)])
        return self._machine.allocate(_size(n)) if found is None else found.address

    def give(self, address: int, n: int, event: Event) -> None:
        """Have it back when the event is over."""
        self._device[_size(n)].append(_Free(address, event))

    def pinned(self, n: int) -> _Pinned:
        """Pinned memory of at least so many bytes, with an event for its owner to record."""
        found: _Pinned | None = self._over(self._pinned[_size(n)])
        if found is not None:
            return found
        address, words = self._machine.pinned(_size(n))
        return _Pinned(address, words, self.event())

    def _over(self, free: deque[Any]) -> Any:
        """One that the device is done with, if it is the one that waited longest; else None."""
        # No lock: a plan that is dropped in between gives, and what a handler of a signal does there takes.
        try:
            found = free.popleft()
        except IndexError:
            return None
        if self._machine.over(found.event.handle):
            return found
        free.append(found)  # its stream may have stopped, and those of others not
        return None

    def give_pinned(self, found: _Pinned) -> None:
        """Have it back when its event is over."""
        self._pinned[found.words.nbytes].append(found)


def _size(n: int) -> int:
    """The size that is asked for: few sizes, so that what comes back finds a taker."""
    return 1 << max(n - 1, 255).bit_length()


class Upload:
    """Words that stand on a device, sent there anew where they have changed."""

    def __init__(self, machine: Machine, words: int) -> None:
        self._machine, self._buffers = machine, buffers(machine)
        self._sent: NDArray | None = None
        self.bytes = 8 * max(words, 1)
        self.address = self._buffers.take(self.bytes)

    def send(self, words: NDArray, stream: int) -> None:
        """Have the device see these words, uint64, in the order of a stream."""
        if self._sent is not None and np.array_equal(words, self._sent):
            return
        pinned = self._buffers.pinned(words.nbytes)
        pinned.words[: len(words)] = words
        self._machine.send(self.address, pinned.address, words.nbytes, stream)
        self._buffers.record(pinned.event, stream)
        self._buffers.give_pinned(pinned)
        self._sent = words.copy()

    def once(self, words: NDArray, stream: int) -> None:
        """The same for words that never change."""
        if self._sent is None:
            self.send(words, stream)

    def give(self, event: Event) -> None:
        """Give the memory back, for when the event is over."""
        self._buffers.give(self.address, self.bytes, event)


class Placed(Upload):
    """Words that a recorded step reads: sent once, while nothing but the recording goes on."""

    def send(self, words: NDArray, stream: int) -> None:
        """Have the device see these words, at once; the step is recorded with what they are the first time."""
        if self._sent is None:
            self._machine.place(self.address, words)
            self._sent = words.copy()
