"""When compiling begins to pay: once as much work has been done without it as it costs."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

from anyoptim._arrays import COMPUTE
from anyoptim._engines._base import Leaf, real
from anyoptim._trace._program import Program

__all__ = ["CALLS", "LATER", "WORTHWHILE", "Waiting", "Work", "premature", "warm"]

WORTHWHILE = 1_000_000_000
"""After so many elements updated by the blocked engine, the time lost by not having compiled is about what importing
Numba and compiling cost: two seconds. A plain rule that never costs more than twice the better choice."""

CALLS = 4096
"""The number of elements that take as long as the blocked engine's calls for one leaf, however small."""

LATER = "compiled when enough elements have been updated (compile(params) does it at once)"
"""The reason why a leaf is not compiled yet."""


class Work:
    """The number of elements of one dtype that one program has updated without being compiled."""

    def __init__(self) -> None:
        self.elements = 0


_worked: defaultdict[tuple[Program, str], Work] = defaultdict(Work)


def _work(program: Program, dtype: str) -> Work:
    return _worked[program, real(COMPUTE[dtype]).name]


def premature(program: Program, leaf: Leaf) -> str | None:
    """Why it does not pay yet to compile a program for a leaf, or None."""
    return LATER if _work(program, leaf.library.dtype(leaf.p)).elements < WORTHWHILE else None


def warm(program: Program, dtype: str) -> None:
    """Let it count as worth its while, from now on, to compile a program for a dtype."""
    _work(program, dtype).elements = WORTHWHILE


class Waiting(Counter[Work]):
    """The leaves of a step that wait to be compiled, as what each step adds to the work of their programs."""

    def add(self, program: Program, leaf: Leaf) -> None:
        """Count a leaf among those that wait."""
        self[_work(program, leaf.library.dtype(leaf.p))] += CALLS + math.prod(leaf.p.shape)

    def due(self) -> bool:
        """Whether compiling pays by now for any of them."""
        return any(work.elements >= WORTHWHILE for work in self)

    def count(self) -> None:
        """Count the work of a step."""
        for work, more in self.items():
            work.elements += more
