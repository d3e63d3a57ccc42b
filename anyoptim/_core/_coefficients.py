"""The coefficients of a step, which are computed on the host, stage by stage, before anything is written."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple, Protocol

from anyoptim._arrays import COMPUTE, library
from anyoptim._arrays._tree import Tree
from anyoptim._core._reductions import Reductions
from anyoptim._engines import CoefficientTable, Dispatch
from anyoptim._machine._ranks import Meeting
from anyoptim._stage._param_groups import ParamGroups
from anyoptim._stage._planned_rows import FLOAT32
from anyoptim._stage._stage import Gate, Stage
from anyoptim._stage._stage_program import Entry
from anyoptim._stage._state import FlatState
from anyoptim._trace._expressions import range_of
from anyoptim._trace._hyperparameters import Hyper
from anyoptim._trace._operations import LOGICAL
from anyoptim._trace._program import Coefficients
from anyoptim._trace._reductions import Norm
from anyoptim._trace._scalars import finite, following, where
from anyoptim._trace._symbols import Symbol

__all__ = ["CoefficientBuilder", "DeviceValues", "StepCoefficients", "check_skips"]


class DeviceValues(Protocol):
    """Stand-ins for step counts and hyperparameters whose values are on a device."""

    def count(self, n: int) -> Any: ...
    def values(self, k: int, values: Mapping[str, Any], own: Mapping[str, Hyper]) -> dict[str, Any]: ...


class StepCoefficients(NamedTuple):
    """What is known of a step before it is taken."""

    rows: CoefficientTable
    """The coefficients of each parameter that moves."""
    t: list[Any]
    """The step count of each parameter after the step."""
    scalars: tuple[Mapping[str, Any], ...]
    """The scalars of each stage after the step, if it is taken."""
    kept: tuple[Mapping[str, Any], ...]
    """The scalars of each stage if the step is called off: new for the gates up to the one that did it, and for the
    count of gathered gradients."""
    taken: Any
    """Whether the step is taken: a bool, or a traced one."""
    refusal: tuple[int, int] | None
    """Which stage called the step off, and the parameter for which it did."""
    exhausted: bool
    """Whether more steps in a row were called off than the gate allows."""
    metrics: Mapping[int, tuple[list[int], Mapping[str, list[Any]]]]
    """For each stage that reports, the parameters that it saw and the values of each."""


class _Key(NamedTuple):
    """What parameters with the same coefficients have in common."""

    t: Any
    group: int
    leaf: int
    """The place of a leaf that has a row of coefficients to itself; otherwise -1."""


class CoefficientBuilder:
    """Computes the coefficients of one step.

    One stage comes after the other, since a reduction may be of what those before it make of the gradient.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        dispatch: Dispatch,
        gathered: Sequence[Any],
        flat: FlatState,
        moving: Sequence[int],
        groups: ParamGroups,
        device_values: DeviceValues | None,
        with_metrics: bool,
        unsure: Mapping[int, Any],
        meeting: Meeting,
    ) -> None:
        self._stages, self._dispatch, self._moving, self._device_values = stages, dispatch, moving, device_values
        self._with_metrics = with_metrics
        self._metrics: dict[int, tuple[list[int], dict[str, list[Any]]]] = {}
        self._step = following(flat.step)
        self._t = list(flat.t)
        for i in moving:
            n = self._t[i]
            self._t[i] = n + 1 if type(n) is int else following(n)  # there may be thousands
        self._keys, row_of_leaf = _keys([self._t[i] for i in moving], moving, groups)
        self._branches = [groups.branches[key.group] for key in self._keys]
        self._distinct: list[Coefficients] = [() for _ in self._keys]
        self._row_of_leaf = row_of_leaf
        self._rows = CoefficientTable(self._distinct, row_of_leaf[: len(dispatch.leaves)])
        self._values = [self._values_of(overrides) for overrides in groups.overrides]
        self._check_rates(groups)
        for values, branch in zip(self._values, groups.branches, strict=True):
            for k, of in branch.lenders.items():
                values[k] = {**values[k], **{name: values[j][name] for name, j in of.items()}}
        if not isinstance(self._step, int):
            # Under `jax.jit` they meet 0-d arrays, in whose dtype a small eps would become 0.
            fitted = range_of(library(self._step).widest_float(), normal=True).fitted
            self._values = [
                [{name: fitted(v) if type(v) is float else v for name, v in values.items()} for values in of_group]
                for of_group in self._values
            ]
        self._scalars, self._kept = list(flat.scalars), list(flat.scalars)
        # A step needs a parameter that moves, and no gate is asked without one.
        self._taken: Any = True if len(unsure) < len(moving) else reduce(operator.or_, unsure.values())
        self._refusal: tuple[int, int] | None = None
        self._exhausted = False
        parts = {j: unsure[i] for j, i in enumerate(moving) if i in unsure}
        self._reductions = Reductions(dispatch, gathered, self._rows, self._branches, parts, meeting)

    def _check_rates(self, groups: ParamGroups) -> None:
        """Raise ValueError for a learning rate that the arithmetic of its parameter can't hold."""
        for r, (key, branch) in enumerate(zip(self._keys, self._branches, strict=True)):
            rates = [rate for k in branch.stages if type(rate := self._values[key.group][k].get("lr")) is float]
            if rates and max(rates) > FLOAT32.largest:
                for j, leaf in enumerate(self._dispatch.leaves):
                    dtype = leaf.library.dtype(leaf.p)
                    if self._rows.row_of_leaf[j] == r and COMPUTE[dtype] in {"float32", "complex64"}:
                        raise ValueError(
                            f"lr is {max(rates)}; wanted at most {FLOAT32.largest:.8g}, the largest number of float32, "
                            f"in which params at {groups.path(self._moving[j])!r}, of dtype {dtype}, are updated"
                        )

    def add_stage(self, k: int) -> bool:
        """Compute the coefficients of stage `k`. Returns False if the stage calls the step off."""
        stage, entry = self._stages[k], Entry(k, "")
        own_rows = [r for r, branch in enumerate(self._branches) if k in branch.stages]
        for r in own_rows:
            self._distinct[r] = self._branches[r].filled(self._distinct[r], entry)
        asked = stage.reductions
        on_device = all(isinstance(of, Norm) and of.over == "all" for of in asked.values())
        if self._device_values is not None and (
            isinstance(stage, Gate) or stage.scalars or stage.metrics or not on_device
        ):
            raise TypeError(f"{stage!r} needs the host at every step")
        if stage.metrics and self._with_metrics:
            self._report(k)
        shared: dict[str, Any] = {}
        of_leaves: dict[str, list[Any]] = {}
        if not isinstance(stage, Gate):
            value = self._reductions.known if stage.scalars else self._reductions.all
            for name, of in asked.items():
                if of.over == "each":
                    of_leaves[name] = self._reductions.each(Entry(k, name), of)
                else:
                    shared[name] = value(Entry(k, name), of)
            if stage.scalars:
                self._scalars[k] = stage._updated_scalars(self._step, self._scalars[k], shared)
                if stage.is_step is not None:
                    self._kept[k] = self._scalars[k]
        shared.update(self._scalars[k])
        for r in own_rows:
            more, leaf = shared, self._keys[r].leaf
            if of_leaves:
                more = {**shared, **{name: values[leaf] for name, values in of_leaves.items()}}
            self._distinct[r] = (*self._distinct[r], self._coefficients(k, self._keys[r], more))
        return not isinstance(stage, Gate) or self._allows(k, stage, own_rows)

    def result(self) -> StepCoefficients:
        """All that the stages added."""
        both = zip(self._distinct, self._branches, strict=True)
        full: list[Coefficients] = [(*row, *({},) * (len(branch.order) - len(row))) for row, branch in both]
        rows = CoefficientTable(full, self._row_of_leaf)
        scalars, kept = tuple(self._scalars), tuple(self._kept)
        return StepCoefficients(
            rows, self._t, scalars, kept, self._taken, self._refusal, self._exhausted, self._metrics
        )

    def _report(self, k: int) -> None:
        metrics: dict[str, list[Any]] = {}
        asked = self._stages[k].metrics
        for name, of in asked.items():
            # Where all norms are finite nothing needs to be counted.
            norms = [values for before, values in metrics.items() if isinstance(asked[before], Norm)]
            clean = name == "nonfinite" and norms and all(map(finite, itertools.chain(*norms)))
            metrics[name] = [0.0] * len(self._moving) if clean else self._reductions.each(Entry(k, name), of)
        seen = [j for j, r in enumerate(self._rows.row_of_leaf) if k in self._branches[r].stages]
        of_seen = {name: [values[j] for j in seen] for name, values in metrics.items()}
        self._metrics[k] = [self._moving[j] for j in seen], of_seen

    def _allows(self, k: int, gate: Gate, own_rows: Sequence[int]) -> bool:
        """Whether a gate lets the step be taken, as far as that is known; notes what it decides."""
        for r in own_rows:
            self._distinct[r] = self._branches[r].filled(self._distinct[r], Entry(k, "nonfinite"))
        looks = gate.looks
        allowed = finite(self._reductions.known(Entry(k, "norm"), looks["norm"]))
        if allowed is False:
            counts = self._reductions.each(Entry(k, "nonfinite"), looks["nonfinite"])
            self._refusal = next(((k, self._moving[j]) for j, n in enumerate(counts) if n), None)
            allowed = self._refusal is None  # a norm of finite elements can be too large for float64
        old, new = self._scalars[k], gate._updated_scalars(self._step, self._scalars[k], {"allowed": allowed})
        restarted = gate.exhausted(self._step, new) if allowed is False else None
        if restarted is not None:
            self._exhausted, new = True, restarted
        self._scalars[k] = new
        # A gate behind another one that called the step off was not asked.
        self._kept[k] = new if self._taken is True else {n: where(self._taken, new[n], old[n]) for n in new}
        self._taken = allowed if self._taken is True else self._taken & allowed
        return allowed is not False

    def _coefficients(self, k: int, key: _Key, more: Mapping[str, Any]) -> Mapping[str, Any]:
        stage, values = self._stages[k], self._values[key.group][k]
        if more:
            values = {**values, **more}
        count = key.t.t if isinstance(key.t, _TracedCount) else key.t
        if self._device_values is not None:
            count = self._device_values.count(key.t)
        elif symbols := [name for name in more if isinstance(more[name], Symbol)]:
            coefficients = _on_device(stage, count, values)
            if coefficients is not None:
                return coefficients
            # The stage's equation needs the values themselves: the device is waited for.
            values |= {name: self._reductions.known(Entry(k, name), stage.reductions[name]) for name in symbols}
        return stage._coefficients(count, values)

    def _values_of(self, overrides: Sequence[Mapping[str, Hyper]]) -> list[dict[str, Any]]:
        """The hyperparameters of each stage at this step."""
        both = zip(self._stages, overrides, strict=True)
        values = [stage._values(self._step, own) for stage, own in both]
        if self._device_values is not None:
            each = zip(values, overrides, strict=True)
            values = [self._device_values.values(k, of_stage, own) for k, (of_stage, own) in enumerate(each)]
        return values


def check_skips(stages: Sequence[Stage], coefficients: StepCoefficients, tree: Tree) -> None:
    """Raise FloatingPointError for a step that was called off after as many others as its gate allows in a row."""
    if coefficients.taken is False and coefficients.exhausted and coefficients.refusal is not None:
        k, i = coefficients.refusal
        raise FloatingPointError(
            f"what {stages[k]!r} is given for {tree.name(i)} is not finite, at more updates in a row than it skips; "
            "wanted finite gradients (a smaller learning rate, or loss scale), or a larger max_consecutive_skips"
        )


def _keys(counts: Sequence[Any], moving: Sequence[int], groups: ParamGroups) -> tuple[list[_Key], list[int]]:
    """The distinct keys of the parameters that move, and for each parameter the place of its key."""
    one = len(groups.overrides) == 1 and not groups.branches[0].own_rows
    if one and {*map(type, counts)} == {int} and counts.count(counts[0]) == len(counts):
        return [_Key(counts[0], 0, -1)], [0] * len(counts)  # nearly always: all parameters share one row
    keys = []
    for j, (n, i) in enumerate(zip(counts, moving, strict=True)):
        group = groups.group_of[i]
        count = n if isinstance(n, int) else _TracedCount(n)
        keys.append(_Key(count, group, j if groups.branches[group].own_rows else -1))
    places = {key: r for r, key in enumerate(dict.fromkeys(keys))}
    return list(places), [places[key] for key in keys]


def _on_device(stage: Stage, count: Any, values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The coefficients with a norm that stays on the device, if they are no more than arithmetic; otherwise None."""
    try:
        coefficients = stage._coefficients(count, values)
    except TypeError:
        return None
    # A comparison would be a static option of the kernel.
    truths = [c for c in coefficients.values() if isinstance(c, Symbol) and c.scalar.op in LOGICAL]
    return None if truths else coefficients


class _TracedCount:
    """A step count under `jax.jit`, which equals no other."""

    def __init__(self, t: Any) -> None:
        self.t = t
