"""The leaves of a step, divided among engines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import Array
from anyoptim._arrays._quiet import quiet
from anyoptim._engines._base import Commit, Leaf, Plan, Replayed, Result, Written, value_of
from anyoptim._engines._choice import ENGINES, Plans, choices
from anyoptim._machine._warmup import COMPILING, LATER, REDUCTION, Waiting
from anyoptim._trace._coefficients import CoefficientTable, all_known
from anyoptim._trace._exact_sum import Kind, aligned, as_integer, largest, merged, of_integer
from anyoptim._trace._program import Program
from anyoptim._trace._reductions import Reduction

__all__ = ["Dispatch"]


class Assignment(NamedTuple):
    """Leaves that one plan of an engine takes."""

    plan: Plan
    indices: list[int]
    """The numbers of the leaves in the step."""


class Dispatch:
    """The leaves of a step, divided among engines."""

    def __init__(
        self,
        engine: str | None,
        programs: Sequence[Program],
        leaves: Sequence[Leaf],
        xs: Sequence[Array],
        plans: Plans | None = None,
    ) -> None:
        self.engine, self.programs, self.leaves = engine, programs, leaves
        self.choices = choices(engine, programs, leaves, xs)
        numbers = ((leaf.library, leaf.library.cuda(leaf.p)) for leaf in leaves)
        self.devices = {(library, number) for library, number in numbers if number is not None}
        """The CUDA devices on which leaves lie, each by the library that numbers it and its number."""
        groups: dict[Any, list[int]] = {}
        for i, (leaf, choice) in enumerate(zip(leaves, self.choices, strict=True)):
            key = choice.engine, leaf.library, ENGINES[choice.engine].group(leaf, xs[i]), id(programs[i])
            groups.setdefault(key, []).append(i)
        self.assignments = []
        for (name, *_), indices in sorted(groups.items(), key=lambda item: ENGINES[item[0][0]].commit_order):
            plan = (plans or {}).get(name, ENGINES[name].plan)
            self.assignments.append(Assignment(plan(programs[indices[0]], [leaves[i] for i in indices]), indices))
        each = [plan.written for plan, _ in self.assignments if plan.program.writes]
        written = Written([a for w in each for a in w.host], [m for w in each for m in w.device])
        for assignment in self.assignments:
            assignment.plan.avoid_aliasing(written)
        # A process that has parts of the parameters of a distributed library has parts of their sums.
        self.distributed = list(dict.fromkeys(leaf.library for leaf in leaves if leaf.library.distributed))
        self.in_place = all(plan.in_place for plan, _ in self.assignments)
        self.rebindable = all(plan.in_place or plan.rebindable for plan, _ in self.assignments)
        self.waiting = Waiting()
        for program, leaf, choice in zip(programs, leaves, self.choices, strict=True):
            if choice.reason in {LATER, COMPILING}:
                arrays = 2 + program.slots if program.writes else 0
                self.waiting.add(program, leaf.library.dtype(leaf.p), math.prod(leaf.p.shape), arrays)

    def rebind(self, leaves: Sequence[Leaf]) -> None:
        """Take other arrays as the leaves of the plans that do not write in place; the others' are the same."""
        self.leaves = leaves
        for plan, indices in self.assignments:
            if not plan.in_place:
                plan.rebind(_select(leaves, indices))

    def collect_leaves(self) -> None:
        """Take the leaves that the plans have after a step, and let go of the arrays before it."""
        if len(self.assignments) == 1:
            self.leaves = self.assignments[0].plan.leaves
        else:
            leaves = {i: leaf for plan, of in self.assignments for i, leaf in zip(of, plan.leaves, strict=True)}
            self.leaves = [leaves[i] for i in range(len(leaves))]

    @property
    def sizes(self) -> list[int]:
        """How many elements each leaf has; a complex one counts as two."""
        reals = [2 if leaf.library.dtype(leaf.p).startswith("complex") else 1 for leaf in self.leaves]
        return [math.prod(leaf.p.shape) * n for leaf, n in zip(self.leaves, reals, strict=True)]

    @property
    def symbolic_norms(self) -> bool:
        """Whether `value` gives symbols, because all leaves are one plan's and it leaves norms on its device."""
        return len(self.assignments) == 1 and self.assignments[0].plan.symbolic_norms and not self.distributed

    @property
    def on_host(self) -> bool:
        """Whether all leaves are one plan's, which gives reductions as numbers of the host."""
        return len(self.assignments) == 1 and not self.distributed and self.assignments[0].plan.on_host

    def capturing(self) -> bool:
        """Whether what the leaves' libraries do now is recorded in a CUDA graph."""
        return any(library.capturing(number) for library, number in self.devices)

    def suits(self, xs: Sequence[Array]) -> bool:
        """Whether with these gradients the leaves would be divided in the same way."""
        return choices(self.engine, self.programs, self.leaves, xs) == self.choices

    def regather(self, xs: Sequence[Array]) -> list[Any] | None:
        """What `gather` gives, if the leaves and gradients are without doubt such as they were; else None."""
        if self.waiting and self.waiting.due():
            return None
        if len(self.assignments) == 1:
            grads = self.assignments[0].plan.regather(xs)
            return None if grads is None else [grads]
        gathered = []
        for plan, indices in self.assignments:
            grads = plan.regather(_select(xs, indices))
            if grads is None:
                return None
            gathered.append(grads)
        return gathered

    def doubtful(self, xs: Sequence[Array]) -> list[bool]:
        """For each leaf whether it, or its gradient, is such that `regather` gives None."""
        each = [(indices, plan.doubtful(_select(xs, indices))) for plan, indices in self.assignments]
        doubts = {i: doubt for indices, of_plan in each for i, doubt in zip(indices, of_plan, strict=True)}
        return [doubts[i] for i in range(len(xs))]

    def replay(self, xs: Sequence[Array], rows: CoefficientTable) -> Replayed | None:
        """What takes a step again, with other coefficients for the same leaves; None where anything is in doubt."""
        if self.waiting and self.waiting.due():
            return None
        if len(self.assignments) == 1:
            commit = self.assignments[0].plan.replay(xs, rows)
            if self.waiting and commit is not None:
                self.count(rows)
            return commit
        gathered = self.regather(xs) if all_known(rows.distinct) else None
        if gathered is None:
            return None
        with quiet():
            return self.prepare(gathered, rows)

    def gather(self, xs: Sequence[Array]) -> list[Any]:
        """The gradients as each plan takes them."""
        return [plan.gather(_select(xs, indices)) for plan, indices in self.assignments]

    def symbol(self, places: Mapping[int, int], gathered: Sequence[Any], rows: CoefficientTable) -> Any:
        """The symbol of a `Norm` over all leaves, where norms are symbolic; or 0.0, if there is nothing to do.

        `places` has the number of its part by the id of its program.
        """
        plan = self.assignments[0].plan
        k = places[id(plan.program)]
        return plan.value(k, gathered[0], rows.before(k))

    def fetch_norm(self, places: Mapping[int, int]) -> float:
        """The value of the symbol that `symbol` gave. Waits for the device."""
        plan = self.assignments[0].plan
        return plan.fetch_norm(places[id(plan.program)])

    def reduced(
        self, kind: Kind, places: Mapping[int, int], gathered: Sequence[Any], rows: CoefficientTable
    ) -> dict[int, Any]:
        """The rows of the leaves whose programs have that part: of all of each leaf, wherever its parts are."""
        sums: dict[int, Any] = {}
        for (plan, indices), grads in zip(self.assignments, gathered, strict=True):
            k = places.get(id(plan.program))
            if k is not None:
                sums.update(zip(indices, plan.reduced(k, grads, rows.select(indices).before(k)), strict=True))
        self._over_processes(kind, sums)
        return sums

    def values(self, ks: Sequence[int], gathered: Sequence[Any], rows: CoefficientTable) -> list[Any]:
        """The values over all leaves, which have one program, of its parts `ks`: reductions that are taken together.

        NumPy does not warn.
        """
        if self.waiting:
            self.count(rows, REDUCTION * len(ks))
        if len(self.assignments) == 1 and not self.distributed:
            return self.assignments[0].plan.values(ks, gathered[0], rows)
        with quiet():
            reductions = [self.programs[0].reduction(k) for k in ks]
            each: list[dict[int, Any]] = [{} for _ in ks]
            for (plan, indices), grads in zip(self.assignments, gathered, strict=True):
                for sums, found in zip(each, plan.reduced_all(ks, grads, rows.select(indices)), strict=True):
                    sums.update(zip(indices, found, strict=True))
            for reduction, sums in zip(reductions, each, strict=True):
                self._over_processes(reduction.kind, sums)
            return list(map(self.value_of, reductions, each))

    def _over_processes(self, kind: Kind, sums: dict[int, Any]) -> None:
        """Put the rows of all processes in the place of those of this one, for leaves of which each has parts."""
        for library in self.distributed:
            indices = [i for i in sorted(sums) if self.leaves[i].library is library]
            ps = [self.leaves[i].p for i in indices]
            if kind == "largest":
                order = np.array([[as_integer(largest(np, [sums[i]]))] for i in indices])
                maxima = map(of_integer, library.over_processes("max", order, ps)[:, 0].tolist())
                sums.update(zip(indices, (np.array([[a]]) for a in maxima), strict=True))
                continue
            parts = np.concatenate([merged(sums[i]) for i in indices])
            codes = library.over_processes("max", parts[:, :1], ps)
            totals = library.over_processes("sum", aligned(np, parts, codes), ps)
            sums.update(zip(indices, np.concatenate([codes, totals], axis=1)[:, None], strict=True))

    def value_of(self, reduction: Reduction, rows: Mapping[int, Any]) -> Any:
        """The value of a reduction over leaves, from their rows."""
        indices = sorted(rows)
        return value_of(reduction, [rows[i] for i in indices], [self.leaves[i] for i in indices])

    def prepare(self, gathered: Sequence[Any], rows: CoefficientTable) -> Commit:
        """All of the step that may fail; the commit gives all results in the order of the leaves."""
        if self.waiting:
            self.count(rows)
        if len(self.assignments) == 1:
            return self.assignments[0].plan.prepare(gathered[0], rows)
        both = zip(self.assignments, gathered, strict=True)
        commits = [plan.prepare(grads, rows.select(indices)) for (plan, indices), grads in both]

        def commit() -> Sequence[Result]:
            results: dict[int, Result] = {}
            for assignment, each in zip(self.assignments, commits, strict=True):
                results.update(zip(assignment.indices, each(), strict=True))
            return [results[i] for i in range(len(self.leaves))]

        return commit

    def count(self, rows: CoefficientTable, times: int = 1) -> None:
        """Count the work of some steps that wait to be compiled, and begin to load or compile what pays by now."""
        for work in self.waiting.count(times):
            plans = (one for one in self.assignments if one.plan.program == work.program)
            distinct = [row for one in plans for row in rows.select(one.indices).distinct]
            compiled = ENGINES["compiled"]
            if work.worthwhile:
                work.done = compiled.begin(work.program, distinct, work.dtype)
            elif compiled.kept(work.program, distinct, work.dtype):
                work.done = _loaded
            work.sought = True


def _loaded() -> bool:
    """The answer of what was found in the cache folder to whether it is compiled."""
    return True


def _select(arrays: Sequence[Any], indices: Sequence[int]) -> Sequence[Any]:
    return arrays if len(indices) == len(arrays) else [arrays[i] for i in indices]
