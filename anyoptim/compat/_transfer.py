"""The state of an optimizer by the paths of parameters: read from one, and loaded into one, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import Array, library, slot_dtype
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._tree import Tree
from anyoptim._core._optimizer import Optimizer
from anyoptim.optimizers import CenteredRMSProp

__all__ = [
    "SlotKey",
    "StateByPath",
    "leaves_by_path",
    "load_state",
    "mean_square",
    "one_count",
    "slot_shapes",
    "state_by_path",
    "to_numpy",
    "variance",
]

SlotKey = tuple[int, str]
"""The index of a stage, and the name of one of its slots."""


class StateByPath(NamedTuple):
    """The state of an optimizer; of what each parameter has one, by its path."""

    step: int
    t: Mapping[str, int]
    """The number of steps that each parameter has taken."""
    scalars: Sequence[Mapping[str, float]]
    """The scalars of each stage."""
    slots: Mapping[SlotKey, Mapping[str, Array]]

    def count(self, framework: str) -> int:
        """The number of steps that every parameter has taken. Raises ValueError where that is not one number."""
        if len({*self.t.values()}) > 1:
            raise ValueError(
                f"the parameters have taken different numbers of steps, {dict(self.t)}; {framework} has one count"
            )
        return next(iter(self.t.values()), self.step)


def leaves_by_path(name: str, container: Any) -> dict[str, Any]:
    """The leaves of a container by their paths, None left out."""
    tree = Tree(name, container)
    return {tree.path(i): leaf for i, leaf in enumerate(tree.leaves) if leaf is not None}


def state_by_path(optimizer: Optimizer) -> StateByPath:
    """The state that the last `update` left. Raises ValueError before the first one."""
    state = optimizer.state
    if state is None:
        raise ValueError(f"{optimizer!r} has taken no step; wanted one that has a state")
    scalars = state.scalars if isinstance(state.slots, tuple) else (state.scalars,)
    slots = _slots_by_path(optimizer, state)
    for k in _centered(optimizer):
        slots[k, "s"] = {path: mean_square(s, slots[k, "m"][path]) for path, s in slots[k, "s"].items()}
    return StateByPath(
        int(state.step),
        {path: one_count(path, t) for path, t in leaves_by_path("t", state.t).items()},
        [dict(numbers) for numbers in scalars] or [{}] * len(optimizer.stages),
        slots,
    )


def one_count(path: str, t: Any) -> int:
    """The count of a parameter. Raises ValueError where its rows have counts of their own, which no framework has."""
    if isinstance(t, np.ndarray) and t.ndim:
        raise ValueError(
            f"the rows of {path!r} have taken {t.min()} to {t.max()} steps by update(at=...); frameworks have one count"
        )
    return int(t)


def slot_shapes(optimizer: Optimizer, params: Any) -> dict[SlotKey, dict[str, tuple[int, ...]]]:
    """The shapes of the slots that these parameters have, by path. Raises like `update`."""
    slots = _slots_by_path(optimizer, optimizer.init(params))
    return {key: {path: tuple(slot.shape) for path, slot in leaves.items()} for key, leaves in slots.items()}


def _slots_by_path(optimizer: Optimizer, state: Any) -> dict[SlotKey, dict[str, Array]]:
    slots = state.slots if isinstance(state.slots, tuple) else (state.slots,)
    return {
        (k, name): leaves_by_path(name, slots[k][name])
        for k, stage in enumerate(optimizer.stages)
        for name in stage.slots
    }


def _centered(optimizer: Optimizer) -> list[int]:
    """The indices of the stages that keep a variance, where frameworks keep a mean square."""
    return [k for k, stage in enumerate(optimizer.stages) if isinstance(stage, CenteredRMSProp)]


def mean_square(s: Array, m: Array) -> Array:
    """The mean square, given the variance and the mean; a complex parameter is two reals, or one if the variance is."""
    return _of_reals(lambda s, square: s + square, s, m)


def variance(h: Array, m: Array) -> Array:
    """The variance, given the mean square and the mean: at least 0, whatever rounding does."""
    return _of_reals(lambda h, square: (h - square) * (h > square), h, m)


def _of_reals(function: Callable[[Array, Array], Array], a: Array, m: Array) -> Array:
    """A function of `a` and the square of m, two real arrays, or of both parts of complex ones, each by itself."""
    arrays, xp = library(a), library(a).xp
    if not arrays.dtype(m).startswith("complex"):
        return function(a, m * m)
    re, im = xp.real(m), xp.imag(m)
    if not arrays.dtype(a).startswith("complex"):
        return function(a, re * re + im * im)
    return arrays.join_complex(function(xp.real(a), re * re), function(xp.imag(a), im * im), a.dtype)


def to_numpy(x: Any) -> np.ndarray[Any, Any]:
    """The values as a NumPy array of float32 or wider."""
    a = np.asarray(x) if isinstance(x, np.ndarray | float | int) else library(x).to_host(x)
    return a if a.dtype.kind in "fc" and a.dtype.itemsize > 2 else a.astype(np.float32)


def load_state(
    optimizer: Optimizer,
    params: Any,
    step: int,
    scalars: Mapping[int, Mapping[str, float]],
    slots: Mapping[SlotKey, Mapping[str, Any]],
) -> None:
    """Have the optimizer go on from here. Raises like `load_state_dict`, before anything is replaced."""
    tree = Tree("params", params)
    ps = checks.parameters(tree)
    dtypes = {tree.path(i): p.dtype for i, p in enumerate(ps) if p is not None}
    state = optimizer.state_dict()
    state["step"], state["t"] = step, dict.fromkeys(dtypes, step)
    if "gathered" in (first := scalars.get(0, {})):
        state["pending"] = dict.fromkeys(dtypes, int(first["gathered"]))
    for k, stage in enumerate(state["stages"]):
        stage["scalars"] |= scalars.get(k, {})
        for name in stage["slots"]:
            real = name in optimizer.stages[k].real_slots  # of which optax has a complex array without imaginary parts
            each = {path: a.real if real else a for path, a in slots[k, name].items()}
            stage["slots"][name] = {path: np.asarray(a, slot_dtype(dtypes[path], real)) for path, a in each.items()}
    for k in _centered(optimizer):
        kept = state["stages"][k]["slots"]
        kept["s"] = {path: variance(h, kept["m"][path]) for path, h in kept["s"].items()}
    optimizer.load_state_dict(state, params)
