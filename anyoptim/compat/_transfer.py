"""What an optimizer remembers, taken out by the paths of parameters and put in from elsewhere, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import COMPUTE, Array, library
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._tree import Tree
from anyoptim._core._optimizer import Optimizer
from anyoptim.optimizers import CenteredRMSProp

__all__ = ["Remembered", "Slot", "by_path", "central", "host", "load", "raw", "remembered", "wanted"]

Slot = tuple[int, str]
"""Of which stage, and its name."""


class Remembered(NamedTuple):
    """The state of an optimizer."""

    step: int
    t: Mapping[str, int]
    """Of each parameter, by its path."""
    scalars: Sequence[Mapping[str, float]]
    """Of each stage."""
    slots: Mapping[Slot, Mapping[str, Array]]


def by_path(name: str, container: Any) -> dict[str, Any]:
    """The leaves of a container by their paths, None left out."""
    tree = Tree(name, container)
    return {tree.path(i): leaf for i, leaf in enumerate(tree.leaves) if leaf is not None}


def remembered(optimizer: Optimizer) -> Remembered:
    """What `update` left. Raises ValueError before the first one."""
    state = optimizer.state
    if state is None:
        raise ValueError(f"{optimizer!r} has taken no step; wanted one that has a state")
    stages = optimizer.stages
    nested = isinstance(state.slots, tuple)
    slots = state.slots if nested else (state.slots,)
    scalars = state.scalars if nested else (state.scalars,)
    found = {(k, name): by_path(name, slots[k][name]) for k, stage in enumerate(stages) for name in stage.slots}
    for k in _centered(optimizer):
        found[k, "s"] = {path: raw(s, found[k, "m"][path]) for path, s in found[k, "s"].items()}
    return Remembered(
        int(state.step),
        {path: int(t) for path, t in by_path("t", state.t).items()},
        [dict(of) for of in scalars] or [{}] * len(stages),
        found,
    )


def _centered(optimizer: Optimizer) -> list[int]:
    """The stages that keep a variance, where frameworks keep a mean square."""
    return [k for k, stage in enumerate(optimizer.stages) if isinstance(stage, CenteredRMSProp)]


def raw(variance: Array, mean: Array) -> Array:
    """The mean square; of a complex parameter, which is two reals, that of each."""
    return _by_parts(lambda s, m: s + m * m, variance, mean)


def central(square: Array, mean: Array) -> Array:
    """The variance, likewise, which rounding does not take below 0."""
    return _by_parts(lambda h, m: (h - m * m) * (h > m * m), square, mean)


def _by_parts(call: Callable[[Array, Array], Array], a: Array, b: Array) -> Array:
    here, xp = library(a), library(a).xp
    if not here.dtype(a).startswith("complex"):
        return call(a, b)
    return here.join_complex(call(xp.real(a), xp.real(b)), call(xp.imag(a), xp.imag(b)), a.dtype)


def wanted(optimizer: Optimizer, params: Any) -> dict[Slot, dict[str, tuple[int, ...]]]:
    """The slots that these parameters have, by path their shapes. Raises like `update`."""
    slots = optimizer.init(params).slots
    of = slots if isinstance(slots, tuple) else (slots,)
    return {
        (k, name): {path: tuple(slot.shape) for path, slot in by_path(name, of[k][name]).items()}
        for k, stage in enumerate(optimizer.stages)
        for name in stage.slots
    }


def host(x: Any) -> np.ndarray[Any, Any]:
    """The values as a NumPy array of float32 or wider."""
    a = np.asarray(x) if isinstance(x, np.ndarray | float | int) else library(x).to_host(x)
    return a if a.dtype.kind in "fc" and a.dtype.itemsize > 2 else a.astype(np.float32)


def load(
    optimizer: Optimizer,
    params: Any,
    step: int,
    scalars: Mapping[int, Mapping[str, float]],
    slots: Mapping[Slot, Mapping[str, Any]],
) -> None:
    """Have the optimizer go on from here. Raises like `load_state_dict`, before anything is replaced."""
    tree = Tree("params", params)
    ps = checks.parameters(tree)
    dtypes = {tree.path(i): COMPUTE[p.dtype] for i, p in enumerate(ps) if p is not None}
    state = optimizer.state_dict()
    state["step"], state["t"] = step, dict.fromkeys(dtypes, step)
    if "gathered" in (first := scalars.get(0, {})):
        state["pending"] = dict.fromkeys(dtypes, int(first["gathered"]))
    for k, stage in enumerate(state["stages"]):
        stage["scalars"] |= scalars.get(k, {})
        stage["slots"] = {
            name: {path: np.asarray(a, dtype=dtypes[path]) for path, a in slots[k, name].items()}
            for name in stage["slots"]
        }
    for k in _centered(optimizer):
        of = state["stages"][k]["slots"]
        of["s"] = {path: central(h, of["m"][path]) for path, h in of["s"].items()}
    optimizer.load_state_dict(state, params)
