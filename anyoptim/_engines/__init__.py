"""Engines: machines that run a program over leaves, and the choice among them.

An engine is given a program and leaves and knows nothing else: no container, no optimizer, no other engine. It
prepares a step, which may fail, and gives back the commit, which writes and may not: so that a step over
several engines is taken whole or not at all.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import COMPUTE, Array
from anyoptim._engines import _portable as portable
from anyoptim._engines._base import CoefficientTable, Commit, Leaf, Plan, Result, Written, norm_of
from anyoptim._engines._portable import Lazy, start
from anyoptim._engines.blocked import _engine as blocked
from anyoptim._engines.compiled import _engine as compiled
from anyoptim._trace._program import Coefficients, Program, static_options
from anyoptim._trace._reduction import total

__all__ = [
    "ENGINES",
    "LAZY",
    "Choice",
    "CoefficientTable",
    "Commit",
    "Dispatch",
    "Leaf",
    "Result",
    "choices",
    "known",
    "ready",
    "source",
    "start",
]


def _later(name: str) -> Any:
    """The module of an engine that is imported when its arrays arrive, or somebody asks for it."""
    return import_module({"cuda": "anyoptim._engines.cuda._engine", "jax": "anyoptim._engines._jax"}[name])


ENGINES: Mapping[str, Callable[..., Plan]] = {
    "cuda": lambda *given: _later("cuda").Cuda(*given),
    "compiled": compiled.Compiled,
    "blocked": blocked.Blocked,
    "jax": lambda *given: _later("jax").Jax(*given),
    "portable": portable.Portable,
}
"""From the fastest to the one that takes all."""

LAZY: Mapping[str, Callable[..., Plan]] = {**ENGINES, "jax": Lazy, "portable": Lazy}
"""The same, where what is lazy shall stay so, and no array of the state is used up."""


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

    And ImportError for one whose packages are missing.
    """
    if name is not None and not (isinstance(name, str) and name in ENGINES):
        raise ValueError(f"engine is {name!r}; wanted one of {', '.join(map(repr, ENGINES))}, or None")
    if name == "compiled" and (compiled.missing() or compiled.broken()):
        raise ImportError(f"engine is 'compiled', but {compiled.missing() or compiled.broken()}")
    if name in {"cuda", "jax"} and (why := _later(name).missing()):
        raise ImportError(f"engine is {name!r}, but {why}")


def ready(program: Program, row: Coefficients, dtype: str, number: int | None) -> None:
    """Compile for arrays of one dtype what can be compiled, and use it from now on.

    `number` is that of a CUDA device; None stands for this machine's memory. Raises ImportError where packages are
    missing.
    """
    known("compiled" if number is None else "cuda")
    if number is not None:
        _later("cuda").ready(program, row, dtype, number)
    elif COMPUTE[dtype] == dtype:
        for k in (*program.measures, None):
            compiled.load(program, k, static_options(row[:k]), _real(dtype))
        _worked[program, _real(dtype)].elements = WORTHWHILE


def source(engine: str, programs: Sequence[tuple[Program, Coefficients, Sequence[int]]], dtype: str) -> str:
    """The text of what an engine runs: for each program, with its row, a pass for each measure, then the step."""
    passes = [(program, k, row[:k]) for program, row, measures in programs for k in (*measures, None)]
    if engine == "cuda":
        from anyoptim._engines.cuda._programs import source_of  # noqa: PLC0415 - as `_later` does

        return source_of(passes, dtype)
    if engine == "compiled":
        texts = [compiled.source(program, k, row, dtype) for program, k, row in passes]
    else:
        texts = [blocked.source(program, k, row) for program, k, row in passes]
    return "\n\n".join(dict.fromkeys(texts))


class Choice(NamedTuple):
    """Which engine runs a leaf, and why not a faster one."""

    engine: str
    reason: str | None


def choices(name: str | None, programs: Sequence[Program], leaves: Sequence[Leaf], xs: Sequence[Array]) -> list[Choice]:
    """For each leaf, with its program, the engine of this name, or the fastest, and why not a faster one."""
    return [_choose(name, program, leaf, x) for program, leaf, x in zip(programs, leaves, xs, strict=True)]


def _choose(name: str | None, program: Program, leaf: Leaf, x: Array) -> Choice:
    """The engine of this name, or the fastest; where it can't take the leaf, the fastest after it that can."""
    asked = None if name is None else f"engine={name!r}"
    if program.array_rule is not None:
        return Choice("portable", f"{program.array_rule} works on whole arrays")
    if leaf.library.cuda(leaf.p) is not None:
        cuda = _later("cuda")
        why = (asked if name != "cuda" else None) or cuda.missing() or cuda.refusal(program, leaf, x) or cuda.broken()
        return Choice("cuda" if why is None else "portable", why)
    if leaf.library.compiled_by_xla:
        why = asked if name == "portable" else _later("jax").refusal(leaf, x)
        return Choice("jax" if why is None else "portable", why)
    why = asked if name in {"jax", "portable"} else blocked.refusal(leaf, x)
    name = None if name == "cuda" else name
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


class Dispatch:
    """The leaves of a step, divided among engines."""

    def __init__(
        self,
        engine: str | None,
        programs: Sequence[Program],
        leaves: Sequence[Leaf],
        xs: Sequence[Array],
        engines: Mapping[str, Callable[..., Plan]] = ENGINES,
    ) -> None:
        self.engine, self.programs, self.leaves = engine, programs, leaves
        self.choices = choices(engine, programs, leaves, xs)
        numbers = [(leaf.library, leaf.library.cuda(leaf.p)) for leaf in leaves]
        self.devices = {(library, number) for library, number in numbers if number is not None}
        """The CUDA devices on which leaves lie, by what they are numbered by."""
        divided: dict[Any, list[int]] = {}
        for i, (leaf, choice) in enumerate(zip(leaves, self.choices, strict=True)):
            # Those that compile take one dtype at a time, and of one device.
            dtype = leaf.library.dtype(leaf.p) if choice.engine in {"cuda", "compiled"} else ""
            place = numbers[i][1] if choice.engine == "cuda" else None
            if choice.engine == "jax":
                # One that is not bound to a place goes to that of its gradient.
                place = leaf.library.device_group(leaf.p) or leaf.library.device_group(xs[i])
                dtype = _real(COMPUTE[leaf.library.dtype(leaf.p)])
            divided.setdefault((choice.engine, leaf.library, dtype, place, id(programs[i])), []).append(i)
        # The portable engine last: it has read all it needs when it has prepared, but a gradient of another may
        # lie in the memory of a parameter that the portable one will write to. JAX first: it compiles when it runs.
        order = sorted(divided.items(), key=lambda item: (item[0][0] == "portable", item[0][0] != "jax"))
        self.teams = [_Team(engines[name](programs[of[0]], [leaves[i] for i in of]), of) for (name, *_), of in order]
        each = [team.plan.written for team in self.teams]
        written = Written([a for w in each for a in w.here], [m for w in each for m in w.there])
        for team in self.teams:
            team.plan.avoid_aliasing(written)
        # Those of whose parameters each process has but a part: its sums are a part of theirs.
        self.distributed = list(dict.fromkeys(leaf.library for leaf in leaves if leaf.library.distributed))
        self.lasting = all(team.plan.lasting for team in self.teams)
        self.renewable = all(team.plan.lasting or team.plan.renewable for team in self.teams)
        # What a step adds to the work of those that wait to be compiled.
        self.waiting: Counter[_Work] = Counter()
        for program, leaf, choice in zip(programs, leaves, self.choices, strict=True):
            if choice.reason is LATER:
                self.waiting[_work(program, leaf)] += CALLS + math.prod(leaf.p.shape)

    def renew(self, leaves: Sequence[Leaf]) -> None:
        """Go on with the arrays that leaves are now, those that last being what they were."""
        self.leaves = leaves
        for team in self.teams:
            if not team.plan.lasting:
                team.plan.renew(_some(leaves, team.of))

    def refresh(self) -> None:
        """Take notice of the arrays that a step left: those before it would be kept alive."""
        if len(self.teams) == 1:
            self.leaves = self.teams[0].plan.leaves
        else:
            found = {i: leaf for team in self.teams for i, leaf in zip(team.of, team.plan.leaves, strict=True)}
            self.leaves = [found[i] for i in range(len(found))]

    @property
    def sizes(self) -> list[int]:
        """How many elements each leaf has; a complex one counts as two."""
        both = [2 if leaf.library.dtype(leaf.p).startswith("complex") else 1 for leaf in self.leaves]
        return [math.prod(leaf.p.shape) * n for leaf, n in zip(self.leaves, both, strict=True)]

    @property
    def afar(self) -> bool:
        """Whether norms are computed on one device, and may stay there."""
        return len(self.teams) == 1 and bool(self.devices) and self.choices[0].engine == "cuda" and not self.distributed

    def capturing(self) -> bool:
        """Whether what the leaves' libraries do now is recorded in a CUDA graph."""
        return any(library.capturing(number) for library, number in self.devices)

    def suits(self, xs: Sequence[Array]) -> bool:
        """Whether with these gradients the leaves would be divided in the same way."""
        return choices(self.engine, self.programs, self.leaves, xs) == self.choices

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

    def replay(self, xs: Sequence[Array], row: Coefficients) -> bool:
        """Take a step of one row, if there is one team and no doubt about its leaves and gradients; else do nothing."""
        if self.waiting and self._due():
            return False
        if not self.teams[0].plan.replay(xs, row):
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

    def norm(self, places: Mapping[int, int], gathered: Sequence[Any], rows: CoefficientTable) -> Any:
        """The 2-norm of what a part measures: of which one, in the program of this id; where all are one team's."""
        plan = self.teams[0].plan
        k = places[id(plan.program)]
        return plan.norm(k, gathered[0], rows.before(k))

    def known(self, places: Mapping[int, int]) -> float:
        """That norm as a float, where it is a symbol."""
        plan = self.teams[0].plan
        return plan.known(places[id(plan.program)])

    def squares(self, places: Mapping[int, int], gathered: Sequence[Any], rows: CoefficientTable) -> dict[int, Any]:
        """The block sums of the leaves whose programs have that part: of all of each leaf, wherever its parts are."""
        sums: dict[int, Any] = {}
        for team, found in zip(self.teams, gathered, strict=True):
            k = places.get(id(team.plan.program))
            if k is not None:
                own = rows.some(team.of).before(k)
                sums.update(zip(team.of, team.plan.squares(k, found, own), strict=True))
        for library in self.distributed:
            of = [i for i in sorted(sums) if self.leaves[i].library is library]
            found = library.sum_over_processes([float(total(np, sums[i])) for i in of], [self.leaves[i].p for i in of])
            sums.update({i: np.array([number]) for i, number in zip(of, found, strict=True)})
        return sums

    def norm_of(self, sums: Mapping[int, Any]) -> Any:
        """The 2-norm of leaves, from their block sums."""
        of = sorted(sums)
        return norm_of([sums[i] for i in of], [self.leaves[i] for i in of])

    def prepare(self, gathered: Sequence[Any], rows: CoefficientTable) -> Commit:
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
