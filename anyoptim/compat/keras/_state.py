"""The variables of Keras's optimizers, in the middle of training: into an optimizer here, and out of one."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._core._optimizer import Optimizer
from anyoptim.compat._transfer import Remembered, Slot, host, load, remembered, wanted
from anyoptim.stages import Accumulate, Scale

__all__ = ["from_keras", "to_keras"]

_ADAM = {"m": "momentum", "v": "velocity"}

_M = {"m": "momentum"}
_FACTORS = {"row": "", "column": "", "v": "velocity"}
_AVERAGE = {"average": "average"}

KEPT: Mapping[str, Mapping[str, str]] = {
    "Adam": _ADAM,
    "AdamW": _ADAM,
    "NAdam": _ADAM,
    "AMSGrad": {**_ADAM, "u": "velocity_hat"},
    "Momentum": {"v": "momentum"},
    "Nesterov": {"v": "momentum"},
    "RMSProp": {"h": "velocity"},
    "CenteredRMSProp": {"s": "velocity", "m": "average_gradient"},
    "Trace": {"b": "momentum"},
    "AdaDelta": {"h": "accumulated_grad", "s": "accumulated_delta_var"},
    "AdaGrad": {"h": "accumulator"},
    "Adamax": {"m": "momentum", "u": "norm"},
    "Adafactor": _FACTORS,
    "KerasAdafactor": _FACTORS,
    "Lion": _M,
    "KerasMuon": _M,
    "KerasNesterovMuon": _M,
    "KerasScheduleFreeAdamW": {"z": "momentum", "v": "velocity"},
    "KerasEMA": _AVERAGE,
    "KerasOverwritingEMA": _AVERAGE,
    "Accumulate": {"total": "gradient_accumulator"},
}
"""By the names of stages and their slots, how the names of Keras's variables end; "" where it is the variable's own."""


class _Match(NamedTuple):
    """Keras's variables, each with the slot and the parameter that it is of."""

    of: Mapping[Slot, Mapping[str, Any]]
    iteration: Any
    every: int
    """How many updates a step takes."""


def _matched(optimizer: Optimizer, keras_optimizer: Any, slots: Mapping[Slot, Collection[str]], names: Any) -> _Match:
    """Raises ValueError where they don't match, with the name of a variable, a stage or a parameter."""
    if hasattr(keras_optimizer, "inner_optimizer"):
        raise ValueError(f"{type(keras_optimizer).__name__} has an optimizer within; wanted its inner_optimizer")
    if not getattr(keras_optimizer, "built", False):
        raise ValueError(f"{type(keras_optimizer).__name__} is not built; wanted optimizer.build(variables) before")
    iteration, *left = keras_optimizer.variables
    apart = {id(getattr(keras_optimizer, name, None)) for name in ("_learning_rate", "_u_product")}
    left = [v for v in left if id(v) not in apart]
    trainable = list(keras_optimizer._trainable_variables)
    paths = _paths(trainable, {path for of in slots.values() for path in of}, names)
    suffixes: dict[Slot, str] = {}
    for k, stage in enumerate(optimizer.stages):
        known = KEPT.get(type(stage).__name__, {})
        for name in stage.slots:
            if name not in known:
                raise ValueError(f"{stage!r} has no place among the variables of Keras")
            suffixes[k, name] = known[name]
    found: dict[Slot, dict[str, Any]] = {slot: {} for slot in suffixes}
    for path, variable in zip(paths, trainable, strict=True):
        start = getattr(variable, "path", variable.name).replace("/", "_")
        for slot, suffix in suffixes.items():
            if path not in slots[slot]:
                continue
            name = f"{start}_{suffix}" if suffix else variable.name
            at = next((i for i, one in enumerate(left) if one.name == name), None)
            if at is None:
                raise ValueError(f"Keras has no variable {name!r}; wanted one, for {optimizer.stages[slot[0]]!r}")
            found[slot][path] = left.pop(at)
    if left:
        raise ValueError(f"Keras has the variable {left[0].path!r}, for which {optimizer!r} has no stage")
    every = int(keras_optimizer.gradient_accumulation_steps or 1)
    first = optimizer.stages[0]
    ours = first.every if isinstance(first, Accumulate) else 1
    if ours != every:
        raise ValueError(f"Keras takes a step every {every} updates, and {optimizer!r} every {ours}")
    return _Match(found, iteration, every)


def _paths(trainable: Sequence[Any], known: Collection[str], names: Any) -> list[str]:
    """The path of each of Keras's variables."""
    paths = [v.path for v in trainable] if names is None else [str(name) for name in names]
    if names is None and not {*paths} <= {*known}:
        paths = [str(i) for i in range(len(trainable))]  # of a list
    if len(paths) != len(trainable) or len({*paths}) != len(paths) or (known and {*paths} != {*known}):
        raise ValueError(
            f"Keras has the variables {[v.path for v in trainable]}, and params has {sorted(known)}; wanted `names`, "
            "with the path of each of these variables in params"
        )
    return paths


def _scaled(optimizer: Optimizer, slot: Slot) -> float:
    """By what our sum of gradients is larger: the scale of the loss, which Keras takes away before it."""
    k, name = slot
    behind = optimizer.stages[k + 1 : k + 2]
    if name == "total" and behind and isinstance(behind[0], Scale):
        factor: Any = behind[0].factor
        return 1 / float(factor)
    return 1.0


def _values(variable: Any) -> np.ndarray[Any, Any]:
    import keras  # noqa: PLC0415 - it is there

    return np.asarray(keras.ops.convert_to_numpy(variable.value))


def from_keras(keras_optimizer: Any, optimizer: Optimizer, params: Any, names: Sequence[str] | None = None) -> None:
    """Have an optimizer go on from the variables of one of Keras, in the middle of training.

    ::

        params = {v.path: v.numpy() for v in model.trainable_variables}
        optimizer = ao.compat.keras.AdamW(1e-3, use_ema=True)
        ao.compat.keras.from_keras(model.optimizer, optimizer, params)

    Hyperparameters stay those of `optimizer`.

    Args:
        keras_optimizer: of Keras, built.
        optimizer: made by `ao.compat.keras` with the same arguments. What it remembers is replaced.
        params: the parameters, of any library: a dict by the paths of Keras's variables, a list in their order, or any
            other container, with `names`.
        names: the path in params (keys joined by dots) of each of the variables that Keras trains.

    Raises TypeError and ValueError for variables of other stages, parameters or shapes, before anything is replaced.
    """
    shapes = wanted(optimizer, params)
    match = _matched(optimizer, keras_optimizer, shapes, names)
    updates = int(_values(match.iteration))
    step, gathered = divmod(updates, match.every)
    slots: dict[Slot, dict[str, np.ndarray[Any, Any]]] = {}
    for slot, variables in match.of.items():
        slots[slot] = {}
        for path, variable in variables.items():
            a, shape = host(_values(variable)), shapes[slot][path]
            if shape == (0,) != a.shape:
                a = np.zeros(shape, a.dtype)  # of what Adafactor factors, and of what it does not
            if a.shape != shape:
                raise ValueError(f"{variable.path} has shape {a.shape}; wanted {shape} for params at {path!r}")
            slots[slot][path] = _scaled(optimizer, slot) * a
    load(optimizer, params, step, {0: {"gathered": float(gathered)}} if match.every > 1 else {}, slots)


def to_keras(optimizer: Optimizer, keras_optimizer: Any, names: Sequence[str] | None = None) -> None:
    """Have an optimizer of Keras, built, go on from here: its variables are assigned to, those of the model are not.

    `names` are those of `from_keras`. Raises ValueError and TypeError for variables of other stages, parameters or
    shapes, before anything is assigned to.
    """
    ours = remembered(optimizer)
    if len({*ours.t.values()}) > 1:
        raise ValueError(f"the parameters have taken different numbers of steps, {dict(ours.t)}; Keras has one count")
    match = _matched(optimizer, keras_optimizer, ours.slots, names)
    assigned = []
    for slot, variables in match.of.items():
        for path, variable in variables.items():
            a = np.array(host(ours.slots[slot][path])) / _scaled(optimizer, slot)
            if a.shape == (0,) != tuple(variable.shape):
                a = _unfactored(ours, slot, path, variable)
            if a.shape != tuple(variable.shape):
                raise ValueError(f"{variable.path} has shape {tuple(variable.shape)}; the optimizer has {a.shape}")
            assigned.append((variable, a))
    t = next(iter(ours.t.values()), ours.step)
    gathered = int(ours.scalars[0].get("gathered", 0)) if match.every > 1 else 0
    assigned.append((match.iteration, np.asarray(t * match.every + gathered)))
    product = getattr(keras_optimizer, "_u_product", None)
    if product is not None:
        beta = float(keras_optimizer.beta_1)
        assigned.append((product, np.asarray(math.prod(beta * (1 - 0.5 * 0.96**i) for i in range(1, t + 1)))))
    for variable, a in assigned:
        variable.assign(a)


def _unfactored(ours: Remembered, slot: Slot, path: str, variable: Any) -> np.ndarray[Any, Any]:
    """What Keras keeps where there is nothing here: zeros, and of Adafactor's matrices the second moment."""
    k, name = slot
    if name != "v":
        return np.zeros(tuple(variable.shape))
    row, column = (host(ours.slots[k, of][path]) for of in ("row", "column"))
    found: np.ndarray[Any, Any] = (row / row.mean(axis=-1, keepdims=True))[..., None] * column[..., None, :]
    return found
