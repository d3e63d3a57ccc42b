"""When compiling begins to pay, or loading what is compiled: once as much work has been done without it as it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from anyoptim._arrays import COMPUTE

__all__ = [
    "CALLS",
    "COMPILING",
    "LATER",
    "LOADING",
    "REDUCTION",
    "WORTHWHILE",
    "Waiting",
    "Work",
    "premature",
    "warm",
]

WORTHWHILE = 1_000_000_000
"""After so many elements updated by the blocked engine, the time lost by not having compiled is about what importing
Numba and compiling cost: two seconds of a processor. A plain rule that never costs more than twice the better
choice."""

LOADING = 40_000_000
"""The same for a program whose machine code lies in the cache folder: eighty milliseconds, which the first that is
loaded takes with the import of llvmlite."""

CALLS = 4096
"""The number of elements that take as long as the blocked engine's calls for one leaf, however small."""

ARRAYS = 4
"""The number of arrays of a step that is counted as one: the blocked engine's time goes with their number."""

REDUCTION = 8
"""The number of steps of a short rule that take the blocked engine as long as one reduction by itself."""

LATER = "compiled when enough elements have been updated (compile(params) does it at once)"
"""The reason why a leaf is not compiled yet."""

COMPILING = "being compiled, in a process of its own"
"""The reason why a leaf is compiled, but not yet."""


Program = Any
"""What is compiled, or its parts: of two that are equal machine code is made once."""


class Work:
    """What one program has done to arrays of one dtype without being compiled."""

    def __init__(self, program: Program, dtype: str) -> None:
        self.program, self.dtype = program, dtype
        self.elements = 0
        """The number of elements that it has updated."""
        self.sought = False
        """Whether it was looked for in the cache folder."""
        self.done: Callable[[], bool] | None = None
        """Whether it is compiled, since that has begun, or it was found in the cache folder."""

    @property
    def worthwhile(self) -> bool:
        """Whether compiling pays by now."""
        return self.elements >= WORTHWHILE

    @property
    def pays(self) -> bool:
        """Whether compiling pays by now, or a look into the cache folder, and has not begun."""
        return self.done is None and (self.worthwhile or (self.elements >= LOADING and not self.sought))


_worked: dict[tuple[Program, str], Work] = {}


def _work(program: Program, dtype: str) -> Work:
    key = program, COMPUTE[dtype]
    return _worked.setdefault(key, Work(*key))


def premature(program: Program, dtype: str) -> str | None:
    """Why it does not pay yet to compile a program for arrays of a dtype, or None."""
    work = _work(program, dtype)
    if work.done is None:
        return LATER
    return None if work.done() else COMPILING


def warm(program: Program, dtype: str) -> None:
    """Let a program count as compiled for a dtype, as it is, or will be when it is run."""
    work = _work(program, dtype)
    work.elements, work.done = WORTHWHILE, lambda: True


class Waiting(Counter[Work]):
    """The leaves of a step that wait to be compiled, as what each step adds to the work of their programs."""

    def add(self, program: Program, dtype: str, elements: int, arrays: int) -> None:
        """Count a leaf of so many elements among those that wait: as several, where a step takes many arrays of it."""
        self[_work(program, dtype)] += max(1, arrays // ARRAYS) * (CALLS + elements)

    def due(self) -> bool:
        """Whether compiling pays by now for any of them, and is to begin or done."""
        return any(work.worthwhile if work.done is None else work.done() for work in self)

    def count(self, times: int = 1) -> list[Work]:
        """Count the work of so many steps. Returns that for which something pays by now, and has not begun."""
        for work, more in self.items():
            work.elements += times * more
        return [work for work in self if work.pays]
