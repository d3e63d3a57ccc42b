"""The leaves of a step, divided among engines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import Array
from anyoptim._engines._base import Commit, Leaf, Plan, Result, Written, norm_of
from anyoptim._engines._choice import ENGINES, PLANS, Plans, choices
from anyoptim._engines._warmup import LATER, Waiting
from anyoptim._trace._coefficients import CoefficientTable
from anyoptim._trace._program import Coefficients, Program
from anyoptim._trace._reduction import total

__all__ = ["Dispatch"]


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
        plans: Plans = PLANS,
    ) -> None:
        self.engine, self.programs, self.leaves = engine, programs, leaves
        self.choices = choices(engine, programs, leaves, xs)
        numbers = ((leaf.library, leaf.library.cuda(leaf.p)) for leaf in leaves)
        self.devices = {(library, number) for library, number in numbers if number is not None}
        """The CUDA devices on which leaves lie, by what they are numbered by."""
        groups: dict[Any, list[int]] = {}
        for i, (leaf, choice) in enumerate(zip(leaves, self.choices, strict=True)):
            key = choice.engine, leaf.library, ENGINES[choice.engine].group(leaf, xs[i]), id(programs[i])
            groups.setdefault(key, []).append(i)
        order = sorted(groups.items(), key=lambda item: ENGINES[item[0][0]].commit_order)
        self.teams = [_Team(plans[name](programs[of[0]], [leaves[i] for i in of]), of) for (name, *_), of in order]
        each = [team.plan.written for team in self.teams]
        written = Written([a for w in each for a in w.here], [m for w in each for m in w.there])
        for team in self.teams:
            team.plan.avoid_aliasing(written)
        # Those of whose parameters each process has but a part: its sums are a part of theirs.
        self.distributed = list(dict.fromkeys(leaf.library for leaf in leaves if leaf.library.distributed))
        self.lasting = all(team.plan.lasting for team in self.teams)
        self.renewable = all(team.plan.lasting or team.plan.renewable for team in self.teams)
        self.waiting = Waiting()
        for program, leaf, choice in zip(programs, leaves, self.choices, strict=True):
            if choice.reason is LATER:
                self.waiting.add(program, leaf)

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
        return len(self.teams) == 1 and self.teams[0].plan.symbolic and not self.distributed

    def capturing(self) -> bool:
        """Whether what the leaves' libraries do now is recorded in a CUDA graph."""
        return any(library.capturing(number) for library, number in self.devices)

    def suits(self, xs: Sequence[Array]) -> bool:
        """Whether with these gradients the leaves would be divided in the same way."""
        return choices(self.engine, self.programs, self.leaves, xs) == self.choices

    def quick(self, xs: Sequence[Array]) -> list[Any] | None:
        """What `gather` gives, if the leaves and gradients are without doubt as they should be; else None."""
        if self.waiting and self.waiting.due():
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
        if self.waiting and self.waiting.due():
            return False
        if not self.teams[0].plan.replay(xs, row):
            return False
        if self.waiting:
            self.waiting.count()
        return True

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
            found = library.total([float(total(np, sums[i])) for i in of], [self.leaves[i].p for i in of])
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
            self.waiting.count()
            return [results[i] for i in range(len(self.leaves))]

        return commit


def _some(xs: Sequence[Array], of: Sequence[int]) -> Sequence[Array]:
    return xs if len(of) == len(xs) else [xs[i] for i in of]
