"""The parameters that `update` met last: while they are the same arrays, what was found out about them holds."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from anyoptim._arrays import Array
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._tree import Tree, dotted_paths, reader
from anyoptim._core._param_groups import ParamGroups
from anyoptim._engines import Dispatch, Leaf, Result
from anyoptim._trace._program import Coefficients

__all__ = ["StepPlan"]


class StepPlan:
    """Parameters that passed all checks, and the engines' plans for them."""

    def __init__(self, tree: Tree, ps: list[Parameter | None], owner: list[int], param_groups: ParamGroups) -> None:
        self.ps, self.owner, self.param_groups = ps, owner, param_groups
        self._leaves = reader(tree)
        self._spec = tree.spec
        self._given = [p and p.given for p in ps]
        self._tied = any(o != i for i, o in enumerate(owner))
        self.alike = False
        """Whether `take` may be asked: all parameters move, by one row of coefficients that no measure goes into."""
        self._dispatch: Dispatch | None = None
        self._slots: Sequence[tuple[Array, ...] | None] = ()
        """Those that the last step left."""
        self._stepped = False
        """Whether the dispatch has taken a step. One that has not may have slots that are not the optimizer's yet."""
        self._moving: list[int] = []
        self.without: list[int] = []
        """Those that rest because they have no gradient."""

    @cached_property
    def paths(self) -> list[str]:
        """The keys of each parameter, joined by dots."""
        return dotted_paths(self._spec)

    def quick(
        self, params: Any, grads: Any, slots: Sequence[tuple[Array, ...] | None]
    ) -> tuple[Dispatch, list[int], list[Any]] | None:
        """Who moves, which parameters these are, and their gathered gradients; None where there is any doubt.

        There is none if nothing has changed since the last update, and the gradients are such as they were then.
        """
        dispatch = self._dispatch
        if dispatch is None or not self._stepped or not dispatch.renewable or self._tied:
            return None
        if not dispatch.lasting and (slots is not self._slots or self._spec.is_leaf()):
            return None  # those of other hands, or of a bare array, which has no container to take the new one
        leaves = self._leaves(params)
        if leaves is None or not all(map(operator.is_, leaves, self._given)):
            return None
        xs = self._leaves(grads)
        if xs is None:
            return None
        if len(self._moving) < len(xs):
            if any(xs[i] is not None for i in self.without):
                return None
            xs = [xs[i] for i in self._moving]
        gathered = dispatch.quick(xs)
        return None if gathered is None else (dispatch, self._moving, gathered)

    def replay(self, params: Any, grads: Any, row: Coefficients) -> bool:
        """Take the step, if nothing has changed since the last, and the gradients are such as they were then.

        Else, or if there is any doubt about it, nothing is done.
        """
        leaves = self._leaves(params)
        if leaves is None or not all(map(operator.is_, leaves, self._given)):
            return False
        xs = self._leaves(grads)
        return xs is not None and self._dispatch is not None and self._dispatch.replay(xs, row)

    def settle(self, one_row: bool, simple: bool, slots: Sequence[tuple[Array, ...] | None]) -> None:
        """Find out, after a step with all checks, what the next one needs."""
        self._stepped = True
        self._slots = slots
        if self._dispatch is not None and not self._dispatch.renewable:
            self._dispatch = None  # it would keep the slots of before the step alive
        dispatch = self._dispatch
        if dispatch is not None and not dispatch.lasting:
            dispatch.refresh()
        self.alike = (
            dispatch is not None
            and dispatch.lasting
            and one_row
            and simple
            and not self._tied
            and len(self._moving) == len(self.ps)
            and len(dispatch.teams) == 1
            and len(self.param_groups.overrides) == 1
            and not any(self.param_groups.overrides[0])
            and not dispatch.programs[0].measures
        )

    def still(self, leaves: Sequence[Any]) -> bool:
        """Whether these are the arrays that were checked, where and as they were, and can be written to."""
        for leaf, p in zip(leaves, self.ps, strict=True):
            if p is None:
                if leaf is not None:
                    return False
            elif leaf is not p.given or not p.library.unchanged(leaf, p.memory) or p.library.dtype(leaf) != p.dtype:
                return False
        return True

    def dispatch(
        self,
        engine: str | None,
        xs: Sequence[Array | None],
        slots: Sequence[tuple[Array, ...] | None],
    ) -> tuple[Dispatch, list[int]]:
        """Who moves the parameters that have a gradient, and which these are."""
        moving = [i for i, x in enumerate(xs) if x is not None]
        some = [xs[i] for i in moving]
        dispatch = self._dispatch if self._stepped else None
        if dispatch is not None and not dispatch.lasting:
            dispatch = self._renewed(dispatch, moving, slots)
        if dispatch is None or moving != self._moving or not dispatch.suits(some):
            self.alike = self._stepped = False  # until this dispatch has taken a step
            leaves = [self.leaf(i, slots[i]) for i in moving]
            programs = [self.param_groups.branch(i).program for i in moving]
            dispatch = self._dispatch = Dispatch(engine, programs, leaves, some)
            self._moving = moving
            self.without = [i for i, x in enumerate(xs) if x is None and i not in self.param_groups.resting]
        return dispatch, moving

    def _renewed(
        self, dispatch: Dispatch, moving: list[int], slots: Sequence[tuple[Array, ...] | None]
    ) -> Dispatch | None:
        """The dispatch with the arrays of now, if it is one for these."""
        if not dispatch.renewable or moving != self._moving:
            return None
        dispatch.renew([self.leaf(i, slots[i]) for i in moving])
        return dispatch

    def rebound(self, leaves: Sequence[Any]) -> bool:
        """Take the arrays that stand where those were that can't be written to, if that is all there is to know."""
        for i, (leaf, p) in enumerate(zip(leaves, self.ps, strict=True)):
            if p is not None and not p.writable:
                if not p.library.immutable:
                    return False
                self._put(i, p, leaf)
        return True

    def placed(
        self, params: Any, results: Sequence[Result], slots: Sequence[tuple[Array, ...] | None]
    ) -> list[tuple[Array, ...] | None]:
        """The slots after a step that was `quick`, and its parameters in their places."""
        slots = self._slots = [*slots]
        tree = None
        for i, result in zip(self._moving, results, strict=True):
            p = self.ps[i]
            slots[i] = result.slots
            if p is not None and not p.writable:
                tree = tree or Tree("params", params)
                tree.replace(i, result.p)
                self._put(i, p, result.p)
        if self._dispatch is not None:
            self._dispatch.refresh()
        return slots

    def _put(self, i: int, p: Parameter, leaf: Any) -> None:
        self.ps[i], self._given[i] = Parameter(p.library, leaf, leaf, p.dtype, p.writable, p.memory), leaf

    def leaf(self, i: int, slots: tuple[Array, ...] | None) -> Leaf:
        """A parameter that has a gradient, as engines take it."""
        p = self.ps[i]
        assert p is not None  # noqa: S101 - `checks.gradients` refuses a gradient of nothing
        return Leaf(p.library, p.array, slots or (), p.given if p.writable else None)
