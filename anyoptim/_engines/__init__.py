"""Engines: machines that run a program over leaves, and the choice among them.

An engine is given a program and leaves and knows nothing else: no container, no optimizer, no other engine. It
prepares a step, which may fail, and gives back the commit, which writes and may not: so that a step over
several engines is taken whole or not at all.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import COMPUTE, Array
from anyoptim._engines import blocked, compiled, portable
from anyoptim._engines._leaf import Commit, Leaf, Plan, Result, Rows
from anyoptim._engines.portable import Lazy, start
from anyoptim._program import Program, Row, options
from anyoptim._reduction import norm

__all__ = [
    "ENGINES",
    "LAZY",
    "Choice",
    "Commit",
    "Crew",
    "Leaf",
    "Result",
    "Rows",
    "choices",
    "known",
    "ready",
    "source",
    "start",
]

ENGINES: Mapping[str, type[Plan]] = {
    "compiled": compiled.Compiled,
    "blocked": blocked.Blocked,
    "portable": portable.Portable,
}
"""From the fastest to the one that takes all."""

LAZY: Mapping[str, type[Plan]] = {**ENGINES, "portable": Lazy}
"""The same, where what is lazy shall stay so."""

WORTHWHILE = 1_000_000_000
"""After so many elements updated by the blocked engine, the time lost by not having compiled is about what importing
Numba and compiling cost: two seconds. A plain rule that never costs more than twice the better choice."""

CALLS = 4096
"""To how many elements the blocked engine's calls for one leaf, however small, come in time."""


class _Work:
    """How many elements of one dtype the blocked engine has updated by one program."""

    def __init__(self) -> None:
        self.elements = 0


_worked: defaultdict[tuple[Program, str], _Work] = defaultdict(_Work)


def known(name: Any) -> None:
    """Raise ValueError, with the names there are, if no engine has this one; None leaves the choice to anyoptim.

    And ImportError for the compiled one where Numba is missing.
    """
    if name is not None and name not in tuple(ENGINES):
        raise ValueError(f"engine is {name!r}; wanted one of {', '.join(map(repr, ENGINES))}, or None")
    if name == "compiled" and (compiled.missing() or compiled.broken()):
        raise ImportError(f"engine is 'compiled', but {compiled.missing() or compiled.broken()}")


def ready(program: Program, row: Row, dtype: str) -> None:
    """Compile for arrays of one dtype what the compiled engine can take, and use it from now on.

    Raises ImportError where Numba is missing.
    """
    known("compiled")
    if COMPUTE[dtype] == dtype:
        for k in (*program.measures, None):
            compiled.load(program, k, options(row[:k]), _real(dtype))
        _worked[program, _real(dtype)].elements = WORTHWHILE


def source(engine: str, program: Program, row: Row, dtype: str) -> str:
    """The text of what an engine runs: a pass for each measure, then the step."""
    if engine == "compiled":
        return "\n\n".join(compiled.source(program, k, row[:k], dtype) for k in (*program.measures, None))
    return "\n\n".join(blocked.source(program, k, row[:k]) for k in (*program.measures, None))


class Choice(NamedTuple):
    """Which engine runs a leaf, and why not a faster one."""

    engine: str
    reason: str | None


def choices(name: str | None, program: Program, leaves: Sequence[Leaf], xs: Sequence[Array]) -> list[Choice]:
    """For each leaf the engine of this name, or the fastest, and why not a faster one."""
    return [_choose(name, program, leaf, x) for leaf, x in zip(leaves, xs, strict=True)]


def _choose(name: str | None, program: Program, leaf: Leaf, x: Array) -> Choice:
    """The engine of this name, or the fastest; where it can't take the leaf, the fastest after it that can."""
    asked = None if name is None else f"engine={name!r}"
    why = asked if name == "portable" else blocked.refusal(leaf, x)
    if why is not None:
        return Choice("portable", why)
    if name == "blocked":
        return Choice("blocked", asked)
    why = compiled.missing() or compiled.refusal(program, leaf, x)
    if why is None and name is None and _work(program, leaf).elements < WORTHWHILE:
        why = LATER
    why = why or compiled.broken()
    return Choice("compiled" if why is None else "blocked", why)


LATER = "compiled when enough elements have been updated (compile(params) does it at once)"


def _work(program: Program, leaf: Leaf) -> _Work:
    return _worked[program, _real(COMPUTE[leaf.library.dtype(leaf.p)])]


def _real(dtype: str) -> str:
    """The dtype of the parts of a complex one."""
    return np.dtype(np.dtype(dtype).char.lower()).name


class _Team(NamedTuple):
    plan: Plan
    of: list[int]
    """Which leaves."""


class Crew:
    """The leaves of a step, divided among engines."""

    def __init__(
        self,
        engine: str | None,
        program: Program,
        leaves: Sequence[Leaf],
        xs: Sequence[Array],
        engines: Mapping[str, type[Plan]] = ENGINES,
    ) -> None:
        self.engine, self.program, self.leaves = engine, program, leaves
        self.choices = choices(engine, program, leaves, xs)
        divided: dict[Any, list[int]] = {}
        for i, (leaf, choice) in enumerate(zip(leaves, self.choices, strict=True)):
            # The compiled engine takes one dtype at a time.
            dtype = leaf.library.dtype(leaf.p) if choice.engine == "compiled" else ""
            divided.setdefault((choice.engine, leaf.library, dtype), []).append(i)
        # The portable engine last: it has read all it needs when it has prepared, but a gradient of another may
        # lie in the memory of a parameter that the portable one will write to.
        order = sorted(divided.items(), key=lambda item: item[0][0] == "portable")
        self.teams = [_Team(engines[name](program, [leaves[i] for i in of]), of) for (name, *_), of in order]
        written = [a for team in self.teams for a in team.plan.written]
        for team in self.teams:
            team.plan.keep_off(written)
        self.lasting = all(team.plan.lasting for team in self.teams)
        # What a step adds to the work of those that wait to be compiled.
        self.waiting: Counter[_Work] = Counter()
        for leaf, choice in zip(leaves, self.choices, strict=True):
            if choice.reason is LATER:
                self.waiting[_work(program, leaf)] += CALLS + math.prod(leaf.p.shape)

    def suits(self, xs: Sequence[Array]) -> bool:
        """Whether with these gradients the leaves would be divided in the same way."""
        return choices(self.engine, self.program, self.leaves, xs) == self.choices

    def quick(self, xs: Sequence[Array]) -> list[Any] | None:
        """What `gather` gives, if the leaves and gradients are without doubt as they should be; else None."""
        if self.waiting and self._due():
            return None
        gathered = []
        for team in self.teams:
            found = team.plan.quick(_some(xs, team.of))
            if found is None:
                return None
            gathered.append(found)
        return gathered

    def take(self, xs: Sequence[Array], row: Row) -> bool:
        """Take a step of one row, if there is one team and no doubt about its leaves and gradients; else do nothing."""
        if self.waiting and self._due():
            return False
        if not self.teams[0].plan.take(xs, row):
            return False
        self._count()
        return True

    def _due(self) -> bool:
        """Whether it is time for another choice of engines."""
        return any(work.elements >= WORTHWHILE for work in self.waiting)

    def _count(self) -> None:
        for work, more in self.waiting.items():
            work.elements += more

    def gather(self, xs: Sequence[Array]) -> list[Any]:
        """The gradients as each engine takes them."""
        return [team.plan.gather(_some(xs, team.of)) for team in self.teams]

    def norm(self, k: int, gathered: Sequence[Any], rows: Rows) -> Any:
        """The 2-norm of what part `k` of the program measures."""
        sums: dict[int, Any] = {}
        for team, found in zip(self.teams, gathered, strict=True):
            sums.update(zip(team.of, team.plan.squares(k, found, rows.some(team.of)), strict=True))
        vectors = [sums[i] for i in range(len(self.leaves))]
        on_host = all(isinstance(v, np.ndarray) for v in vectors)
        return norm(np if on_host else self.leaves[0].library.xp, vectors)

    def prepare(self, gathered: Sequence[Any], rows: Rows) -> Commit:
        """All of the step that may fail; the commit gives all results in the order of the leaves."""
        if len(self.teams) == 1 and not self.waiting:
            return self.teams[0].plan.prepare(gathered[0], rows)
        commits = [
            team.plan.prepare(found, rows.some(team.of)) for team, found in zip(self.teams, gathered, strict=True)
        ]

        def commit() -> Sequence[Result]:
            results: dict[int, Result] = {}
            for team, each in zip(self.teams, commits, strict=True):
                results.update(zip(team.of, each(), strict=True))
            self._count()
            return [results[i] for i in range(len(self.leaves))]

        return commit


def _some(xs: Sequence[Array], of: Sequence[int]) -> Sequence[Array]:
    return xs if len(of) == len(xs) else [xs[i] for i in of]
