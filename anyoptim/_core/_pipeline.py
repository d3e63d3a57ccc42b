"""Stages in a row: the programs that engines run, and their coefficients at each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from anyoptim._arrays._checks import Parameter
from anyoptim._core._coefficients import FLOAT32, CoefficientBuilder, Live, StepCoefficients
from anyoptim._core._measures import distinct
from anyoptim._core._param_groups import GroupSpec, ParamGroups
from anyoptim._core._stage import Stage
from anyoptim._core._stage_program import StageProgram
from anyoptim._core._state import FlatState
from anyoptim._engines import Dispatch, start
from anyoptim._trace._program import Coefficients

__all__ = ["Pipeline"]


class Pipeline:
    """The stages of an optimizer."""

    def __init__(self, stages: Sequence[Stage], group_spec: GroupSpec) -> None:
        self.stages = stages
        selectors = dict.fromkeys([*group_spec.selectors, *group_spec.frozen])
        self.branches: Mapping[Any, StageProgram] = {
            selector: StageProgram(
                stages, tuple(k for k, of in enumerate(group_spec.selectors) if of is None or of == selector)
            )
            for selector in selectors
            if selector is not None or group_spec.partition is None
        }
        """By the selectors of a partition; where there is none, by None."""
        self.simple = not any(stage.scalars or stage.norms or stage.totals for stage in stages)
        """Whether `row` says all, where there are no groups and nothing is measured."""

    @property
    def branch(self) -> StageProgram:
        """The only one, or the first."""
        return next(iter(self.branches.values()))

    def start(self, ps: Sequence[Parameter | None], param_groups: ParamGroups) -> FlatState:
        """No steps taken, slots as the stages start them."""
        slots = [
            None
            if p is None
            else tuple(
                slot
                for k in param_groups.branch(i).of
                for slot in start(self.stages[k].init_slots, self.stages[k].slot_shapes, p.library, p.array)
            )
            for i, p in enumerate(ps)
        ]
        none = [None if p is None else 0 for p in ps]
        pending = list(none) if self.stages[0].is_step is not None else ()
        return FlatState(0, none, slots, tuple(dict(s.scalars) for s in self.stages), pending)

    def row(self, step: int, t: int) -> Coefficients | None:
        """The coefficients of all parameters, where no stage measures anything or has overrides for some.

        None where a learning rate is larger than some dtypes can hold.
        """
        row: list[Mapping[str, Any]] = []
        for entry in self.branch.order:
            if entry is None:
                row.append({})
                continue
            stage = self.stages[entry.stage]
            values = stage._values(step, {})
            rate = values.get("lr")
            if type(rate) is float and rate > FLOAT32.largest:
                return None
            row.append(stage._coefficients(t, values))
        return tuple(row)

    def step_coefficients(
        self,
        dispatch: Dispatch,
        gathered: Sequence[Any],
        flat: FlatState,
        moving: Sequence[int],
        param_groups: ParamGroups,
        live: Live | None = None,
        watching: bool = True,
        unsure: Mapping[int, Any] = MappingProxyType({}),
    ) -> StepCoefficients:
        """What this step needs to know: above all, the coefficients of each parameter that moves.

        `live` has other values of counts and hyperparameters: those that stand on a device. `watching` is whether
        stages may look at what is only for a report. `unsure` says of some parameters, by traced bools, whether they
        move at all.
        """
        builder = CoefficientBuilder(
            self.stages, dispatch, gathered, flat, moving, param_groups, live, watching, unsure
        )
        for k in range(len(self.stages)):
            if not builder.passed(k):
                break
        return builder.result()

    def measured(self, branch: StageProgram) -> list[list[int]]:
        """What the measures of a track read that every step takes, each once: the numbers of the arrays."""
        graphs = distinct(branch, self.sample(branch)).items()
        entries = [(branch.order[k], graph) for k, graph in graphs]
        return [graph.read for entry, graph in entries if entry is None or entry.norm != "nonfinite"]

    def sample(self, branch: StageProgram, t: int = 1, norm: Any = 1.0) -> Coefficients:
        """The coefficients of step `t` if all that is measured were `norm`: for their names and static options."""
        row: list[dict[str, Any]] = []
        for entry in branch.order:
            stage = None if entry is None or entry.norm else self.stages[entry.stage]
            if stage is None:
                row.append({})
                continue
            more: dict[str, Any] = {**stage.scalars, **dict.fromkeys(stage.totals, norm)}
            more |= {} if stage.measure is None else {"norm": norm}
            more |= {**dict.fromkeys(stage.norms, norm), "size": 1} if stage.norms else {}
            row.append(stage._coefficients(t, {**stage._values(t, {}), **more}))
        return tuple(row)
