"""Steps of parts of parameters: of some rows, which have step counts of their own, or of a window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial, reduce
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from anyoptim._arrays import Array
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._parts import Key, PartTree, TakenPart, alike, as_key, by_leaf, number_of_rows
from anyoptim._core._coefficients import StepCoefficients
from anyoptim._core._pipeline import Params, Pipeline
from anyoptim._engines import ENGINES, Dispatch, Leaf, Plans, Result, choices
from anyoptim._engines._base import Commit, Written
from anyoptim._engines.blocked._rows import RowsPlan
from anyoptim._stage._stage import Stage
from anyoptim._stage._state import FlatState
from anyoptim._trace._counts import RowCoefficients
from anyoptim._trace._graph import graph_of
from anyoptim._trace._program import Program

if TYPE_CHECKING:
    from anyoptim._core._plan import StepLeaves

    WholeLeaves = Callable[[Sequence[Array | None]], StepLeaves]

__all__ = ["KeptParts", "PartialStep", "Parts"]


class Parts:
    """Which part of which parameter an update is of: all of it checked."""

    def __init__(
        self,
        pipeline: Pipeline,
        params: Params,
        flat: FlatState,
        at: Any,
        optimizer: Any,
        kept: KeptParts | None = None,
    ) -> None:
        """Look at what a user says; errors show the optimizer, and `kept` has what may be used again.

        Raises ValueError or TypeError with the key for what is no part of a parameter, and for stages that look at
        arrays as a whole. A parameter whose rows have counts of their own is all of its rows, where `at` says nothing.
        """
        self.pipeline, self.params, self.flat, self.kept = pipeline, params, flat, kept
        tree, ps, owner, groups = params
        self.keys: dict[int, Key] = {}
        """The part of each parameter, by the first place of its array."""
        for i, value in sorted(by_leaf(tree, at).items()):
            p, o, name = ps[i], owner[i], str(tree.name(i, "at"))
            if p is None:
                raise ValueError(f"{name} is given, but {tree.name(i)} is None")
            if o in self.keys:
                raise ValueError(f"{tree.name(o)} and {tree.name(i)} are one array; wanted at under one of the names")
            if (why := p.library.part_refusal(p.array)) is not None:
                raise TypeError(f"{tree.name(i)} {why}, of which no part can be updated; wanted it without {name}")
            self.keys[o] = as_key(name, value, str(tree.name(i)), tuple(p.array.shape))
        self._named = {*self.keys}
        for i, n in enumerate(flat.t):
            if isinstance(n, np.ndarray) and owner[i] == i:
                self.keys.setdefault(i, slice(0, len(n), 1))
        for i in self.keys.keys() - groups.resting:
            self._check_stages(i, optimizer)
            n = flat.t[i]
            if isinstance(self.keys[i], tuple) and isinstance(n, np.ndarray) and np.ptp(n):
                raise ValueError(
                    f"{tree.name(i, 'at')} is a window, which counts for all of {tree.name(i)}, whose rows have taken "
                    f"from {n.min()} to {n.max()} steps; wanted rows, or windows from the first update on"
                )

    def _check_stages(self, i: int, optimizer: Any) -> None:
        tree, ps, _, groups = self.params
        stages, p = self.pipeline.stages, ps[i]
        assert p is not None  # noqa: S101 - of `keys`
        shape = tuple(p.array.shape)
        for stage in [stages[k] for k in groups.branch(i).stages]:
            each = [of for of in (*stage.reductions.values(), *stage.metrics.values()) if of.over == "each"]
            if stage.array_rule or each or {*stage.slot_shapes(shape)} - {shape}:
                of = "" if optimizer is None or optimizer is stage else f" of {optimizer!r}"
                raise ValueError(
                    f"{tree.name(i, 'at')} is a part of {tree.name(i)}, at which {stage!r}{of} looks as a whole; "
                    "wanted the whole, or stages of which each element goes by itself"
                )
            if stage.is_step is not None:
                raise ValueError(
                    f"{tree.name(i, 'at')} is a part of {tree.name(i)}, but {stage!r} gathers gradients of the whole; "
                    "wanted the whole, or a chain without it"
                )

    def gradients(self, grads: Any) -> list[Array | None]:
        """The gradient of each parameter, or of its part, at its first place. Raises as for whole parameters."""
        tree, ps, owner, groups = self.params
        stand_ins = [
            p if p is None or o not in self.keys else p._replace(array=alike(p, self.keys[o]))
            for p, o in zip(ps, owner, strict=True)
        ]
        named = [i for i, o in enumerate(owner) if o in self._named]
        xs = groups.without_frozen(checks.gradients(PartTree(tree, named), stand_ins, owner, grads))
        # Where there is nothing in a part, nothing moves, and nothing counts.
        return [None if i in self.keys and x is not None and 0 in x.shape else x for i, x in enumerate(xs)]

    def step_leaves(
        self, engine: str | None, xs: Sequence[Array | None], whole: WholeLeaves, plans: Plans, *, write: bool
    ) -> PartialStep:
        """The leaves of a step, as `PartialStep` says."""
        return PartialStep(engine, self, xs, whole, plans, write=write)


class KeptParts:
    """What a step of parts leaves to the next one: parts of the same shapes are taken to the same arrays."""

    def __init__(self) -> None:
        self.dispatch: Dispatch | None = None
        self.arrays: Sequence[Array] = ()
        """The array of each leaf."""
        self.parts: Mapping[int, Sequence[Array]] = {}
        """For each parameter the arrays of its part and of those of its slots."""


class PartialStep:
    """The leaves of a step that are parts of parameters, beside others that are whole.

    Where the rows of a part have taken different numbers of steps, they have coefficients of their own: in one leaf, or
    in one for each number, where the engine or a reduction can't have it otherwise.
    """

    def __init__(
        self,
        engine: str | None,
        parts: Parts,
        xs: Sequence[Array | None],
        whole: WholeLeaves,
        plans: Plans,
        *,
        write: bool,
    ) -> None:
        """Take the parts that have a gradient, and choose their engines.

        Args:
            engine: the engine by its name.
            parts: the parts.
            xs: the gradients that `parts` gave.
            whole: gives the leaves of the parameters that move as a whole, if there are any, by their gradients.
            plans: plans of engines for parts.
            write: whether parameters and slots are written to where they lie; otherwise the results are new arrays.
        """
        self._engine, self._parts, self._xs, self._plans, self._write = engine, parts, xs, plans, write
        others = [None if i in parts.keys else x for i, x in enumerate(xs)]
        self._beside = whole(others) if any(x is not None for x in others) else None
        self._gathered: Sequence[Any] | None = None
        self._lay(in_one=True)

    def _lay(self, *, in_one: bool) -> None:
        """Take the parts; with `in_one`, rows of several counts as one leaf, where its engine can have it so."""
        parts, beside = self._parts, self._beside
        moving = [(i, x) for i, x in enumerate(self._xs) if x is not None and i in parts.keys]
        taken = [_Rows(parts, i, x, self._engine, write=self._write, in_one=in_one) for i, x in moving]
        self._taken = sorted(taken, key=lambda one: one.rows is not None)
        if beside is None and parts.kept is not None and self._again(parts.kept):
            return
        dispatches = [] if beside is None else [beside.dispatch]
        for some in ([one for one in taken if one.rows is None], [one for one in taken if one.rows is not None]):
            if some:
                leaves, xs = [leaf for one in some for leaf in one.leaves], [x for one in some for x in one.xs]
                programs = [one.program for one in some for _ in one.leaves]
                rows = [one.rows for one in some if one.rows is not None]
                by_rows: Plans = dict.fromkeys(RowsPlan.engines, partial(_rows_plan, leaves, rows)) if rows else {}
                dispatches.append(Dispatch(self._engine, programs, leaves, xs, {**self._plans, **by_rows}))
        self.dispatch = reduce(_joined, dispatches)
        if self.dispatch.capturing():
            raise RuntimeError("a part of a parameter can't be updated in a CUDA graph; wanted update without at")
        self.moving = [*(beside.moving if beside else ()), *(one.i for one in self._taken for _ in one.leaves)]
        """The parameter of each leaf."""

    def _again(self, kept: KeptParts) -> bool:
        """Take the engines of the last step, if the parts lie in its arrays, and the gradients are such as these."""
        leaves, xs = [leaf for one in self._taken for leaf in one.leaves], [x for one in self._taken for x in one.xs]
        alike = [*map(id, (leaf.p for leaf in leaves))] == [*map(id, kept.arrays)]
        others = any(one.rows is not None or one.program.reads for one in self._taken)  # which are these rows' own
        if kept.dispatch is None or others or not alike:
            return False
        self._gathered = kept.dispatch.regather(xs)
        if self._gathered is None:
            return False
        kept.dispatch.waiting.count()
        self.dispatch, self.moving = kept.dispatch, [one.i for one in self._taken]
        return True

    @property
    def whole(self) -> bool:
        """Whether any parameter moves as a whole."""
        return self._beside is not None

    def coefficients(self, pipeline: Pipeline, **options: Any) -> tuple[StepCoefficients, Callable[[], Commit]]:
        """Everything that the step needs to know, with the counts of leaves; and what prepares it then."""
        beside, n = self._beside, len(self.moving)
        flat, groups = self._parts.flat, self._parts.params.groups
        # Behind the leaves stands once more each whose rows have several counts, with a symbol for these.
        more = [(one, one.rows) for one in self._taken if one.rows is not None]
        counts = [*(flat.t[i] for i in (beside.moving if beside else ())), *(c for o in self._taken for c in o.counts)]
        of_leaves = flat._replace(t=[*counts, *(rows.count for _, rows in more)])
        places = [*self.moving, *(one.i for one, _ in more)]
        gathered, self._gathered = self._gathered, None
        if gathered is None:
            gathered = self.dispatch.gather([*(beside.xs if beside else ()), *(x for o in self._taken for x in o.xs)])
        every = range(len(places))
        try:
            found = pipeline.step_coefficients(self.dispatch, gathered, of_leaves, every, groups.of(places), **options)
            for (_, rows), r in zip(more, found.rows.row_of_leaf[n:], strict=True):
                rows.row = found.rows.distinct[r]
        except (AttributeError, TypeError):  # of coefficients that look at the count itself, perhaps
            if not more:
                raise
        if not all(rows.suit(one.program) and not one.joint(rows) for one, rows in more):
            self._lay(in_one=False)
            return self.coefficients(pipeline, **options)
        refusal, metrics = found.refusal, found.metrics.items()
        found = found._replace(
            rows=found.rows.select(range(n)),
            refusal=None if refusal is None else (refusal[0], places[refusal[1]]),
            metrics={k: ([places[j] for j in seen], values) for k, (seen, values) in metrics},
        )
        return found, partial(self.dispatch.prepare, gathered, found.rows)

    def put(self, results: Sequence[Result], counts: Sequence[Any]) -> tuple[dict[int, Result], list[Any]]:
        """Put the results of the leaves where they belong: for each parameter its result and its count.

        Called again after an exception came in its middle, it does no harm.
        """
        whole, t = [] if self._beside is None else self._beside.moving, list(self._parts.flat.t)
        found = dict(zip(whole, results, strict=False))
        for i, count in zip(whole, counts, strict=False):
            t[i] = count
        n = len(whole)
        for one in self._taken:
            found[one.i], t[one.i] = one.put(results[n : n + len(one.leaves)])
            n += len(one.leaves)
        if self._parts.kept is not None:
            self._keep(self._parts.kept)
        return found, t

    def _keep(self, kept: KeptParts) -> None:
        """Keep arrays and engines for a step of parts of the same shapes, where these have written to those alone."""
        apart = {one.i: one for one in self._taken if len(one.leaves) == 1 and one.apart}
        alone = not self.whole and self.dispatch.in_place and len(apart) == len(self._taken)
        dispatch = self.dispatch if alone and all(one.rows is None for one in self._taken) else None
        arrays, parts = [one.leaves[0].p for one in self._taken], {i: one.arrays for i, one in apart.items()}
        vars(kept).update(dispatch=dispatch, arrays=arrays, parts=parts)


class _Rows:
    """A part of one parameter and of its slots, taken out to be updated: as one leaf, or as one for each count."""

    def __init__(self, parts: Parts, i: int, x: Array, engine: str | None, *, write: bool, in_one: bool) -> None:
        params, t, key = parts.params, parts.flat.t[i], parts.keys[i]
        p, branch, group = params.ps[i], params.groups.branch(i), params.groups.group_of[i]
        assert p is not None  # noqa: S101 - it has a gradient
        self.i, self.program, self.rows = i, branch.program, None
        counts = _counts(t, key)
        self.distinct = [int(counts.min())]
        # Where coefficients are the hyperparameters, the count decides nothing.
        ways = [type(parts.pipeline.stages[k]).coefficients for k in branch.stages]
        counted = any(way is not Stage.coefficients for way in ways)
        # A user's are promised an integer, and may ask for one; and columns of numbers are beside no other arrays.
        own = all(getattr(way, "__module__", "").startswith("anyoptim.") for way in ways)
        by_columns = in_one and own and not self.program.reads
        if counted and counts.min() < counts.max():
            distinct, kind = np.unique(counts, return_inverse=True)
            self.distinct = distinct.tolist()
        arrays = [p.array, *(parts.flat.slots[i] or ())]

        into = () if parts.kept is None or not in_one else parts.kept.parts.get(i, ())
        if isinstance(key, slice) or not into or into[0].shape != x.shape:
            into = ()

        def take(begins: Sequence[int]) -> TakenPart:
            return TakenPart(p, arrays, key, begins, write=write, into=into)

        def leaves(taken: TakenPart, key: Key) -> list[Leaf]:
            beside = [taken.cut(p.library.part(a, key)) for a in params.groups.reads[i]]
            of_pieces = zip(taken.pieces, zip(*beside, strict=True) if beside else repeat(()), strict=False)
            return [
                Leaf(p.library, mine, tuple(slots), mine if p.library.writable(mine) else None, group, reads)
                for (mine, *slots), reads in of_pieces
            ]

        taken = take([0])
        self.counts, self.xs, self.leaves = self.distinct[:1], [x], leaves(taken, key)
        if len(self.distinct) > 1:
            choice = choices(engine, [self.program], self.leaves, self.xs)[0].engine if by_columns else ""
            if RowsPlan.takes(choice, x):
                self.rows = RowCoefficients(self.distinct, kind)
            else:
                order = np.argsort(kind, kind="stable")
                key, counts, x = np.arange(len(t))[key][order], counts[order], p.library.part(x, order)
                into = ()
                taken = take([0, *np.cumsum(np.bincount(kind))[:-1].tolist()])
                self.counts, self.xs, self.leaves = self.distinct, taken.cut(x), leaves(taken, key)
        self._taken, self._key, self._new, n = taken, key, counts + 1, p.array.shape[0]
        self._table = None
        """The array of counts in which those after the step are to be written; None where there will be one number."""
        if not isinstance(key, tuple) and (number_of_rows(key, n) < n or self._new.min() < self._new.max()):
            self._table = t if isinstance(t, np.ndarray) else np.full(n, t, np.int64)  # that of `unpack` is a copy

    @property
    def arrays(self) -> Sequence[Array]:
        """The arrays that it was taken to."""
        return self._taken.pieces[0]

    @property
    def apart(self) -> bool:
        """Whether these are arrays of its own, and what it has become is in them."""
        return self._taken.apart

    def joint(self, rows: RowCoefficients) -> bool:
        """Whether the rule takes complex elements as a whole, for which there are no calls with columns."""
        complex_elements = self.leaves[0].of_complex
        return complex_elements and graph_of(self.program, None, rows.static, of_complex=True).joint

    def put(self, results: Sequence[Result]) -> tuple[Result, Any]:
        """Put the results of the leaves into the parameter, the slots and the counts: what these are then."""
        both = zip(self.leaves, results, strict=True)
        p, *slots = self._taken.put([[r.p if leaf.destination is None else leaf.p, *r.slots] for leaf, r in both])
        if self._table is None:
            return Result(p, tuple(slots)), int(self._new.min())
        self._table[self._key] = self._new
        return Result(p, tuple(slots)), self._table


def _counts(t: Any, key: Key) -> np.ndarray[Any, Any]:
    """The counts of the rows of a part; an array of no dimension where they are one number."""
    if not isinstance(t, np.ndarray):
        return np.asarray(int(t), np.int64)
    return np.asarray(t.min() if isinstance(key, tuple) else t[key])


def _rows_plan(
    leaves: Sequence[Leaf], rows: Sequence[RowCoefficients], program: Program, some: Sequence[Leaf]
) -> RowsPlan:
    """The plan for some of these leaves, each of which has such coefficients."""
    of = {id(leaf.p): one for leaf, one in zip(leaves, rows, strict=True)}
    return RowsPlan(program, some, [of[id(leaf.p)] for leaf in some])


def _joined(one: Dispatch, other: Dispatch) -> Dispatch:
    """The leaves of two, one after the other."""
    both, n = copy(one), len(one.leaves)
    both.leaves, both.choices = [*one.leaves, *other.leaves], [*one.choices, *other.choices]
    both.programs, both.devices = [*one.programs, *other.programs], one.devices | other.devices
    moved = [a._replace(indices=[n + i for i in a.indices]) for a in other.assignments]
    order = {name: engine.commit_order for name, engine in ENGINES.items()}
    both.assignments = sorted(
        [*one.assignments, *moved], key=lambda assignment: order[both.choices[assignment.indices[0]].engine]
    )
    both.in_place = both.rebindable = False
    both.waiting = type(one.waiting)()
    both.waiting.update(one.waiting)
    both.waiting.update(other.waiting)
    each = [assignment.plan.written for assignment in both.assignments]
    for assignment in other.assignments:  # the first, which may be plans of whole parameters, have read theirs by then
        assignment.plan.avoid_aliasing(Written([a for w in each for a in w.host], [m for w in each for m in w.device]))
    return both
