"""What a step needs to know before it is taken, found out stage by stage."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple, Protocol

from anyoptim._arrays import COMPUTE, library
from anyoptim._arrays._tree import Tree
from anyoptim._core._measures import Measures
from anyoptim._core._param_groups import ParamGroups
from anyoptim._core._stage import Gate, Stage
from anyoptim._core._stage_program import Entry
from anyoptim._core._state import FlatState
from anyoptim._engines import CoefficientTable, Dispatch
from anyoptim._trace._expressions import range_of
from anyoptim._trace._hyperparameters import Hyper
from anyoptim._trace._operations import LOGICAL
from anyoptim._trace._program import Coefficients
from anyoptim._trace._scalars import finite, following, where
from anyoptim._trace._symbols import Symbol

__all__ = ["FLOAT32", "CoefficientBuilder", "Live", "StepCoefficients", "given_up"]


class Live(Protocol):
    """What stands for counts and hyperparameters whose values are on a device."""

    def count(self, n: int) -> Any: ...
    def values(self, k: int, values: Mapping[str, Any], own: Mapping[str, Hyper]) -> dict[str, Any]: ...


class StepCoefficients(NamedTuple):
    """What is known of a step before it is taken."""

    rows: CoefficientTable
    """The coefficients, for each parameter that moves."""
    t: list[Any]
    """The step counts after it."""
    scalars: tuple[Mapping[str, Any], ...]
    """Those of each stage after it, if it is taken."""
    kept: tuple[Mapping[str, Any], ...]
    """And if it is not: those of gates up to the one that called it off are new, and the count of gradients."""
    taken: Any
    """Whether it is taken: a bool, or one that is not known yet."""
    refusal: tuple[int, int] | None
    """If not: which stage called it off, and for which leaf."""
    exhausted: bool
    """Whether that was one time too many."""
    metrics: Mapping[int, tuple[list[int], Mapping[str, list[Any]]]]
    """For each stage that watches, which leaves it saw, and what of each."""


class _Key(NamedTuple):
    """What parameters with one row of coefficients have in common."""

    t: Any
    group: int
    leaf: int
    """Which it is, for rows of its own; else -1."""


FLOAT32 = range_of("float32")


class CoefficientBuilder:
    """A step that is found out about."""

    def __init__(
        self,
        stages: Sequence[Stage],
        dispatch: Dispatch,
        gathered: Sequence[Any],
        flat: FlatState,
        moving: Sequence[int],
        param_groups: ParamGroups,
        live: Live | None,
        watching: bool,
        unsure: Mapping[int, Any],
    ) -> None:
        self._stages, self._dispatch, self._moving, self._live = stages, dispatch, moving, live
        self._watching = watching
        self._watched: dict[int, tuple[list[int], dict[str, list[Any]]]] = {}
        self._step = following(flat.step)
        self._t = list(flat.t)
        for i in moving:
            n = self._t[i]
            self._t[i] = n + 1 if type(n) is int else following(n)  # there may be thousands
        self._keys, which = _keys([self._t[i] for i in moving], moving, param_groups)
        self._branches = [param_groups.branches[key.group] for key in self._keys]
        self._distinct: list[Coefficients] = [() for _ in self._keys]
        self._rows = CoefficientTable(self._distinct, which)
        self._values = [self._values_of(own) for own in param_groups.overrides]
        self._check_rates(param_groups)
        if not isinstance(self._step, int):
            # Under `jax.jit` they meet 0-d arrays, in whose dtype a small eps would become 0.
            fitted = range_of(library(self._step).widest_float(), normal=True).fitted
            self._values = [
                [{name: fitted(v) if type(v) is float else v for name, v in own.items()} for own in of]
                for of in self._values
            ]
        self._scalars, self._kept = list(flat.scalars), list(flat.scalars)
        # It takes one who takes part, and no gate is asked without.
        self._taken: Any = True if len(unsure) < len(moving) else reduce(operator.or_, unsure.values())
        self._refusal: tuple[int, int] | None = None
        self._exhausted = False
        parts = {j: unsure[i] for j, i in enumerate(moving) if i in unsure}
        self._measures = Measures(dispatch, gathered, self._rows, self._branches, parts)

    def _check_rates(self, param_groups: ParamGroups) -> None:
        """Raise ValueError for a learning rate that the arithmetic of its parameter can't hold."""
        for r, (key, branch) in enumerate(zip(self._keys, self._branches, strict=True)):
            rates = [rate for k in branch.of if type(rate := self._values[key.group][k].get("lr")) is float]
            if rates and max(rates) > FLOAT32.largest:
                for j, leaf in enumerate(self._dispatch.leaves):
                    dtype = leaf.library.dtype(leaf.p)
                    if self._rows.row_of_leaf[j] == r and COMPUTE[dtype] in {"float32", "complex64"}:
                        raise ValueError(
                            f"lr is {max(rates)}; wanted at most {FLOAT32.largest:.8g}, the largest number of float32, "
                            f"in which params at {param_groups.path(self._moving[j])!r}, of dtype {dtype}, are updated"
                        )

    def passed(self, k: int) -> bool:
        """Find out what stage `k` needs; False if it calls the step off."""
        stage, rows, here = self._stages[k], self._distinct, Entry(k, "")
        having = [r for r, branch in enumerate(self._branches) if k in branch.of]
        for r in having:
            rows[r] = self._branches[r].filled(rows[r], here)
        if self._live is not None and (
            isinstance(stage, Gate) or stage.scalars or stage.norms or stage.totals or stage.metrics
        ):
            raise TypeError(f"{stage.__repr__()} needs the host at every step")  # of a weak proxy, what it is of
        if stage.metrics and self._watching:
            self._watch(k)
        found: dict[str, Any] = {}
        each: dict[str, Any] = {}
        if not isinstance(stage, Gate):
            each = {name: self._measures.each(Entry(k, name)) for name in stage.norms}
            found = {name: self._measures.known(Entry(k, name)) for name in stage.totals}
            if stage.measure is not None:
                found["norm"] = self._measures.all(here)
            if stage.scalars:
                self._scalars[k] = stage._updated_scalars(self._step, self._scalars[k], found)
                if stage.is_step is not None:
                    self._kept[k] = self._scalars[k]
        found.update(self._scalars[k])
        for r in having:
            leaf = self._keys[r].leaf
            own = {**found, **{name: of[leaf] for name, of in each.items()}} if each else found
            if each:
                own["size"] = self._dispatch.sizes[leaf]
            rows[r] += (self._coefficients(k, self._keys[r], own),)
        return not isinstance(stage, Gate) or self._opened(k, stage, having)

    def result(self) -> StepCoefficients:
        """What was found out."""
        both = zip(self._distinct, self._branches, strict=True)
        full = [row + ({},) * (len(branch.order) - len(row)) for row, branch in both]
        scalars, kept = tuple(self._scalars), tuple(self._kept)
        rows = CoefficientTable(full, self._rows.row_of_leaf)
        return StepCoefficients(
            rows, self._t, scalars, kept, self._taken, self._refusal, self._exhausted, self._watched
        )

    def _watch(self, k: int) -> None:
        measures = self._measures
        found = {name: measures.each(Entry(k, name)) for name in ("norm", "parameter_norm")}
        clean = all(map(finite, found["norm"]))
        found["nonfinite"] = [0.0] * len(found["norm"]) if clean else measures.each(Entry(k, "nonfinite"))
        seen = [j for j, r in enumerate(self._rows.row_of_leaf) if k in self._branches[r].of]
        self._watched[k] = [self._moving[j] for j in seen], {name: [of[j] for j in seen] for name, of in found.items()}

    def _opened(self, k: int, gate: Gate, having: Sequence[int]) -> bool:
        """Whether the step may go on."""
        for r in having:
            self._distinct[r] = self._branches[r].filled(self._distinct[r], Entry(k, "nonfinite"))
        allowed = finite(self._measures.known(Entry(k, "norm")))
        if allowed is False:
            counts = self._measures.each(Entry(k, "nonfinite"))
            self._refusal = next(((k, self._moving[j]) for j, n in enumerate(counts) if n), None)
            allowed = self._refusal is None  # squares can be too large for float64
        old, new = self._scalars[k], gate._updated_scalars(self._step, self._scalars[k], {"allowed": allowed})
        anew = gate.exhausted(self._step, new) if allowed is False else None
        if anew is not None:
            self._exhausted, new = True, anew
        self._scalars[k] = new
        # A gate behind another that called the step off was not asked.
        self._kept[k] = new if self._taken is True else {n: where(self._taken, new[n], old[n]) for n in new}
        self._taken = allowed if self._taken is True else self._taken & allowed
        return allowed is not False

    def _coefficients(self, k: int, key: _Key, more: Mapping[str, Any]) -> Mapping[str, Any]:
        stage, given = self._stages[k], self._values[key.group][k]
        if more:
            given = {**given, **more}
        count = key.t.t if isinstance(key.t, _Unknown) else key.t if self._live is None else self._live.count(key.t)
        if self._live is None and isinstance(more.get("norm"), Symbol):
            found = _on_device(stage, count, given)
            if found is not None:
                return found
            # Its equation needs to see it: the device is waited for.
            given = {**given, "norm": self._measures.known(Entry(k, ""))}
        return stage._coefficients(count, given)

    def _values_of(self, overrides: Sequence[Mapping[str, Hyper]]) -> list[dict[str, Any]]:
        """The hyperparameters of each stage at this step."""
        found = [stage._values(self._step, own) for stage, own in zip(self._stages, overrides, strict=True)]
        if self._live is not None:
            found = [self._live.values(k, v, own) for k, (v, own) in enumerate(zip(found, overrides, strict=True))]
        return found


def given_up(stages: Sequence[Stage], coefficients: StepCoefficients, tree: Tree) -> None:
    """Raise FloatingPointError for a step that was called off when too many before it had been."""
    if coefficients.taken is False and coefficients.exhausted and coefficients.refusal is not None:
        k, i = coefficients.refusal
        raise FloatingPointError(
            f"what {stages[k]!r} is given for {tree.name(i)} is not finite, at more updates in a row than it skips; "
            "wanted finite gradients (a smaller learning rate, or loss scale), or a larger max_consecutive_skips"
        )


def _keys(counts: Sequence[Any], moving: Sequence[int], param_groups: ParamGroups) -> tuple[list[_Key], list[int]]:
    """The kinds of parameters that move, and for each of these the number of its kind."""
    one = len(param_groups.overrides) == 1 and not param_groups.branches[0].each
    if counts and one and type(counts[0]) is int and counts.count(counts[0]) == len(counts):
        return [_Key(counts[0], 0, -1)], [0] * len(counts)  # nearly always: all in one row
    keys = []
    for j, (n, i) in enumerate(zip(counts, moving, strict=True)):
        group = param_groups.of[i]
        keys.append(
            _Key(n if isinstance(n, int) else _Unknown(n), group, j if param_groups.branches[group].each else -1)
        )
    scalars = {key: r for r, key in enumerate(dict.fromkeys(keys))}
    return list(scalars), [scalars[key] for key in keys]


def _on_device(stage: Stage, count: Any, given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The coefficients with a norm that stays on the device, if they are no more than arithmetic; else None."""
    try:
        found = stage._coefficients(count, given)
    except TypeError:
        return None
    # A comparison would be a static option of the kernel.
    truths = [c for c in found.values() if isinstance(c, Symbol) and c.scalar.op in LOGICAL]
    return None if truths else found


class _Unknown:
    """A step count under `jax.jit`, which equals no other."""

    def __init__(self, t: Any) -> None:
        self.t = t
