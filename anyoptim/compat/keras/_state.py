"""Keras's variables in the middle of training, loaded into an optimizer here and assigned from one."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._core._optimizer import Optimizer
from anyoptim.compat._transfer import SlotKey, StateByPath, load_state, slot_shapes, state_by_path, to_numpy
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
"""The suffixes of the names of Keras's variables, by stage and slot; "" where the variable has the parameter's name."""


class _Match(NamedTuple):
    """Keras's variables, each under the slot and the parameter that it belongs to."""

    variables: Mapping[SlotKey, Mapping[str, Any]]
    iteration: Any
    every: int
    """The number of updates that make a step."""


def _matched(
    optimizer: Optimizer, keras_optimizer: Any, slots: Mapping[SlotKey, Collection[str]], names: Any
) -> _Match:
    """Match Keras's variables with our slots.

    Raises ValueError where they don't match, with the name of a variable, a stage or a parameter.
    """
    if hasattr(keras_optimizer, "inner_optimizer"):
        raise ValueError(f"{type(keras_optimizer).__name__} has an optimizer within; wanted its inner_optimizer")
    if not getattr(keras_optimizer, "built", False):
        raise ValueError(f"{type(keras_optimizer).__name__} is not built; wanted optimizer.build(variables) before")
    iteration, *left = keras_optimizer.variables
    no_slots = {id(getattr(keras_optimizer, name, None)) for name in ("_learning_rate", "_u_product")}
    left = [v for v in left if id(v) not in no_slots]
    trainable = list(keras_optimizer._trainable_variables)
    paths = _paths(trainable, {path for by_path in slots.values() for path in by_path}, names)
    suffixes: dict[SlotKey, str] = {}
    for k, stage in enumerate(optimizer.stages):
        known = KEPT.get(type(stage).__name__, {})
        for name in stage.slots:
            if name not in known:
                raise ValueError(f"{stage!r} has no place among the variables of Keras")
            suffixes[k, name] = known[name]
    matched: dict[SlotKey, dict[str, Any]] = {slot: {} for slot in suffixes}
    for path, variable in zip(paths, trainable, strict=True):
        start = getattr(variable, "path", variable.name).replace("/", "_")
        for slot, suffix in suffixes.items():
            if path not in slots[slot]:
                continue
            name = f"{start}_{suffix}" if suffix else variable.name
            index = next((i for i, v in enumerate(left) if v.name == name), None)
            if index is None:
                raise ValueError(f"Keras has no variable {name!r}; wanted one, for {optimizer.stages[slot[0]]!r}")
            matched[slot][path] = left.pop(index)
    if left:
        raise ValueError(f"Keras has the variable {left[0].path!r}, for which {optimizer!r} has no stage")
    every = int(keras_optimizer.gradient_accumulation_steps or 1)
    first = optimizer.stages[0]
    ours = first.every if isinstance(first, Accumulate) else 1
    if ours != every:
        raise ValueError(f"Keras takes a step every {every} updates, and {optimizer!r} every {ours}")
    return _Match(matched, iteration, every)


def _paths(trainable: Sequence[Any], known: Collection[str], names: Any) -> list[str]:
    """The path of each of Keras's variables."""
    paths = [v.path for v in trainable] if names is None else [str(name) for name in names]
    if names is None and not {*paths} <= {*known}:
        paths = [str(i) for i in range(len(trainable))]  # params is a list
    if len(paths) != len(trainable) or len({*paths}) != len(paths) or (known and {*paths} != {*known}):
        raise ValueError(
            f"Keras has the variables {[v.path for v in trainable]}, and params has {sorted(known)}; wanted `names`, "
            "with the path of each of these variables in params"
        )
    return paths


def _factor(optimizer: Optimizer, slot: SlotKey) -> float:
    """How many times as large as Keras's variable our slot is: a sum of gradients still has the scale of the loss."""
    k, name = slot
    following = optimizer.stages[k + 1 : k + 2]
    if name == "total" and following and isinstance(following[0], Scale):
        factor: Any = following[0].factor
        return 1 / float(factor)
    return 1.0


def _values(variable: Any) -> np.ndarray[Any, Any]:
    import keras  # noqa: PLC0415 - whoever has its variables has it

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

    >>> import keras
    >>> w, ours, theirs = keras.Variable([1.0, 1.0]), ao.compat.keras.Adam(0.1), keras.optimizers.Adam(0.1)
    >>> theirs.apply([keras.ops.ones(2)], [w])
    >>> ao.compat.keras.from_keras(theirs, ours, [np.ones(2)])
    >>> ours.state.step
    1
    """
    shapes = slot_shapes(optimizer, params)
    match = _matched(optimizer, keras_optimizer, shapes, names)
    updates = int(_values(match.iteration))
    step, gathered = divmod(updates, match.every)
    slots: dict[SlotKey, dict[str, np.ndarray[Any, Any]]] = {}
    for slot, variables in match.variables.items():
        slots[slot] = {}
        for path, variable in variables.items():
            a, shape = to_numpy(_values(variable)), shapes[slot][path]
            if shape == (0,) != a.shape:
                a = np.zeros(shape, a.dtype)  # Adafactor keeps either two factors or the whole
            if a.shape != shape:
                raise ValueError(f"{variable.path} has shape {a.shape}; wanted {shape} for params at {path!r}")
            slots[slot][path] = _factor(optimizer, slot) * a
    load_state(optimizer, params, step, {0: {"gathered": float(gathered)}} if match.every > 1 else {}, slots)


def to_keras(optimizer: Optimizer, keras_optimizer: Any, names: Sequence[str] | None = None) -> None:
    """Have an optimizer of Keras, built, go on from here: its variables are assigned to, those of the model are not.

    `names` are those of `from_keras`. Raises ValueError and TypeError for variables of other stages, parameters or
    shapes, before anything is assigned to.

    >>> import keras
    >>> w, ours, theirs = keras.Variable([1.0, 1.0]), ao.compat.keras.Adam(0.1), keras.optimizers.Adam(0.1)
    >>> params = ours.update([np.ones(2)], [np.ones(2)])
    >>> theirs.build([w])
    >>> ao.compat.keras.to_keras(ours, theirs)
    >>> int(theirs.iterations.value)
    1
    """
    ours = state_by_path(optimizer)
    t = ours.count("Keras")
    match = _matched(optimizer, keras_optimizer, ours.slots, names)
    assigned = []
    for slot, variables in match.variables.items():
        for path, variable in variables.items():
            a = np.array(to_numpy(ours.slots[slot][path])) / _factor(optimizer, slot)
            if a.shape == (0,) != tuple(variable.shape):
                a = _unfactored(ours, slot, path, variable)
            if a.shape != tuple(variable.shape):
                raise ValueError(f"{variable.path} has shape {tuple(variable.shape)}; the optimizer has {a.shape}")
            assigned.append((variable, a))
    gathered = int(ours.scalars[0].get("gathered", 0)) if match.every > 1 else 0
    assigned.append((match.iteration, np.asarray(t * match.every + gathered)))
    product = getattr(keras_optimizer, "_u_product", None)
    if product is not None:
        beta = float(keras_optimizer.beta_1)
        assigned.append((product, np.asarray(math.prod(beta * (1 - 0.5 * 0.96**i) for i in range(1, t + 1)))))
    for variable, a in assigned:
        variable.assign(a)


def _unfactored(ours: StateByPath, slot: SlotKey, path: str, variable: Any) -> np.ndarray[Any, Any]:
    """The values of a variable that has no slot here: of Adafactor's matrices the second moment, otherwise zeros."""
    k, name = slot
    if name != "v":
        return np.zeros(tuple(variable.shape))
    row, column = (to_numpy(ours.slots[k, factor][path]) for factor in ("row", "column"))
    moment: np.ndarray[Any, Any] = (row / row.mean(axis=-1, keepdims=True))[..., None] * column[..., None, :]
    return moment
