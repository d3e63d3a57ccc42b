"""Schedules: the value of a hyperparameter as a function of the step number.

Any hyperparameter may be one: `ao.Adam(lr=ao.schedules.Cosine(1e-3, steps=10_000))`. So may any other function of the
step number; these here are small immutable objects besides, with a readable repr that builds them again, equality, and
pickles.

Steps count from 1, and nothing has elapsed at the first: in all equations n = t - 1 is the number of steps before step
t, so that the value at step 1 is the initial one, and what is reached after `steps` steps is the value at step
`steps + 1`, and stays. All lengths and boundaries count such steps. On the host the values are Python floats, in the
equation's float64 arithmetic. Under `jax.jit`, where the step is traced, they are 0-d arrays of the widest float that
JAX has enabled, and lengths may be longer than the step's integers count.
"""

from typing import TYPE_CHECKING, Any

from anyoptim._trace._other_names import public_hint
from anyoptim.schedules import scalars
from anyoptim.schedules._combined import join, piecewise, warmup, warmup_cosine
from anyoptim.schedules._cycles import CosineRestarts, Cyclic, OneCycle, WarmupStableDecay
from anyoptim.schedules._decay import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Linear,
    MultiStep,
    Polynomial,
    StepDecay,
)
from anyoptim.schedules._plateau import Plateau
from anyoptim.schedules._plot import plot

__all__ = [
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Cyclic",
    "Exponential",
    "InverseSqrt",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Plateau",
    "Polynomial",
    "StepDecay",
    "WarmupStableDecay",
    "join",
    "piecewise",
    "plot",
    "scalars",
    "warmup",
    "warmup_cosine",
]


if not TYPE_CHECKING:  # it would hide misspelt names from those who check types

    def __getattr__(name: str) -> Any:
        hint = "" if name.startswith("_") else public_hint(name, __all__)
        raise AttributeError(f"module 'anyoptim.schedules' has no attribute {name!r}{hint}")
