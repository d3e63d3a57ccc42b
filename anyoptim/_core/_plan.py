"""The plan of a step: what was found out about the parameters that `update` met last holds while they are the same."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from anyoptim._arrays import Array
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._tree import Tree, dotted_paths, reader
from anyoptim._core._pipeline import Params
from anyoptim._engines import Dispatch, Leaf, Result
from anyoptim._trace._program import Coefficients

__all__ = ["StepPlan"]

Slots = Sequence[tuple[Array, ...] | None]
"""For each parameter its slots."""


class StepPlan:
    """Parameters that passed all checks, the engines that move them, and what must hold for a step to be replayed."""

    def __init__(self, params: Params) -> None:
        tree, self.ps, self.owner, self.groups = params
        self._leaves = reader(tree)
        self._spec = tree.spec
        self._given = [p and p.given for p in self.ps]
        self._tied = any(o != i for i, o in enumerate(self.owner))
        self.uniform = False
        """Whether `replay` may be asked: all parameters move, with equal coefficients, which depend on no measure."""
        self._dispatch: Dispatch | None = None
        self._slots: Slots = ()
        """The slots that the last step left."""
        self._stepped = False
        """Whether the engines have taken a step. Before that, they may hold slots that are not the optimizer's yet."""
        self._moving: list[int] = []
        self.without_gradient: list[int] = []
        """The parameters that are not frozen and rest because they have no gradient."""

    @cached_property
    def paths(self) -> list[str]:
        """The keys of each parameter, joined by dots."""
        return dotted_paths(self._spec)

    def replay(self, params: Any, grads: Any, row: Coefficients) -> bool:
        """Take a step like the last one, if arrays and gradients are without doubt as they were; else do nothing.

        Returns whether the step was taken. Only a `uniform` plan may be asked.
        """
        leaves = self._leaves(params)
        if leaves is None or not all(map(operator.is_, leaves, self._given)):
            return False
        xs = self._leaves(grads)
        return xs is not None and self._dispatch is not None and self._dispatch.replay(xs, row)

    def gather_again(self, params: Any, grads: Any, slots: Slots) -> tuple[Dispatch, list[int], list[Any]] | None:
        """The engines, the places of the parameters that move, and their gathered gradients.

        None where there is any doubt that all is as it was at the last step.
        """
        dispatch = self._dispatch
        if dispatch is None or not self._stepped or not dispatch.rebindable or self._tied:
            return None
        if not dispatch.in_place and (slots is not self._slots or self._spec.is_leaf()):
            return None  # other slots, or a bare array, which has no container to take the new one
        leaves = self._leaves(params)
        if leaves is None or not all(map(operator.is_, leaves, self._given)):
            return None
        xs = self._leaves(grads)
        if xs is None:
            return None
        if len(self._moving) < len(xs):
            if any(xs[i] is not None for i in self.without_gradient):
                return None
            xs = [xs[i] for i in self._moving]
        gathered = dispatch.regather(xs)
        return None if gathered is None else (dispatch, self._moving, gathered)

    def stepped(self, one_row: bool, simple: bool, slots: Slots) -> None:
        """Note what a step with every check has left, and decide how the next one may be taken.

        `one_row` is whether all parameters had the same coefficients, `simple` whether hyperparameters alone decide
        these, `slots` the slots after the step.
        """
        self._stepped = True
        self._slots = slots
        if self._dispatch is not None and not self._dispatch.rebindable:
            self._dispatch = None  # it would keep the slots of before the step alive
        dispatch = self._dispatch
        if dispatch is not None and not dispatch.in_place:
            dispatch.collect_leaves()
        self.uniform = (
            dispatch is not None
            and dispatch.in_place
            and one_row
            and simple
            and not self._tied
            and len(self._moving) == len(self.ps)
            and len(dispatch.assignments) == 1
            and len(self.groups.overrides) == 1
            and not any(self.groups.overrides[0])
            and not dispatch.programs[0].measures
        )

    def unchanged(self, leaves: Sequence[Any]) -> bool:
        """Whether these are the arrays that were checked, where and as they were, and can be written to."""
        for leaf, p in zip(leaves, self.ps, strict=True):
            if p is None:
                if leaf is not None:
                    return False
            elif leaf is not p.given or not p.library.unchanged(leaf, p.memory) or p.library.dtype(leaf) != p.dtype:
                return False
        return True

    def dispatch(self, engine: str | None, xs: Sequence[Array | None], slots: Slots) -> tuple[Dispatch, list[int]]:
        """The engines for the parameters that have a gradient, and which parameters these are."""
        moving = [i for i, x in enumerate(xs) if x is not None]
        some = [xs[i] for i in moving]
        dispatch = self._dispatch if self._stepped else None
        if dispatch is not None and not dispatch.in_place:
            dispatch = self._renewed(dispatch, moving, slots)
        if dispatch is None or moving != self._moving or not dispatch.suits(some):
            self.uniform = self._stepped = False  # until these engines have taken a step
            leaves = [self.leaf(i, slots[i]) for i in moving]
            programs = [self.groups.branch(i).program for i in moving]
            dispatch = self._dispatch = Dispatch(engine, programs, leaves, some)
            self._moving = moving
            self.without_gradient = [i for i, x in enumerate(xs) if x is None and i not in self.groups.resting]
        return dispatch, moving

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
        tree = None
        for i, result in zip(self._moving, results, strict=True):
            p = self.ps[i]
            new_slots[i] = result.slots
            if p is not None and not p.writable:
                tree = tree or Tree("params", params)
                tree.replace(i, result.p)
                self._put(i, p, result.p)
        if self._dispatch is not None:
            self._dispatch.collect_leaves()
        return new_slots

    def _put(self, i: int, p: Parameter, leaf: Any) -> None:
        self.ps[i], self._given[i] = Parameter(p.library, leaf, leaf, p.dtype, p.writable, p.memory), leaf

    def leaf(self, i: int, slots: tuple[Array, ...] | None) -> Leaf:
        """A parameter that has a gradient, as engines take it."""
        p = self.ps[i]
        assert p is not None  # noqa: S101 - `checks.gradients` refuses a gradient of nothing
        return Leaf(p.library, p.array, slots or (), p.given if p.writable else None)
