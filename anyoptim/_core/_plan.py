"""The plan of a step: what is known of the parameters that `update` met last, which holds while they are the same."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

from anyoptim._arrays import Array
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._tree import Tree, dotted_paths, reader, writer
from anyoptim._core._coefficients import StepCoefficients
from anyoptim._core._pipeline import Params, Pipeline
from anyoptim._engines import CoefficientTable, Dispatch, Leaf, Plan, Replayed, Result
from anyoptim._engines._base import Commit
from anyoptim._engines._chunks import plans
from anyoptim._stage._agreement import Form
from anyoptim._stage._param_groups import ParamGroups
from anyoptim._stage._planned_rows import Kind, PlannedRows
from anyoptim._stage._stage import Stage
from anyoptim._stage._state import FlatState

__all__ = ["StepPlan"]

Slots = Sequence[tuple[Array, ...] | None]
"""For each parameter its slots."""


class StepLeaves(NamedTuple):
    """The leaves of a step, with their gradients and their engines."""

    dispatch: Dispatch
    moving: list[int]
    """The parameter of each leaf."""
    xs: list[Array | None]
    flat: FlatState
    """The state before the step."""
    groups: ParamGroups
    gathered: list[Any] | None = None
    """The gradients as the engines take them, where that is known."""

    @property
    def whole(self) -> bool:
        """Whether any parameter moves as a whole."""
        return bool(self.moving)

    def coefficients(self, pipeline: Pipeline, **options: Any) -> tuple[StepCoefficients, Callable[[], Commit]]:
        """Everything that the step needs to know, as `Pipeline.step_coefficients` says, and what prepares it then."""
        gathered = self.dispatch.gather(self.xs) if self.gathered is None else self.gathered
        found = pipeline.step_coefficients(self.dispatch, gathered, self.flat, self.moving, self.groups, **options)
        return found, partial(self.dispatch.prepare, gathered, found.rows)

    def put(self, results: Sequence[Result], t: list[Any]) -> tuple[dict[int, Result], list[Any]]:
        """The result of each parameter, and all counts after the step."""
        return dict(zip(self.moving, results, strict=True)), t


class StepPlan:
    """Parameters that passed all checks, the engines that move them, and what must hold for a step to be replayed."""

    def __init__(self, params: Params) -> None:
        tree, self.ps, self.owner, self.groups = params
        read = self._leaves = self._params = reader(tree)
        if self.groups.elements:
            # What is given element by element can change, too.
            self._params = lambda container: read(container) if self.groups.elements.same() else None
        self._replace = writer(tree)
        self._spec = tree.spec
        self._given = [p and p.given for p in self.ps]
        self.tied = any(o != i for i, o in enumerate(self.owner))
        self.rows: PlannedRows | None = None
        """The coefficients of the next steps, where these need no builder."""
        self.replay: Callable[[Sequence[Any], CoefficientTable], Replayed | None] | None = None
        """`Dispatch.replay` where it may be asked: there are such coefficients, and the engines write in place."""
        self._dispatch: Dispatch | None = None
        self._slots: Slots = ()
        """The slots that the last step left."""
        self._moving: list[int] = []
        """The parameters that move, of those that are one array the first."""
        self._form: Form | None = None
        self.kept: Any = None
        """What a step of parts leaves to the next one: a `KeptParts`."""
        self.places: list[int] = []
        """All places of parameters that move, those of one array too."""
        self._sources: list[int] | None = None
        """The places of the gradients of the parameters that move; None before a step has been taken."""
        self._all_move = False
        """Whether every place has a parameter that moves, with a gradient in the same place."""
        self.without_gradient: list[int] = []
        """The places that had no gradient, but for parameters that are frozen."""
        self.at_rest: list[int] = []
        """Those of these places whose array has no gradient at another place, either."""
        self._stepped = False
        """Whether the engines have taken a step. Before that, they may hold slots that are not the optimizer's yet."""
        self._forgotten = False
        """Whether the last step was one of parts, or is a CUDA graph's, so that the next one has to be planned."""

    @cached_property
    def paths(self) -> list[str]:
        """The keys of each parameter, joined by dots."""
        return dotted_paths(self._spec)

    def form(self, stages: Sequence[Stage], tree: Tree) -> Form:
        """What ranks compare of these parameters, which are those of a tree."""
        self._form = self._form or Form(stages, Params(tree, self.ps, self.owner, self.groups))
        return self._form

    def gathered(self, xs: Sequence[Any]) -> tuple[Plan, Any] | None:
        """The only engine's plan, and the gradients as it takes them; None where there is any doubt."""
        dispatch = self._dispatch
        gathered = None if dispatch is None else dispatch.regather(xs)
        if dispatch is None or gathered is None:
            return None
        if dispatch.waiting:
            dispatch.waiting.count()
        return dispatch.assignments[0].plan, *gathered

    def gather_again(self, params: Any, grads: Any, slots: Slots) -> tuple[Dispatch, list[int], list[Any]] | None:
        """The engines, the places of the parameters that move, and their gathered gradients.

        None where there is any doubt that all is as it was at the last step.
        """
        dispatch = self._dispatch
        if dispatch is None or not dispatch.rebindable:
            return None
        if dispatch.distributed and (self.rows is None or self.rows.asks):
            return None  # a process that gives up after a sum over all would wait for a second one, alone
        if not dispatch.in_place and (slots is not self._slots or self._spec.is_leaf()):
            return None  # other slots, or a bare array, which has no container to take the new one
        xs = self.gradients(params, grads)
        gathered = None if xs is None else dispatch.regather(xs)
        return None if gathered is None else (dispatch, self._moving, gathered)

    def gradients(self, params: Any, grads: Any) -> Sequence[Any] | None:
        """The gradients of the parameters that move, if all arrays, and all places without one, are as they were."""
        leaves = None if self._sources is None else self._params(params)
        if leaves is None or not all(map(operator.is_, leaves, self._given)):
            return None
        xs = self._leaves(grads)
        if self._all_move or xs is None:
            return xs
        if any(xs[i] is not None for i in self.without_gradient):
            return None
        return [xs[i] for i in self._sources or ()]

    def failed_guards(self, params: Any, grads: Any, slots: Slots) -> dict[int, str] | str:
        """The guards that fail, by the places of their parameters; or the one that fails for all together.

        `Explanation.guards` says what they are; `gather_again` and `replay` ask the same at once.
        """
        dispatch, sources = self._dispatch, self._sources
        if sources is None:
            return "part" if self._forgotten else "first step"
        sums = dispatch is not None and dispatch.distributed and (self.rows is None or self.rows.asks)
        if dispatch is None or not dispatch.rebindable or sums:
            return "engine"
        if (due := dispatch.waiting.due()) or not self.groups.elements.same():
            return "compiling" if due else "hyperparameter"
        leaves, xs = self._leaves(params), self._leaves(grads)
        if leaves is None or xs is None or (not dispatch.in_place and self._spec.is_leaf()):
            return "container"
        if not dispatch.in_place and slots is not self._slots:
            return "first step"
        failed = {i: "gradient" for i in self.without_gradient if xs[i] is not None}
        failed |= {i: "gradient" for i in sources if xs[i] is None}
        failed |= {i: "array" for i, leaf in enumerate(leaves) if leaf is not self._given[i]}
        if not failed:
            doubtful = dispatch.doubtful([xs[i] for i in sources])
            failed = {i: "form" for i, doubt in zip(self._moving, doubtful, strict=True) if doubt}
        return failed

    def forget(self) -> None:
        """Take the next step with every check."""
        self._sources = self.rows = self.replay = None
        self._forgotten = True
        if self._dispatch is not None and not self._dispatch.in_place:
            self._dispatch = None  # it would keep arrays alive that may be replaced

    def stepped(self, grads: Any, coefficients: StepCoefficients, pipeline: Pipeline, flat: FlatState) -> None:
        """Note what a step with every check has left, and decide how the next one may be taken.

        `flat` is the state after the step. Without `grads` the next one is taken with every check, too.
        """
        self._stepped, self._forgotten = True, grads is None
        self._slots = flat.slots
        if self._dispatch is not None and not self._dispatch.rebindable:
            self._dispatch = None  # it would keep the slots of before the step alive
        dispatch = self._dispatch
        if dispatch is not None and not dispatch.in_place:
            dispatch.collect_leaves()
        moving = {*self._moving}
        self.places = [i for i, o in enumerate(self.owner) if o in moving]
        xs = None if grads is None else self._leaves(grads)
        self._sources = None if xs is None else self._gradient_places(xs)
        self._all_move = self._sources == [*range(len(self.ps))]
        self.without_gradient = [i for i, x in enumerate(xs or ()) if x is None and i not in self.groups.resting]
        self.at_rest = [i for i in self.without_gradient if self.owner[i] not in moving]
        self.rows = self.replay = None
        if xs is None:
            return
        alone = dispatch is not None and dispatch.rebindable and dispatch.on_host
        if dispatch is not None and (pipeline.static or (pipeline.plannable and alone)):
            row_of_leaf = coefficients.rows.row_of_leaf
            first = dict(zip(reversed(row_of_leaf), reversed(self._moving), strict=True))
            groups = self.groups
            kinds = [(i, groups.group_of[i]) for _, i in sorted(first.items())]
            of_rows = [Kind(groups.branches[n], groups.overrides[n], flat.step - flat.t[i]) for i, n in kinds]
            self.rows = PlannedRows(pipeline.stages, of_rows, row_of_leaf, dispatch.sizes)
            self.replay = dispatch.replay if dispatch.in_place else None

    def _gradient_places(self, xs: Sequence[Any]) -> list[int] | None:
        """For each parameter that moves the place of its gradient, if there is exactly one."""
        given = [i for i, x in enumerate(xs) if x is not None and i not in self.groups.resting]
        source = {self.owner[i]: i for i in given}
        return (
            [source[i] for i in self._moving] if sorted(source) == self._moving and len(source) == len(given) else None
        )

    def unchanged(self, leaves: Sequence[Any]) -> bool:
        """Whether these are the arrays that were checked, where and as they were, and can be written to."""
        for leaf, p in zip(leaves, self.ps, strict=True):
            if p is None:
                if leaf is not None:
                    return False
            elif leaf is not p.given or not p.library.unchanged(leaf, p.memory) or p.library.dtype(leaf) != p.dtype:
                return False
        return self.groups.elements.same()

    def step_leaves(self, engine: str | None, flat: FlatState, xs: Sequence[Array | None]) -> StepLeaves:
        """The parameters that have a gradient, and their engines."""
        slots, moving = flat.slots, [i for i, x in enumerate(xs) if x is not None]
        some = [xs[i] for i in moving]
        dispatch = self._dispatch if self._stepped else None
        if dispatch is not None and not dispatch.in_place:
            dispatch = self._renewed(dispatch, moving, slots)
        gathered = None if dispatch is None or moving != self._moving else dispatch.regather(some)
        if dispatch is None or moving != self._moving or (gathered is None and not dispatch.suits(some)):
            self.rows = self.replay = self._sources = None
            self._stepped = False
            leaves = [self.leaf(i, slots[i]) for i in moving]
            programs = [self.groups.branch(i).program for i in moving]
            dispatch = self._dispatch = Dispatch(engine, programs, leaves, some, plans(engine))
            self._moving = moving
        return StepLeaves(dispatch, moving, some, flat, self.groups, gathered)

    def _renewed(self, dispatch: Dispatch, moving: list[int], slots: Slots) -> Dispatch | None:
        """The same engines with the arrays of now; None if the same parameters do not move."""
        if not dispatch.rebindable or moving != self._moving:
            return None
        dispatch.rebind([self.leaf(i, slots[i]) for i in moving])
        return dispatch

    def rebound(self, leaves: Sequence[Any]) -> bool:
        """Take the new arrays that stand in the place of those that can't be written to.

        Returns False where the library's arrays can change, so that the new ones have to be checked.
        """
        for i, (leaf, p) in enumerate(zip(leaves, self.ps, strict=True)):
            if p is not None and not p.writable:
                if not p.library.immutable:
                    return False
                self._put(i, p, leaf)
        return True

    def placed(self, params: Any, results: Sequence[Result], slots: Slots) -> list[tuple[Array, ...] | None]:
        """Put the results of a step from `gather_again` into the container. Returns the slots after the step."""
        new_slots = self._slots = [*slots]
        if self.tied:
            result_of = dict(zip(self._moving, results, strict=True))
            results = [result_of[self.owner[i]] for i in self.places]
        for i, result in zip(self.places, results, strict=True):
            p, new_slots[i] = self.ps[i], result.slots
            if p is not None and not p.writable:
                leaf = p.library.rebound(p.given, result.p)
                self._replace(params, i, leaf)
                self._put(i, p, leaf)
        if self._dispatch is not None:
            self._dispatch.collect_leaves()
        return new_slots

    def _put(self, i: int, p: Parameter, leaf: Any) -> None:
        self.ps[i], self._given[i] = Parameter(p.library, leaf, leaf, p.dtype, p.writable, p.memory), leaf

    def leaf(self, i: int, slots: tuple[Array, ...] | None) -> Leaf:
        """A parameter that has a gradient, as engines take it."""
        p = self.ps[i]
        assert p is not None  # noqa: S101 - `checks.gradients` refuses a gradient of nothing
        destination, groups = p.given if p.writable else None, self.groups
        return Leaf(p.library, p.array, slots or (), destination, groups.group_of[i], groups.reads[i])
