"""The number by which a loss is multiplied, where a stage of the optimizer divides the gradients by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from anyoptim._arrays import traced
from anyoptim._stage._stage import Stage
from anyoptim._stage._state import FlatState
from anyoptim._trace._hyperparameters import positive

__all__ = ["loss_scale", "scaler", "with_loss_scale"]


def loss_scale(stages: Sequence[Stage], scalars: Sequence[Mapping[str, Any]]) -> float:
    """The product of the loss scales of all stages, of which each has these scalars."""
    both = zip(stages, scalars, strict=True)
    scales = (stage.get_loss_scale(**own) for stage, own in both if stage.get_loss_scale is not None)
    return math.prod(scales, start=1.0)


def scaler(optimizer: object, stages: Sequence[Stage], scale: Any) -> tuple[int, float]:
    """The place of the one stage whose loss scale can be set, and the scale, checked.

    Raises ValueError or TypeError for another number of such stages, or for what is no scale.
    """
    places = [k for k, stage in enumerate(stages) if stage.set_loss_scale is not None]
    if len(places) != 1:
        raise ValueError(f"loss_scale is that of {len(places)} stages of {optimizer!r}; wanted one ao.LossScale()")
    if traced(scale):
        raise TypeError("loss_scale is traced; wanted a number: in the pure form it is one of the state's")
    return places[0], stages[places[0]].ranges.get("scale", positive).value("loss_scale", scale)


def with_loss_scale(stages: Sequence[Stage], flat: FlatState, k: int, scale: float) -> FlatState:
    """The state with another scale. Raises RuntimeError where gradients of losses times the old one are gathered."""
    gathered = flat.scalars[0]["gathered"] if any(flat.pending) else 0
    if gathered:
        raise RuntimeError(
            f"loss_scale is set where {stages[0]!r} has gathered gradients of {gathered:g} updates, of losses times "
            f"{loss_scale(stages, flat.scalars):g}; wanted it set after the step of these, or after "
            "optimizer.flush(params)"
        )
    scalars = list(flat.scalars)
    stage: Any = stages[k]
    scalars[k] = stage.set_loss_scale(scale, **scalars[k])
    return flat._replace(scalars=tuple(scalars))
