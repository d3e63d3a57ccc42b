"""Optax's state in the middle of training, loaded into an optimizer here and made from one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from anyoptim._arrays import library
from anyoptim._arrays._tree import Tree
from anyoptim._core._optimizer import Optimizer
from anyoptim.compat._transfer import (
    SlotKey,
    StateByPath,
    leaves_by_path,
    load_state,
    slot_shapes,
    state_by_path,
    to_numpy,
)

__all__ = ["from_optax", "to_optax"]


@dataclass(frozen=True)
class Kept:
    """One of optax's states, and where its fields stand in a stage here."""

    state: str
    """The name of its class."""
    slots: Mapping[str, str]
    """The names of our slots by those of its fields."""
    count: str | None = None
    """The field that counts the steps."""
    first: int = 0
    """The value of that field before the first step."""
    scalars: Mapping[str, str] = field(default_factory=dict)
    """The names of our scalars by those of its fields."""
    factor: Callable[[Any], float] = lambda _: 1.0
    """The factor of our slots over its fields, given such a state."""


_ADAM = Kept("ScaleByAdamState", {"mu": "m", "nu": "v"}, "count")
_AMSGRAD = Kept("ScaleByAmsgradState", {"mu": "m", "nu": "v", "nu_max": "u"}, "count")
_BELIEF = Kept("ScaleByBeliefState", {"mu": "m", "nu": "s"}, "count")
_RSS = Kept("ScaleByRssState", {"sum_of_squares": "h"})
_RMS = Kept("ScaleByRmsState", {"nu": "h"})
_STDDEV = Kept("ScaleByRStdDevState", {"mu": "m", "nu": "s"})
_EMA = Kept("EmaState", {"ema": "m"}, "count")
_MUON = Kept("MuonState", {"mu": "m"}, "count")
_FREE = Kept("ScheduleFreeState", {"z": "z"}, "step_count", 1, {"weight_sum": "weight", "max_lr": "highest"})

_STEPS = Kept("MultiStepsState", {"acc_grads": "total"}, "gradient_step", scalars={"mini_step": "gathered"})


def _trace(slot: str, factor: float = 1.0) -> Kept:
    return Kept("TraceState", {"trace": slot}, factor=lambda _: factor)


KEPT: Mapping[str, tuple[Kept, ...]] = {
    **dict.fromkeys(("Adam", "AdamW", "NAdam", "RAdam", "NesterovRAdam", "OptaxYogi"), (_ADAM,)),
    "Adamax": (replace(_ADAM, slots={"mu": "m", "nu": "u"}),),
    **dict.fromkeys(("AMSGrad", "CorrectedAMSGrad"), (_AMSGRAD,)),
    **dict.fromkeys(("AdaBelief", "NesterovAdaBelief"), (_BELIEF,)),
    "OptaxAdan": (Kept("ScaleByAdanState", {"m": "m", "v": "v", "n": "n", "g": "h"}, "t"),),
    **dict.fromkeys(("AdaGrad", "OptaxAdaGrad"), (_RSS,)),
    "AdaDelta": (Kept("ScaleByAdaDeltaState", {"e_g": "h", "e_x": "s"}),),
    **dict.fromkeys(("RMSProp", "OptaxRMSProp"), (_RMS,)),
    "CorrectedRMSProp": (replace(_RMS, state="ScaleByRmsWithCountState", count="count"),),
    **dict.fromkeys(("CenteredRMSProp", "OptaxCenteredRMSProp"), (_STDDEV,)),
    "CorrectedCenteredRMSProp": (replace(_STDDEV, state="ScaleByRStdDevWithCountState", count="count"),),
    "Lion": (Kept("ScaleByLionState", {"mu": "m"}, "count"),),
    **dict.fromkeys(("Signum", "Mean", "CorrectedMean"), (_EMA,)),
    "OptaxRprop": (Kept("ScaleByRpropState", {"step_sizes": "s", "prev_updates": "d"}),),
    **dict.fromkeys(("HeavyBall", "HeavyBallNesterov", "Trace", "NesterovTrace"), (_trace("b"),)),
    **dict.fromkeys(("Momentum", "Nesterov"), (_trace("v"),)),  # both keep what is added
    **dict.fromkeys(("StepTrace", "NesterovStepTrace"), (_trace("b", -1.0),)),
    "FactoredRMS": (Kept("FactoredState", {"v_row": "row", "v_col": "column", "v": "v"}, "count"),),
    **dict.fromkeys(("OptaxMuon", "OptaxNesterovMuon", "OptaxAdaptiveMuon", "OptaxAdaptiveNesterovMuon"), (_MUON,)),
    "OptaxScheduleFreeSGD": (_FREE,),
    "OptaxScheduleFreeAdamW": (_FREE, Kept("ScaleByRmsWithCountState", {"nu": "v"}, "count")),
    "Accumulate": (replace(_STEPS, factor=lambda state: float(state.mini_step)),),  # a mean there, a sum here
    "SumAccumulate": (_STEPS,),
    "SkipNonFinite": (
        Kept("ApplyIfFiniteState", {}, scalars={"total_notfinite": "skipped", "notfinite_count": "consecutive"}),
    ),
}
"""Optax's states for each class of stages, in the order in which they are met."""

COUNTS = {"ScaleByScheduleState", "WeightDecaySchedule"}
"""The states that only count the steps."""

WITHIN = {
    "MaskedState": "inner_state",
    "PartitionState": "inner_states",
    "ScheduleFreeState": "base_optimizer_state",
    "MultiStepsState": "inner_opt_state",
    "ApplyIfFiniteState": "inner_state",
}
"""The field with the inner states, by the name of the outer one's class."""

ORDER = ("muon", "adam")
"""The order of the parts of optax's Muon, which `jax.jit` sorts by name."""


def _name(state: Any) -> str:
    return type(state).__name__ if isinstance(state, tuple) and hasattr(state, "_fields") else ""


def _rebuilt(state: Any, make: Callable[[Any], Any]) -> Any:
    """The state with each part that keeps something replaced by `make` of it, from the outside in."""
    name = _name(state)
    if name in WITHIN:
        if name not in {"MaskedState", "PartitionState"}:
            state = make(state)
        return state._replace(**{WITHIN[name]: _rebuilt(getattr(state, WITHIN[name]), make)})
    if isinstance(state, Mapping):
        first = [key for key in ORDER if key in state]
        made = {key: _rebuilt(state[key], make) for key in [*first, *(key for key in state if key not in first)]}
        return {key: made[key] for key in state}
    if name:
        return make(state) if state._fields else state
    if isinstance(state, tuple | list):
        return type(state)([_rebuilt(one, make) for one in state])
    raise TypeError(f"opt_state has {state!r}; wanted the state of optax's transformations")


def _plan(optimizer: Optimizer) -> Iterator[tuple[int, Kept]]:
    """The states that optax has for each stage. Raises ValueError for a stage that optax has none for."""
    for k, stage in enumerate(optimizer.stages):
        kept = KEPT.get(type(stage).__name__, ())
        if not kept and (stage.slots or stage.scalars):
            raise ValueError(f"{stage!r} has no place in a state of optax")
        yield from ((k, one) for one in kept)


_Match = tuple[int | None, Kept | None, Any]


def _matched(optimizer: Optimizer, opt_state: Any) -> list[_Match]:
    """Each of optax's states that keeps something, with the index of its stage; None for those that only count."""
    expected = [*_plan(optimizer)]
    matched: list[_Match] = []

    def match(state: Any) -> Any:
        if _name(state) in COUNTS:
            matched.append((None, None, state))
            return state
        k, kept = expected.pop(0) if expected else (None, None)
        if k is None or kept is None:
            raise ValueError(f"opt_state has a {_name(state)}, for which {optimizer!r} has no stage")
        if kept.state != _name(state):
            raise ValueError(f"opt_state has a {_name(state)}; wanted a {kept.state}, of {optimizer.stages[k]!r}")
        matched.append((k, kept, state))
        return state

    _rebuilt(opt_state, match)
    for k, kept in expected:
        raise ValueError(f"opt_state has no {kept.state}; wanted one, of {optimizer.stages[k]!r}")
    return matched


def from_optax(opt_state: Any, optimizer: Optimizer, params: Any, *, step: int | None = None) -> None:
    """Have an optimizer go on from a state of optax, in the middle of training.

    ::

        optimizer = ao.compat.optax.adamw(schedule, mask=mask)
        ao.compat.optax.from_optax(opt_state, optimizer, params)
        optimizer.update(params, grads)

    Args:
        opt_state: of the transformation of the same name and options, of `optax`.
        optimizer: made by `ao.compat.optax`, or of the same stages. What it remembers is replaced.
        params: the parameters, of any library, in containers like those that optax was given.
        step: how many steps were taken, where `opt_state` does not count them (that of `optax.sgd` with a number as
            its learning rate, for one). None stands for what it counts, or for none.

    Raises TypeError and ValueError for states of other stages, parameters or shapes, before anything is replaced.

    >>> import optax
    >>> params, theirs, ours = {"w": np.ones(2)}, optax.adam(0.1), ao.compat.optax.adam(0.1)
    >>> _, state = theirs.update({"w": np.ones(2)}, theirs.init(params))
    >>> ao.compat.optax.from_optax(state, ours, params)
    >>> ours.state.step
    1
    """
    shapes = slot_shapes(optimizer, params)
    counts: dict[str, int] = {} if step is None else {"step": int(step)}
    scalars: dict[int, dict[str, float]] = {}
    slots: dict[SlotKey, dict[str, Any]] = {}
    for k, kept, state in _matched(optimizer, opt_state):
        if k is None or kept is None:
            counts[f"{_name(state)}.count"] = int(state.count)
            continue
        if kept.count is not None:
            counts[f"{kept.state}.{kept.count}"] = int(getattr(state, kept.count)) - kept.first
        scalars.setdefault(k, {}).update({ours: float(getattr(state, theirs)) for theirs, ours in kept.scalars.items()})
        for theirs, ours in kept.slots.items():
            leaves = leaves_by_path(theirs, getattr(state, theirs))
            slots[k, ours] = _arrays(f"{kept.state}.{theirs}", leaves, shapes[k, ours], kept.factor(state))
    if len({*counts.values()}) > 1:
        raise ValueError(f"opt_state counts different steps: {counts}; wanted one count")
    load_state(optimizer, params, next(iter(counts.values()), 0), scalars, slots)


def _arrays(
    name: str, leaves: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], factor: float
) -> dict[str, np.ndarray[Any, Any]]:
    """The leaves as arrays for slots of these shapes. Raises ValueError for paths and shapes that differ."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for path, shape in shapes.items():
        if path not in leaves:
            raise ValueError(f"{name} has nothing for params at {path!r}")
        a = to_numpy(leaves[path])
        if shape == (0,) != a.shape:
            a = np.zeros(shape, a.dtype)  # a slot that Adafactor does without has the shape (1,) in optax
        if a.shape != shape:
            raise ValueError(f"{name} has shape {a.shape} for {path!r}; wanted {shape}")
        arrays[path] = a if factor == 1 else factor * a
    if unknown := [path for path in leaves if path not in shapes]:
        raise ValueError(f"{name} has {unknown[0]!r}, for which params has nothing")
    return arrays


def to_optax(optimizer: Optimizer, opt_state: Any) -> Any:
    """The state of an optimizer as one of optax's: one like `opt_state`, such as `transform.init(params)` gives.

    Its arrays have the dtypes of those there, and lie where they do. Raises ValueError and TypeError for states of
    other stages, parameters or shapes.

    >>> import optax
    >>> params, theirs, ours = {"w": np.ones(2)}, optax.adam(0.1), ao.compat.optax.adam(0.1)
    >>> params = ours.update(params, {"w": np.ones(2)})
    >>> int(ao.compat.optax.to_optax(ours, theirs.init(params))[0].count)
    1
    """
    ours = state_by_path(optimizer)
    t = ours.count("optax")
    matched = iter(_matched(optimizer, opt_state))
    return _rebuilt(opt_state, lambda _: _with_ours(ours, t, *next(matched)))


def _with_ours(ours: StateByPath, t: int, k: int | None, kept: Kept | None, state: Any) -> Any:
    """One of optax's states with our values in its fields."""
    if k is None or kept is None:
        return state._replace(count=_like(np.asarray(ours.step), state.count))
    scalars = {theirs: ours.scalars[k][name] for theirs, name in kept.scalars.items()}
    if kept.count is not None:
        scalars[kept.count] = t + kept.first
    state = state._replace(**{name: _like(np.asarray(n), getattr(state, name)) for name, n in scalars.items()})
    factor = kept.factor(state)
    return state._replace(
        **{
            theirs: _filled(f"{kept.state}.{theirs}", getattr(state, theirs), ours.slots[k, name], factor)
            for theirs, name in kept.slots.items()
        }
    )


def _filled(name: str, container: Any, slots: Mapping[str, Any], factor: float) -> Any:
    """The container with our slots as its leaves."""
    tree = Tree(name, container)
    paths = {tree.path(i): i for i, leaf in enumerate(tree.leaves) if leaf is not None}
    if {*paths} != {*slots}:
        odd = min({*paths} ^ {*slots})
        raise ValueError(f"{name} and the optimizer have different parameters: {odd!r} is of one of them alone")
    leaves = list(tree.leaves)
    for path, i in paths.items():
        a, shape = to_numpy(slots[path]), tuple(leaves[i].shape)
        if a.shape == (0,) != shape:
            a = np.zeros(shape, a.dtype)
        if a.shape != shape:
            raise ValueError(f"{name} has shape {shape} for {path!r}; the optimizer has {a.shape}")
        leaves[i] = _like(a / factor if factor else 0 * a, leaves[i])
    return tree.build(leaves)


def _like(a: np.ndarray[Any, Any], leaf: Any) -> Any:
    """The values of `a` as an array of the leaf's library, dtype and device; as a number, if the leaf is one."""
    if not hasattr(leaf, "dtype"):
        return type(leaf)(a)
    arrays = library(leaf)
    return arrays.sharded_like(arrays.from_host(np.array(a), leaf), leaf)
