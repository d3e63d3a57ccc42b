"""Decays as optax's optimizers have them: with a mask, and beside the step."""

from __future__ import annotations

from typing import Any

from anyoptim._arrays import traced
from anyoptim._core._chain import chain
from anyoptim._core._optimizer import Optimizer
from anyoptim._stage._stage import Stage
from anyoptim.compat._counts import rate
from anyoptim.compat.optax._masks import masked
from anyoptim.stages import Scale, WeightDecay

__all__ = ["decay", "decoupled", "known_zero"]


def known_zero(number: Any) -> bool:
    """Whether it is 0 for good: no schedule, and no number that `jax.jit` traces."""
    return not callable(number) and not isinstance(number, bool) and not traced(number) and bool(number == 0)


def decay(name: str, weight_decay: Any, mask: Any) -> tuple[Stage, ...]:
    """The decay as a stage; no stage for a decay of 0."""
    if known_zero(weight_decay):
        masked(name, mask)
        return ()
    return (WeightDecay(rate(weight_decay), where=masked(name, mask)),)


def decoupled(method: Any, learning_rate: Any, weight_decay: Any, mask: Any) -> Optimizer:
    """A method of `lr`, alone or with a decay beside it."""
    beside = decay("mask", weight_decay, mask)
    return chain(method(1.0), *beside, Scale(rate(learning_rate))) if beside else method(rate(learning_rate))
