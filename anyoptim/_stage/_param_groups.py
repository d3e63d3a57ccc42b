"""The groups that parameters fall into: by the stages that they go through, and by hyperparameters of their own."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

from anyoptim._arrays import Array
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._selection import Selection, Selector, shown
from anyoptim._arrays._tree import Tree, dotted_paths
from anyoptim._stage._elements import by_element, spelled
from anyoptim._stage._groups import groups
from anyoptim._stage._matched_elements import Elements, OfParameter
from anyoptim._stage._stage import Stage
from anyoptim._stage._stage_program import StageProgram
from anyoptim._trace._hyperparameters import Hyper

__all__ = ["GroupSpec", "Overrides", "ParamGroups"]

Overrides = tuple[Mapping[str, Hyper], ...]
"""For each stage the hyperparameters that are given instead of its own."""


class GroupSpec(NamedTuple):
    """What a chain says about which parameters its stages and hyperparameters are for."""

    selectors: Sequence[Any]
    """For each stage the selector of its branch in the partition; None for a stage of all parameters."""
    partition: Selection | None = None
    groups: groups | None = None
    frozen: frozenset[Any] = frozenset()
    """The selectors of the partition whose parameters rest."""

    def rests(self, selector: Selector | None, group: Selector | None) -> bool:
        """Whether a parameter with these selectors, in the partition and in the groups, is frozen."""
        return selector in self.frozen or (self.groups is not None and group is not None and self.groups[group] is None)


class ParamGroups:
    """The groups of the parameters of one container, and which parameter is in which."""

    def __init__(
        self,
        stages: Sequence[Stage],
        spec: GroupSpec,
        branches: Mapping[Any, StageProgram],
        tree: Tree,
        ps: Sequence[Parameter | None],
        owner: Sequence[int],
        *,
        to_host: bool = False,
    ) -> None:
        self._spec = tree.spec
        self._places: Sequence[int] = range(len(ps))
        selectors = [None] * len(ps) if spec.partition is None else spec.partition.assign(tree, ps)
        patterns = [None] * len(ps) if spec.groups is None else spec.groups.selection.assign(tree, ps)
        self.resting = {i for i, both in enumerate(zip(selectors, patterns, strict=True)) if spec.rests(*both)}
        """The parameters that are frozen."""
        self.branches: list[StageProgram] = []
        """For each group the stages that its parameters go through."""
        self.overrides: list[Overrides] = []
        """For each group what is given instead of the hyperparameters of each stage."""
        self.group_of = [0] * len(ps)
        """The group of each parameter."""
        self.reads: list[tuple[Array, ...]] = [()] * len(ps)
        """For each parameter the arrays that are read beside it."""
        self.elements = Elements(stages, tree, to_host=to_host)
        """What is given element by element."""
        reading: dict[Any, StageProgram] = {}
        numbers: list[Any] = []
        for i, p in enumerate(ps):
            if p is None:
                continue
            if owner[i] != i:
                _check_tied(tree, owner[i], i, selectors)
                _check_tied(tree, owner[i], i, patterns)
                self.elements.check_tied(tree, owner[i], i)
                self.group_of[i], self.reads[i] = self.group_of[owner[i]], self.reads[owner[i]]
                continue
            branch, of_elements = branches[selectors[i]], OfParameter()
            if i not in self.resting:
                _check_accepted(stages, branch, tree, i, p)
                of_elements = self.elements.of(tree, i, p, branch.stages)
            given, arrays, self.reads[i] = of_elements
            if arrays:
                branch = reading.setdefault((selectors[i], arrays), branch.reading(arrays))
            own = _overridden(stages, branch, tree, i, p)
            kind = selectors[i], None if i in self.resting else patterns[i], own, given, arrays
            if kind not in numbers:
                numbers.append(kind)
                self.branches.append(branch)
                own = _with_elements(stages, branch, given, own)
                self.overrides.append(_combined(stages, spec.groups, branch, own, kind[1]))
            self.group_of[i] = numbers.index(kind)
        if not numbers:
            self.branches.append(next(iter(branches.values())))
            self.overrides.append(({},) * len(stages))

    @property
    def names(self) -> list[Sequence[tuple[int, str]]]:
        """For each parameter its slots: the place of the stage, and the slot's name."""
        return [self.branch(i).names for i in range(len(self.group_of))]

    def without_frozen(self, xs: list[Array | None]) -> list[Array | None]:
        """The gradients, with None for parameters that are frozen."""
        return [None if i in self.resting else x for i, x in enumerate(xs)] if self.resting else xs

    def of(self, places: Sequence[int]) -> ParamGroups:
        """The groups of leaves that are these parameters, or parts of them."""
        some = copy(self)
        some.group_of, some._places = [self.group_of[i] for i in places], places
        return some

    def path(self, i: int) -> str:
        """The keys of a parameter, joined by dots."""
        return dotted_paths(self._spec)[self._places[i]]

    def branch(self, i: int) -> StageProgram:
        """The stages that a parameter goes through."""
        return self.branches[self.group_of[i]]


def _check_tied(tree: Tree, first: int, i: int, selectors: Sequence[Selector | None]) -> None:
    """Raise ValueError where one array has two names that different patterns take."""
    if selectors[first] != selectors[i]:
        raise ValueError(
            f"{tree.name(first)} and {tree.name(i)} are one array, but they have "
            f"{shown(selectors[first], selectors[i])}; wanted one pattern for both"
        )


def _check_accepted(stages: Sequence[Stage], branch: StageProgram, tree: Tree, i: int, p: Parameter) -> None:
    """Raise ValueError for a parameter that one of its stages can't take."""
    for k in branch.stages:
        if type(stages[k]).refusal is not Stage.refusal and (why := stages[k].refusal(p.array)) is not None:
            raise ValueError(f"{tree.name(i)} {why}")


def _overridden(stages: Sequence[Stage], branch: StageProgram, tree: Tree, i: int, p: Parameter) -> Overrides:
    """What the stages themselves say for one parameter; nothing where none of them says anything for any.

    Raises TypeError or ValueError for what are no hyperparameters of the stage.
    """
    if all(type(stage).overrides is Stage.overrides for stage in stages):
        return ()
    overrides: list[Mapping[str, Hyper]] = []
    for k, stage in enumerate(stages):
        own: Any = stage.overrides(tree.path(i), p.array) if k in branch.stages else {}
        if not isinstance(own, Mapping):
            raise TypeError(
                f"overrides of {stage!r} gave {own!r} for {tree.path(i)!r}; wanted a dict of hyperparameters"
            )
        if set(own) - set(stage.hyperparameters):
            raise ValueError(f"{stage!r} overrides {list(own)}; it has {list(stage.hyperparameters)}")
        for name, value in own.items():
            if by_element(value):
                raise TypeError(
                    f"overrides of {stage!r} gave {spelled(value)} as {name}; wanted a number or a schedule"
                )
        overrides.append(dict(own))
    return tuple(overrides)


def _with_elements(stages: Sequence[Stage], branch: StageProgram, given: Sequence[Any], own: Overrides) -> Overrides:
    """What is given element by element for one parameter, and after that what the stages themselves say."""
    if not (given or branch.elements):
        return own
    numbers: list[dict[str, Any]] = [{} for _ in stages]
    for (k, name), value in given:
        numbers[k][name] = value
    each = zip(numbers, own or ({},) * len(stages), strict=True)
    return tuple({**of, **branch.elements.get(k, {}), **others} for k, (of, others) in enumerate(each))


def _combined(
    stages: Sequence[Stage], chain_groups: groups | None, branch: StageProgram, own: Overrides, pattern: Any
) -> Overrides:
    """For each stage what a group of the chain gives, and after that what the stage itself says."""
    own = own or ({},) * len(stages)
    if chain_groups is None or pattern is None:
        return own
    given = chain_groups.own(pattern, stages, branch.stages)
    return tuple(ChainMap(two, one) if one and two else two or one for one, two in zip(own, given, strict=True))  # type: ignore[arg-type] # it is only read
