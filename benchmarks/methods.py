"""The methods that are timed: with anyoptim, by hand in NumPy, and with the same numbers for everybody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import anyoptim as ao
from benchmarks.harness import Arrays
from tests.reference import textbook

__all__ = [
    "CHAIN",
    "CHAINS",
    "DECAY",
    "DECAYED",
    "EPS",
    "MAX_NORM",
    "METHODS",
    "NUMBERS",
    "SCALE",
    "SCALED",
    "ClippedAveragedAdam",
    "Method",
    "numbers",
]

EPS = 1e-12
"""So small that it doesn't show where it is added. anyoptim and Keras add it to the root of Adam's v, torch and optax
to that of the corrected v, optax inside AdaGrad's root (which is given its square)."""

CHAIN, DECAYED, SCALED = "clip + Adam + EMA", "clip + AdamW + EMA", "unscale + clip + AdamW + EMA"
CHAINS = {CHAIN: "Adam", DECAYED: "AdamW", SCALED: "AdamW"}
"""The method in each chain."""
MAX_NORM, DECAY = 1.0, 0.999
SCALE = 1024.0
"""Of the loss in the last chain, which is handed gradients that are so many times as large. A power of two."""

NUMBERS: Mapping[str, Mapping[str, Any]] = {
    "SGD": {"lr": 0.01},
    "Momentum": {"lr": 0.01, "momentum": 0.9},
    "AdaGrad": {"lr": 0.01, "eps": EPS},
    "Adam": {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": EPS},
    "AdamW": {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": EPS, "weight_decay": 0.01},
}
"""Hyperparameters. With a constant lr it is all the same that Momentum has it inside v, torch and optax outside."""


def numbers(method: str) -> dict[str, Any]:
    """The hyperparameters of a method, or of the one in a chain."""
    return dict(NUMBERS[CHAINS.get(method, method)])


class ClippedAveragedAdam(textbook.Adam):
    """Adam with clipped gradients and averaged parameters, and AdamW's decay, as everybody writes it by hand."""

    def __init__(
        self, max_norm: float = MAX_NORM, decay: float = DECAY, weight_decay: float = 0.0, **numbers: float
    ) -> None:
        super().__init__(**numbers)
        self.max_norm = max_norm
        self.decay = decay
        self.weight_decay = weight_decay
        self.average: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays, norm: float | None = None, scale: float = 1.0) -> None:
        if self.average is None:
            self.average = {key: value.copy() for key, value in params.items()}
        if scale != 1:
            for key in grads:
                grads[key] /= scale
        if norm is None:
            norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
        rate = self.max_norm / norm
        if rate < 1:
            for key in grads:
                grads[key] *= rate
        if self.weight_decay:
            for key in params:
                params[key] *= 1 - self.lr * self.weight_decay
        super().update(params, grads)
        for key in params:
            self.average[key] += (1 - self.decay) * (params[key] - self.average[key])


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    ours: Callable[..., Any]
    """anyoptim's optimizer; takes `engine`."""
    by_hand: Callable[[], Any]
    """The five lines. In float64 they are the reference."""
    slots: int
    """Arrays kept for each parameter."""
    measured: bool = False
    """Whether a norm has to be known before the first element can move."""
    scale: float = 1.0
    """How many times as large the gradients are that it is handed."""


def _chain(engine: ao.EngineName | None = None) -> Any:
    stages = ao.ClipGlobalNorm(MAX_NORM), ao.Adam(**NUMBERS["Adam"]), ao.EMA(DECAY)
    return ao.chain(*stages, engine=engine)


def _decayed(*before: ao.Stage, engine: ao.EngineName | None = None) -> Any:
    return ao.chain(*before, ao.ClipGlobalNorm(MAX_NORM), ao.AdamW(**NUMBERS["AdamW"]), ao.EMA(DECAY), engine=engine)


def _scaled(engine: ao.EngineName | None = None) -> Any:
    """The scale stays, as that of the others does; what is not finite would be skipped."""
    return _decayed(ao.LossScale(growth=1.0, initial=SCALE), engine=engine)


METHODS: Mapping[str, Method] = {
    "SGD": Method(partial(ao.SGD, **NUMBERS["SGD"]), partial(textbook.SGD, **NUMBERS["SGD"]), 0),
    "Momentum": Method(
        partial(ao.Momentum, **NUMBERS["Momentum"]), partial(textbook.Momentum, **NUMBERS["Momentum"]), 1
    ),
    "AdaGrad": Method(partial(ao.AdaGrad, **NUMBERS["AdaGrad"]), partial(textbook.AdaGrad, **NUMBERS["AdaGrad"]), 1),
    "Adam": Method(partial(ao.Adam, **NUMBERS["Adam"]), partial(textbook.Adam, **NUMBERS["Adam"]), 2),
    CHAIN: Method(_chain, partial(ClippedAveragedAdam, **NUMBERS["Adam"]), 3, measured=True),
    DECAYED: Method(_decayed, partial(ClippedAveragedAdam, **NUMBERS["AdamW"]), 3, measured=True),
    SCALED: Method(_scaled, partial(ClippedAveragedAdam, **NUMBERS["AdamW"]), 3, measured=True, scale=SCALE),
}
