"""How the parameters are divided: by the stages that they go through, and by hyperparameters of their own."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from anyoptim._arrays import Array
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._tree import Tree, dotted_paths
from anyoptim._core._groups import groups
from anyoptim._core._selection import Selection, shown
from anyoptim._core._stage import Stage
from anyoptim._core._stage_program import StageProgram
from anyoptim._trace._hyperparameters import Hyper

__all__ = ["GroupSpec", "ParamGroups"]


class GroupSpec(NamedTuple):
    """What a chain says of the parameters that its stages are for."""

    selectors: Sequence[Any]
    """For each stage the selector in the partition that has it; None for a stage of all parameters."""
    partition: Selection | None
    groups: groups | None
    frozen: frozenset[Any] = frozenset()
    """The selectors of the partition whose parameters rest."""


class ParamGroups:
    """The parts of one `params`."""

    def __init__(
        self,
        stages: Sequence[Stage],
        group_spec: GroupSpec,
        branches: Mapping[Any, StageProgram],
        tree: Tree,
        ps: Sequence[Parameter | None],
        owner: Sequence[int],
    ) -> None:
        self._spec = tree.spec
        selectors = [None] * len(ps) if group_spec.partition is None else group_spec.partition.of(tree, ps)
        grouped = [None] * len(ps) if group_spec.groups is None else group_spec.groups.selection.of(tree, ps)
        asked = [type(stage).overrides is not Stage.overrides for stage in stages]
        asks = any(asked)
        self.branches: list[StageProgram] = []
        """For each group of parameters the stages that they go through."""
        self.overrides: list[tuple[Mapping[str, Hyper], ...]] = []
        """For each group what is given instead of each stage's own hyperparameters."""
        self.of = [0] * len(ps)
        """The group of each parameter."""
        self.resting = {
            i
            for i, (selector, group) in enumerate(zip(selectors, grouped, strict=True))
            if selector in group_spec.frozen
            or (group_spec.groups is not None and group is not None and group_spec.groups[group] is None)
        }
        """Those that are frozen."""
        refusing = [k for k, stage in enumerate(stages) if type(stage).refusal is not Stage.refusal]
        kinds: list[Any] = []
        for i, p in enumerate(ps):
            if p is None:
                continue
            o = owner[i]
            if o != i:
                for selected in (selectors, grouped):
                    if selected[o] != selected[i]:
                        raise ValueError(
                            f"{tree.name(o)} and {tree.name(i)} are one array, but they have "
                            f"{shown(selected[o], selected[i])}; wanted one pattern for both"
                        )
                self.of[i] = self.of[o]
                continue
            branch = branches[selectors[i]]
            for k in refusing:
                why = stages[k].refusal(p.array) if k in branch.of and i not in self.resting else None
                if why is not None:
                    raise ValueError(f"{tree.name(i)} {why}")
            found: tuple[Mapping[str, Hyper], ...] = ()
            if asks:
                found = tuple(
                    _overridden(stage, tree.path(i), p.array) if ask and k in branch.of else {}
                    for k, (stage, ask) in enumerate(zip(stages, asked, strict=True))
                )
            group = None if i in self.resting else grouped[i]
            kind = (selectors[i], group, found)
            if kind not in kinds:
                kinds.append(kind)
                self.branches.append(branch)
                self.overrides.append(_given(stages, group_spec, branch, found, group))
            self.of[i] = kinds.index(kind)
        if not kinds:
            self.branches.append(next(iter(branches.values())))
            self.overrides.append(({},) * len(stages))

    @property
    def names(self) -> list[Sequence[tuple[int, str]]]:
        """Of each parameter its slots: of which stage, their names."""
        return [self.branch(i).names for i in range(len(self.of))]

    def moving(self, xs: list[Array | None]) -> list[Array | None]:
        """The gradients, without those of parameters that are frozen."""
        return [None if i in self.resting else x for i, x in enumerate(xs)] if self.resting else xs

    def path(self, i: int) -> str:
        """The keys of a parameter, joined by dots."""
        return dotted_paths(self._spec)[i]

    def branch(self, i: int) -> StageProgram:
        """The stages that a parameter goes through."""
        return self.branches[self.of[i]]


def _overridden(stage: Stage, path: str, p: Array) -> Mapping[str, Hyper]:
    """The stage's own hyperparameters for one parameter. Raises TypeError for what are none."""
    found = stage.overrides(path, p)
    if not isinstance(found, Mapping):
        raise TypeError(f"overrides of {stage!r} gave {found!r} for {path!r}; wanted a dict of hyperparameters")
    return dict(found)


def _given(
    stages: Sequence[Stage],
    group_spec: GroupSpec,
    branch: StageProgram,
    found: Sequence[Mapping[str, Hyper]],
    group: Any,
) -> tuple[Mapping[str, Hyper], ...]:
    """What a group, None for none, has for each stage: of `groups`, else of the stage's own `overrides`."""
    for stage, own in zip(stages, found, strict=False):
        if set(own) - set(stage.hyperparameters):
            raise ValueError(f"{stage!r} overrides {list(own)}; it has {list(stage.hyperparameters)}")
    if group_spec.groups is None or group is None:
        return tuple(found) or ({},) * len(stages)
    given = group_spec.groups.own(group, stages, branch.of)
    if not found:
        return tuple(given)
    return tuple(ChainMap(two, one) if one and two else two or one for one, two in zip(found, given, strict=True))  # type: ignore[arg-type] # it is only read
