"""Terms that a method may have: none of them, at no cost, where its hyperparameter is known to be 0."""

from __future__ import annotations

from typing import Any

from anyoptim._arrays import Array

__all__ = ["decayed", "decoupled", "unless_zero"]


def unless_zero(**hyperparameters: Any) -> dict[str, Any]:
    """Those that are not known to be 0."""
    return {name: value for name, value in hyperparameters.items() if not isinstance(value, float) or value}


def decoupled(lr: Any, weight_decay: Any) -> dict[str, Any]:
    """The coefficient that `decayed` adds, of weight decay that the gradients don't scale."""
    return {"decay": lr * weight_decay} if unless_zero(weight_decay=weight_decay) else {}


def decayed(p: Array, step: Array, decay: Any) -> Array:
    """`step + decay*p`."""
    return step if decay is None else step + decay * p
