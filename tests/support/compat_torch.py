"""Options to draw for torch.optim's constructors, and torch's optimizers to compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import anyoptim as ao
from tests.support.options import Draw, both, flag, one_of, or_zero, powers, uniform
from tests.support.peers import Torch

# A mean that forgets more slowly than the squares it is divided by would multiply its round-off by what they forget.
BETAS = both(uniform(0.5, 0.9), uniform(0.91, 0.9999))
DECAY = or_zero(0.001, 0.3)
EPS = powers(-10, -2)
RATE = powers(-3, -0.7)

OPTIONS: dict[str, dict[str, Draw]] = {
    "SGD": {
        "lr": RATE,
        "momentum": or_zero(0.1, 0.95),
        "dampening": or_zero(0.05, 0.9),
        "weight_decay": DECAY,
        "nesterov": flag,
        "maximize": flag,
    },
    "Adam": {
        "lr": RATE,
        "betas": BETAS,
        "eps": EPS,
        "weight_decay": DECAY,
        "amsgrad": flag,
        "maximize": flag,
        "decoupled_weight_decay": flag,
    },
    "AdamW": {"lr": RATE, "betas": BETAS, "eps": EPS, "weight_decay": DECAY, "amsgrad": flag, "maximize": flag},
    "Adamax": {"lr": RATE, "betas": BETAS, "eps": EPS, "weight_decay": DECAY, "maximize": flag},
    "NAdam": {
        "lr": RATE,
        "betas": BETAS,
        "eps": EPS,
        "weight_decay": DECAY,
        "momentum_decay": or_zero(1e-4, 1),
        "decoupled_weight_decay": flag,
        "maximize": flag,
    },
    "RAdam": {
        "lr": RATE,
        "betas": BETAS,
        "eps": EPS,
        "weight_decay": DECAY,
        "decoupled_weight_decay": flag,
        "maximize": flag,
    },
    "Adagrad": {
        "lr": RATE,
        "lr_decay": or_zero(1e-3, 0.1),
        "weight_decay": DECAY,
        "initial_accumulator_value": or_zero(0.01, 1),
        "eps": EPS,
        "maximize": flag,
    },
    "RMSprop": {
        "lr": powers(-3, -2),
        "alpha": uniform(0.7, 0.999),
        "eps": powers(-6, -2),
        "weight_decay": DECAY,
        "momentum": or_zero(0.1, 0.9),
        "centered": flag,
        "maximize": flag,
    },
    "Adadelta": {"lr": powers(-1, 0), "rho": uniform(0.5, 0.99), "eps": EPS, "weight_decay": DECAY, "maximize": flag},
    "Rprop": {
        "lr": RATE,
        "etas": both(uniform(0.2, 0.8), uniform(1.05, 1.5)),
        "step_sizes": both(powers(-6, -3), uniform(0.1, 1)),
        "maximize": flag,
    },
    "ASGD": {
        "lr": RATE,
        "lambd": powers(-4, -1),
        "alpha": uniform(0.5, 1),
        "t0": uniform(0, 75),
        "weight_decay": DECAY,
        "maximize": flag,
    },
    "Adafactor": {
        "lr": RATE,
        "beta2_decay": uniform(-1, -0.3),
        "eps": both(one_of(None, 1e-7, 0.01, 0.5), powers(-4, -1)),
        "d": uniform(1, 3),
        "weight_decay": DECAY,
        "maximize": flag,
    },
    "Muon": {
        "lr": RATE,
        "weight_decay": DECAY,
        "momentum": uniform(0.5, 0.95),
        "nesterov": flag,
        "ns_coefficients": lambda rng: tuple(float(c + rng.uniform(-0.02, 0.02)) for c in (3.4445, -4.775, 2.0315)),
        "eps": one_of(1e-7, 3.0),
        "ns_steps": one_of(1, 3, 5),
        "adjust_lr_fn": one_of(None, "original", "match_rms_adamw"),
    },
}
"""All options of each constructor that have an effect; lr*weight_decay and momentum let nothing grow for ever."""

FREE = {"foreach", "fused", "capturable"}
"""Options that change no result."""


def drawn(name: str, rng: Any) -> dict[str, Any]:
    """Options for a constructor, drawn among those that torch accepts."""
    options = {option: draw(rng) for option, draw in OPTIONS[name].items()}
    if options.get("nesterov") and name == "SGD":
        options["momentum"] = options["momentum"] or 0.7
        options["dampening"] = 0.0
    return options


def shapes(name: str, rng: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of some parameters, all of them matrices for Muon."""
    dims = [2, 2, 2] if name == "Muon" else [2, 1, 0, int(rng.integers(1, 4))]
    return {f"p{i}": tuple(int(n) for n in rng.integers(1, 5, size=d)) for i, d in enumerate(dims)}


def make(name: str, options: Any) -> ao.Optimizer:
    """Our optimizer of torch's name."""
    constructor: Callable[..., ao.Optimizer] = getattr(ao.compat.torch, name)
    return constructor(**options)


class Beside(Torch):
    """torch's optimizer of a name, on the same parameters."""

    def __init__(self, torch: Any, name: str, options: Any, start: dict[str, Any], groups: Any = None) -> None:
        def make(parameters: dict[str, Any]) -> Any:
            params: Any = parameters.values()
            if groups is not None:
                params = [{"params": [parameters[key] for key in keys], **group} for keys, group in groups]
            return getattr(torch.optim, name)(params, **options)

        super().__init__(make, start)


def random(rng: Any, of: dict[str, tuple[int, ...]], dtype: str = "float64", scale: float = 1.0) -> dict[str, Any]:
    if dtype.startswith("complex"):
        both = random(rng, of, scale=scale), random(rng, of, scale=scale)
        return {key: np.asarray(both[0][key] + 1j * both[1][key], dtype) for key in of}
    return {key: np.asarray(scale * rng.normal(size=shape), dtype) for key, shape in of.items()}


def flat(arrays: dict[str, Any]) -> Any:
    """All elements in one array, to compare them at once."""
    return np.concatenate([np.ravel(a) for a in arrays.values()])
