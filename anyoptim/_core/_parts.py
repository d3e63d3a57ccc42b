"""Steps of parts of parameters: of some rows, which have step counts of their own, or of a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from anyoptim._arrays import Array
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._parts import Key, PartTree, TakenPart, alike, as_key, by_leaf, number_of_rows
from anyoptim._core._coefficients import StepCoefficients
from anyoptim._core._pipeline import Params, Pipeline
from anyoptim._core._state import FlatState
from anyoptim._engines import ENGINES, Dispatch, Leaf, Plans, Result
from anyoptim._engines._base import Written

if TYPE_CHECKING:
    from anyoptim._core._plan import StepLeaves

__all__ = ["PartialStep", "Parts"]


class Parts:
    """Which part of which parameter an update is of: all of it checked."""

    def __init__(self, pipeline: Pipeline, params: Params, flat: FlatState, at: Any, optimizer: str) -> None:
        """Look at what a user says; errors show the optimizer by this text.

        Raises ValueError or TypeError with the key for what is no part of a parameter, and for stages that look at
        arrays as a whole. A parameter whose rows have counts of their own is all of its rows, where `at` says nothing.
        """
        self.pipeline, self.params, self.flat = pipeline, params, flat
        tree, ps, owner, groups = params
        self.keys: dict[int, Key] = {}
        """The part of each parameter, by the first place of its array."""
        for i, value in by_leaf(tree, at).items():
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

    def _check_stages(self, i: int, optimizer: str) -> None:
        tree, ps, _, groups = self.params
        stages, p = self.pipeline.stages, ps[i]
        assert p is not None  # noqa: S101 - of `keys`
        shape = tuple(p.array.shape)
        for stage in [stages[k] for k in groups.branch(i).stages]:
            each = [of for of in (*stage.reductions.values(), *stage.metrics.values()) if of.over == "each"]
            if stage.array_rule or each or {*stage.slot_shapes(shape)} - {shape}:
                of = "" if optimizer in {"", repr(stage)} else f" of {optimizer}"
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
        self,
        engine: str | None,
        xs: Sequence[Array | None],
        whole: Callable[[Sequence[Array | None]], StepLeaves],
        plans: Plans,
        *,
        write: bool,
    ) -> PartialStep:
        """The leaves of a step.

        Args:
            engine: the engine by its name.
            xs: the gradients that `gradients` gave.
            whole: gives the leaves of the parameters that move as a whole, if there are any, by their gradients.
            plans: plans of engines for parts.
            write: whether parameters and slots are written to where they lie; otherwise the results are new arrays.
        """
        others = [None if i in self.keys else x for i, x in enumerate(xs)]
        beside = whole(others) if any(x is not None for x in others) else None
        return PartialStep(engine, self, xs, beside, plans, write=write)


class PartialStep:
    """The leaves of a step that are parts of parameters, beside others that are whole.

    The rows of one part that have taken different numbers of steps are several leaves: rows stand in the order of these
    numbers, so that each leaf is a stretch of the same arrays.
    """

    def __init__(
        self,
        engine: str | None,
        parts: Parts,
        xs: Sequence[Array | None],
        whole: StepLeaves | None,
        plans: Plans,
        *,
        write: bool,
    ) -> None:
        """Take the parts that have a gradient, and choose their engines."""
        flat, groups = parts.flat, parts.params.groups
        moving = [] if whole is None else whole.moving
        self._flat, self._whole = flat, moving
        # Written where they lie, parts might be gradients of what is updated whole, and be read too late.
        options = {"write": write, "views": write and whole is None}
        self._taken = [_Rows(parts, i, x, **options) for i, x in enumerate(xs) if x is not None and i in parts.keys]
        leaves = [leaf for taken in self._taken for leaf in taken.leaves]
        self.moving = [*moving, *(taken.i for taken in self._taken for _ in taken.leaves)]
        """The parameter of each leaf."""
        self.xs = [*(xs[i] for i in moving), *(x for taken in self._taken for x in taken.xs)]
        programs = [groups.branch(i).program for i in self.moving[len(moving) :]]
        own = Dispatch(engine, programs, leaves, self.xs[len(moving) :], plans)
        self.dispatch = own if whole is None else _joined(whole.dispatch, own)
        if self.dispatch.capturing():
            raise RuntimeError("a part of a parameter can't be updated in a CUDA graph; wanted update without at")
        counts = [*(flat.t[i] for i in moving), *(n for taken in self._taken for n in taken.counts)]
        self._of_leaves = flat._replace(t=counts), groups.of(self.moving)

    @property
    def whole(self) -> bool:
        """Whether any parameter moves as a whole."""
        return bool(self._whole)

    def coefficients(self, pipeline: Pipeline, gathered: Sequence[Any], **options: Any) -> StepCoefficients:
        """Everything that the step needs to know; the counts are those of the leaves."""
        flat, groups = self._of_leaves
        found = pipeline.step_coefficients(self.dispatch, gathered, flat, range(len(self.moving)), groups, **options)
        refusal, metrics = found.refusal, found.metrics.items()
        return found._replace(
            refusal=None if refusal is None else (refusal[0], self.moving[refusal[1]]),
            metrics={k: ([self.moving[j] for j in seen], values) for k, (seen, values) in metrics},
        )

    def put(self, results: Sequence[Result], counts: Sequence[Any]) -> tuple[dict[int, Result], list[Any]]:
        """Put the results of the leaves where they belong: for each parameter its result and its count.

        Called again after an exception came in its middle, it does no harm.
        """
        n, t = len(self._whole), list(self._flat.t)
        found = dict(zip(self._whole, results, strict=False))
        for i, count in zip(self._whole, counts, strict=False):
            t[i] = count
        for taken in self._taken:
            found[taken.i], t[taken.i] = taken.put(results[n : n + len(taken.leaves)])
            n += len(taken.leaves)
        return found, t


class _Rows:
    """A part of one parameter and of its slots, taken out to be updated: a leaf for the rows of each count."""

    def __init__(self, parts: Parts, i: int, x: Array, *, write: bool, views: bool) -> None:
        p = parts.params.ps[i]
        assert p is not None  # noqa: S101 - it has a gradient
        self.i, t, key = i, parts.flat.t[i], parts.keys[i]
        counts = _counts(t, key)
        begins, self.counts = [0], [int(counts.min())]
        if counts.min() < counts.max():
            distinct, kind = np.unique(counts, return_inverse=True)
            kind = np.array(_alike(parts, i, distinct.tolist()))[kind]
            order = np.argsort(kind, kind="stable")
            key, counts, kind = np.arange(len(t))[key][order], counts[order], kind[order]
            begins = [0, *(np.flatnonzero(np.diff(kind)) + 1).tolist()]
            self.counts = distinct[kind[begins]].tolist()
            x = p.library.part(x, order)
        self._key, self._new, n = key, counts + 1, p.array.shape[0]
        self._table = None
        """The array of counts in which those after the step are to be written; None where there will be one number."""
        if not isinstance(key, tuple) and (number_of_rows(key, n) < n or self._new.min() < self._new.max()):
            self._table = np.full(n, t, np.int64) if not isinstance(t, np.ndarray) else t if write else t.copy()
        self._taken = TakenPart(p, [p.array, *(parts.flat.slots[i] or ())], key, begins, write=write, views=views)
        self.xs = self._taken.cut(x)
        group = parts.params.groups.group_of[i]
        self.leaves = [
            Leaf(p.library, mine, tuple(slots), mine if p.library.writable(mine) else None, group)
            for mine, *slots in self._taken.pieces
        ]

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


def _alike(parts: Parts, i: int, counts: Sequence[int]) -> list[int]:
    """For each number of steps taken the place of the first with the same coefficients, such as all of SGD have."""
    pipeline, groups = parts.pipeline, parts.params.groups
    if not pipeline.static:
        return [*range(len(counts))]
    stages, overrides = pipeline.stages, groups.overrides[groups.group_of[i]]
    values = [(stages[k], stages[k]._values(parts.flat.step + 1, overrides[k])) for k in groups.branch(i).stages]
    first: dict[str, int] = {}
    rows = (repr([stage._coefficients(n + 1, of) for stage, of in values]) for n in counts)
    return [first.setdefault(row, r) for r, row in enumerate(rows)]


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
    for assignment in other.assignments:  # the first are plans that will be used again
        assignment.plan.avoid_aliasing(Written([a for w in each for a in w.host], [m for w in each for m in w.device]))
    return both
