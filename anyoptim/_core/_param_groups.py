"""How the parameters are divided: by the stages that they go through, and by hyperparameters of their own."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from anyoptim._arrays import Array
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._tree import Tree
from anyoptim._core._groups import groups
from anyoptim._core._selection import Selection, shown
from anyoptim._core._stage import Stage
from anyoptim._core._stage_program import Track
from anyoptim._trace._hyperparameters import Hyper

__all__ = ["Division", "Layout"]


class Layout(NamedTuple):
    """What a chain says of the parameters that its stages are for."""

    lanes: Sequence[Any]
    """For each stage the selector in the partition that has it; None for a stage of all parameters."""
    partition: Selection | None
    groups: groups | None
    frozen: frozenset[Any] = frozenset()
    """The selectors of the partition whose parameters rest."""


class Division:
    """The parts of one `params`."""

    def __init__(
        self,
        stages: Sequence[Stage],
        layout: Layout,
        tracks: Mapping[Any, Track],
        tree: Tree,
        ps: Sequence[Parameter | None],
        owner: Sequence[int],
    ) -> None:
        self._spec = tree.spec
        lanes = [None] * len(ps) if layout.partition is None else layout.partition.of(tree, ps)
        grouped = [None] * len(ps) if layout.groups is None else layout.groups.selection.of(tree, ps)
        asked = [type(stage).overrides is not Stage.overrides for stage in stages]
        asks = any(asked)
        self.tracks: list[Track] = []
        """For each group of parameters the stages that they go through."""
        self.overrides: list[tuple[Mapping[str, Hyper], ...]] = []
        """For each group what is given instead of each stage's own hyperparameters."""
        self.of = [0] * len(ps)
        """The group of each parameter."""
        self.resting = {
            i
            for i, (lane, group) in enumerate(zip(lanes, grouped, strict=True))
            if lane in layout.frozen
            or (layout.groups is not None and group is not None and layout.groups[group] is None)
        }
        """Those that are frozen."""
        refusing = [k for k, stage in enumerate(stages) if type(stage).refusal is not Stage.refusal]
        kinds: list[Any] = []
        for i, p in enumerate(ps):
            if p is None:
                continue
            o = owner[i]
            if o != i:
                for selected in (lanes, grouped):
                    if selected[o] != selected[i]:
                        raise ValueError(
                            f"{tree.name(o)} and {tree.name(i)} are one array, but they have "
                            f"{shown(selected[o], selected[i])}; wanted one pattern for both"
                        )
                self.of[i] = self.of[o]
                continue
            track = tracks[lanes[i]]
            for k in refusing:
                why = stages[k].refusal(p.array) if k in track.of and i not in self.resting else None
                if why is not None:
                    raise ValueError(f"{tree.name(i)} {why}")
            found: tuple[Mapping[str, Hyper], ...] = ()
            if asks:
                found = tuple(
                    _overridden(stage, tree.path(i), p.array) if ask and k in track.of else {}
                    for k, (stage, ask) in enumerate(zip(stages, asked, strict=True))
                )
            group = None if i in self.resting else grouped[i]
            kind = (lanes[i], group, found)
            if kind not in kinds:
                kinds.append(kind)
                self.tracks.append(track)
                self.overrides.append(_given(stages, layout, track, found, group))
            self.of[i] = kinds.index(kind)
        if not kinds:
            self.tracks.append(next(iter(tracks.values())))
            self.overrides.append(({},) * len(stages))

    @property
    def names(self) -> list[Sequence[tuple[int, str]]]:
        """Of each parameter its slots: of which stage, their names."""
        return [self.track(i).names for i in range(len(self.of))]

    def moving(self, xs: list[Array | None]) -> list[Array | None]:
        """The gradients, without those of parameters that are frozen."""
        return [None if i in self.resting else x for i, x in enumerate(xs)] if self.resting else xs

    def path(self, i: int) -> str:
        """The keys of a parameter, joined by dots."""
        return ".".join(map(str, self._spec.paths()[i]))

    def track(self, i: int) -> Track:
        """The stages that a parameter goes through."""
        return self.tracks[self.of[i]]


def _overridden(stage: Stage, path: str, p: Array) -> Mapping[str, Hyper]:
    """The stage's own hyperparameters for one parameter. Raises TypeError for what are none."""
    found = stage.overrides(path, p)
    if not isinstance(found, Mapping):
        raise TypeError(f"overrides of {stage!r} gave {found!r} for {path!r}; wanted a dict of hyperparameters")
    return dict(found)


def _given(
    stages: Sequence[Stage], layout: Layout, track: Track, found: Sequence[Mapping[str, Hyper]], group: Any
) -> tuple[Mapping[str, Hyper], ...]:
    """What a group, None for none, has for each stage: of `groups`, else of the stage's own `overrides`."""
    for stage, own in zip(stages, found, strict=False):
        if set(own) - set(stage.hyperparameters):
            raise ValueError(f"{stage!r} overrides {list(own)}; it has {list(stage.hyperparameters)}")
    if layout.groups is None or group is None:
        return tuple(found) or ({},) * len(stages)
    given = layout.groups.own(group, stages, track.of)
    if not found:
        return tuple(given)
    return tuple(ChainMap(two, one) if one and two else two or one for one, two in zip(found, given, strict=True))  # type: ignore[arg-type] # it is only read
