"""The stages of an optimizer in a row: the programs that engines run, their state and their coefficients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import Any, NamedTuple

from anyoptim._arrays import _checks as checks
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._tree import Tree
from anyoptim._core._coefficients import CoefficientBuilder, DeviceValues, StepCoefficients
from anyoptim._core._reductions import distinct
from anyoptim._engines import Dispatch
from anyoptim._machine._ranks import ALONE, Meeting
from anyoptim._stage import _state
from anyoptim._stage._param_groups import GroupSpec, Overrides, ParamGroups
from anyoptim._stage._stage import Gate, Stage
from anyoptim._stage._stage_program import Entry, StageProgram
from anyoptim._stage._starts import start
from anyoptim._stage._state import FlatState, SlotNames, State
from anyoptim._trace._program import Coefficients, Values
from anyoptim._trace._scalars import following

__all__ = ["Params", "Pipeline"]


class Params(NamedTuple):
    """Parameters that passed their checks, as lists over leaves."""

    tree: Tree
    ps: list[Parameter | None]
    owner: list[int]
    """For each leaf the first leaf with the same array: itself, unless the array is there under several keys."""
    groups: ParamGroups


class Pipeline:
    """The stages of an optimizer, in the order in which a gradient goes through them."""

    def __init__(self, get_stages: Callable[[], Sequence[Stage]], group_spec: GroupSpec, nested: bool) -> None:
        """Make the programs of some stages.

        Args:
            get_stages: gives the stages. They are not kept, for a method used alone is its own stage and keeps this
                pipeline: in such a circle, a dropped optimizer and its slots would wait for the garbage collector.
            group_spec: which parameters each stage is for.
            nested: whether the slots and scalars of a state are nested by stage.
        """
        self._get_stages, self.group_spec, self.nested = get_stages, group_spec, nested
        self._to_host = False
        stages = self.stages
        selectors = dict.fromkeys([*group_spec.selectors, *group_spec.frozen])
        self.branches: Mapping[Any, StageProgram] = {
            selector: StageProgram(
                stages, tuple(k for k, own in enumerate(group_spec.selectors) if own is None or own == selector)
            )
            for selector in selectors
            if selector is not None or group_spec.partition is None
        }
        """The program of each branch of a partition, by its selector; without a partition the only one, by None."""
        reductions = [len(branch.program.reductions) for branch in self.branches.values()]
        asked = [reduction for stage in stages for reduction in stage.reductions.values()]
        self.static = not (any(reductions) or asked or any(stage.scalars for stage in stages))
        """Whether hyperparameters and step counts alone decide the coefficients: nothing is asked or kept."""
        special = any(isinstance(s, Gate) or s.metrics or s.is_step is not None for s in stages)
        special = special or any(of.over == "each" for of in asked)
        self.plannable = self.static or (reductions in ([0], [1]) and not special)
        """Whether what decides beside them is at most numbers that are kept, and one reduction over all parameters."""
        self.accumulates = stages[0].is_step is not None
        """Whether some updates only gather gradients and are no step."""

    @property
    def stages(self) -> Sequence[Stage]:
        """The stages, in order."""
        return self._get_stages()

    @property
    def branch(self) -> StageProgram:
        """The program of the only branch, or of the first one."""
        return next(iter(self.branches.values()))

    def checked(self, params: Any) -> Params:
        """The parameters, and which stages and hyperparameters each of them has. Raises for what can't be updated."""
        tree = Tree("params", params)
        ps = checks.parameters(tree)
        owner = checks.owners(ps)
        return Params(tree, ps, owner, self.groups(tree, ps, owner))

    def groups(self, tree: Tree, ps: Sequence[Parameter | None], owner: Sequence[int]) -> ParamGroups:
        """The groups that parameters fall into."""
        return ParamGroups(self.stages, self.group_spec, self.branches, tree, ps, owner, to_host=self._to_host)

    def for_host(self) -> Pipeline:
        """The same for parameters that were taken to NumPy: arrays beside them, of any library, are taken there."""
        other = copy(self)
        other._to_host = True
        return other

    def start(self, ps: Sequence[Parameter | None], groups: ParamGroups) -> FlatState:
        """The state before the first step: counts of zero, and slots as the stages start them."""
        stages = self.stages
        slots = [
            None
            if p is None
            else tuple(slot for k in groups.branch(i).stages for slot in start(stages[k], p.library, p.array))
            for i, p in enumerate(ps)
        ]
        none = [None if p is None else 0 for p in ps]
        scalars = tuple(dict(stage.scalars) for stage in stages)
        return FlatState(0, none, slots, scalars, list(none) if self.accumulates else ())

    def pack(self, spec: Any, flat: FlatState, names: SlotNames) -> State:
        """Lists over leaves as the containers that a user sees."""
        return _state.pack(self.stages, self.nested, spec, flat, names)

    def unpack(self, params: Params, state: State) -> FlatState:
        """A state as lists over the leaves of `params`. Raises ValueError or TypeError if it does not fit them."""
        return _state.unpack(self.stages, self.nested, params.tree, params.ps, state, params.groups.names)

    def is_step(self, flat: FlatState) -> Any:
        """Whether the update after this state is a step: a bool, or a traced one. Others only gather gradients."""
        if not self.accumulates:
            return True
        first: Any = self.stages[0]
        return first.is_step(Values({**flat.scalars[0], **first._values(following(flat.step), {})}))

    def step_coefficients(
        self,
        dispatch: Dispatch,
        gathered: Sequence[Any],
        flat: FlatState,
        moving: Sequence[int],
        groups: ParamGroups,
        device_values: DeviceValues | None = None,
        with_metrics: bool = True,
        unsure: Mapping[int, Any] = MappingProxyType({}),
        meeting: Meeting = ALONE,
    ) -> StepCoefficients:
        """Everything that the step after `flat` needs to know: above all the coefficients of each moving parameter.

        Args:
            dispatch: the engines and the leaves that move.
            gathered: the gradients, as the engines take them.
            flat: the state before the step.
            moving: which of the parameters move.
            groups: the groups of all parameters.
            device_values: stand-ins for counts and hyperparameters whose values are on a device.
            with_metrics: whether stages may ask for what is only for a report.
            unsure: for some of the moving parameters a traced bool that says whether it moves after all.
            meeting: that of the ranks which have parts of these parameters.
        """
        stages = self.stages
        builder = CoefficientBuilder(
            stages, dispatch, gathered, flat, moving, groups, device_values, with_metrics, unsure, meeting
        )
        for k in range(len(stages)):
            if not builder.add_stage(k):
                break
        return builder.result()

    def read(self, branch: StageProgram, overrides: Overrides) -> list[list[int]]:
        """For each reduction that every step of a branch takes the arrays that it reads, as places among its inputs."""
        graphs = distinct(branch, self.sample(branch, overrides=overrides)).items()
        entries = [(branch.order[k], graph) for k, graph in graphs]
        # What is not finite is counted only where there is any.
        rare = {Entry(k, "nonfinite") for k, stage in enumerate(self.stages) if "nonfinite" not in stage.reductions}
        return [graph.arrays_read for entry, graph in entries if entry not in rare]

    def sample(
        self, branch: StageProgram, t: int = 1, norm: Any = 1.0, overrides: Overrides | None = None
    ) -> Coefficients:
        """The coefficients of step `t` if every reduction gave `norm`, for their names and static options."""
        stages = self.stages
        row: list[dict[str, Any]] = []
        for entry in branch.order:
            if entry is None or entry.reduction:
                row.append({})
                continue
            stage = stages[entry.stage]
            more: dict[str, Any] = {**stage.scalars, **dict.fromkeys(stage.reductions, norm)}
            own = {} if overrides is None else overrides[entry.stage]
            for name, k in branch.lenders.get(entry.stage, {}).items():
                more[name] = stages[k]._values(t, {} if overrides is None else overrides[k])[name]
            row.append(stage._coefficients(t, {**stage._values(t, own), **more}))
        return tuple(row)
