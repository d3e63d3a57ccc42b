"""A table of the methods: which of torch's options and arrays correspond to which of ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from anyoptim import optimizers
from anyoptim._arrays import Array, library
from anyoptim._core._optimizer import Optimizer
from anyoptim.compat.torch._methods import TorchAdafactor

__all__ = ["CODECS", "FORMS", "Codec", "Form", "Named", "Option", "form_of", "place"]


class Option(NamedTuple):
    """The hyperparameters that make up an option of torch's, the method's own or `Stage.name`, and how they do."""

    of: tuple[str, ...]
    made: Callable[..., Any] = lambda *values: values[0] if len(values) == 1 else values


class Codec(NamedTuple):
    """How an array of torch's state is made from a slot of ours, and a slot from that."""

    theirs: Callable[[Array], Array] = lambda slot: slot
    ours: Callable[[Array], Array] = lambda value: value


class Form(NamedTuple):
    """One of our methods as one of torch's."""

    name: str
    """The name of torch's class."""
    options: Mapping[str, Option | Any]
    """Where each of torch's options is kept here, or the value that the method itself stands for."""
    state: Mapping[str, str]
    """For each array of torch's state of a parameter the slot: of the method, or `Stage.name`."""
    counts: bool = True
    """Whether torch counts its steps."""
    rate: str = "lr"
    """What is set as the learning rate here."""
    derived: Callable[..., Mapping[str, float]] = lambda *_, **__: {}
    """What else torch keeps after t steps, by our hyperparameters: it is made of these."""
    multiplied: bool = False
    """Whether that is a product over all steps, with the roundings of each."""

    def says(self, options: Mapping[str, Any]) -> bool:
        """Whether these options ask for what the method does anyway."""
        return all(options[key] == own for key, own in self.options.items() if not isinstance(own, Option))


def _turned(gradient: Array) -> Array:
    """The signs of the gradient's elements, of a complex gradient in both parts."""
    a = np.array(library(gradient).to_host(gradient), order="C")
    reals = a[None].view(a.real.dtype)
    return np.sign(reals).view(a.dtype)[0]


CODECS: Mapping[str, Codec] = {
    # Of the last gradient only the sign is looked at.
    "prev": Codec(ours=_turned),
    "row_var": Codec(lambda a: library(a).xp.expand_dims(a, axis=-1), lambda a: library(a).xp.squeeze(a, axis=-1)),
    "col_var": Codec(lambda a: library(a).xp.expand_dims(a, axis=-2), lambda a: library(a).xp.squeeze(a, axis=-2)),
}
"""How arrays that torch keeps in another form than the slots here are turned into these and back."""


def _product(t: int, *, beta1: float, warmup: float, momentum_decay: float, **_: float) -> Mapping[str, float]:
    i = np.arange(1, t + 1)
    return {"mu_product": float(np.prod(beta1 * (1 - warmup * 0.96 ** (i * momentum_decay))))}


def _next_rates(t: int, *, lr: float, lambd: float, alpha: float, t0: float) -> Mapping[str, float]:
    return {"eta": lr / (1 + lambd * lr * t) ** alpha, "mu": 1 / max(1.0, t - t0)}


def _negative(value: float) -> float:
    return -value


def _step_size(rms: float) -> str | None:
    return {0.0: None, 0.2: "match_rms_adamw"}.get(rms, f"rms={rms}")


_L2 = {"weight_decay": Option(("WeightDecay.decay",))}
_OWN = {"weight_decay": Option(("weight_decay",))}
_LR = {"lr": Option(("lr",))}
_MOMENTUM = {"momentum": Option(("momentum",)), "dampening": Option(("dampening",))}
_BETAS = {**_LR, "betas": Option(("beta1", "beta2"))}
_ADAM = {**_BETAS, "eps": Option(("eps_corrected",))}
_MEANS = {"exp_avg": "m", "exp_avg_sq": "v"}
_LARGEST = {**_MEANS, "max_exp_avg_sq": "u"}
_RMSPROP = {
    "lr": Option(("Scale.factor",)),
    "alpha": Option(("rho",)),
    "eps": Option(("eps",)),
    "momentum": Option(("Trace.momentum",)),
    **_L2,
}
_ADAFACTOR = {
    **_LR,
    "beta2_decay": Option(("decay",), _negative),
    "d": Option(("clip",)),
    **_OWN,
}

FORMS: Mapping[type[Any], tuple[Form, ...]] = {
    optimizers.SGD: (Form("SGD", {**_LR, **_L2, "nesterov": False}, {}, counts=False),),
    optimizers.HeavyBall: (
        Form("SGD", {**_LR, **_MOMENTUM, **_L2, "nesterov": False}, {"momentum_buffer": "b"}, counts=False),
    ),
    optimizers.HeavyBallNesterov: (
        Form("SGD", {**_LR, **_MOMENTUM, **_L2, "nesterov": True}, {"momentum_buffer": "b"}, counts=False),
    ),
    optimizers.Adam: (Form("Adam", {**_ADAM, **_L2, "amsgrad": False, "decoupled_weight_decay": False}, _MEANS),),
    optimizers.AdamW: (Form("Adam", {**_ADAM, **_OWN, "amsgrad": False, "decoupled_weight_decay": True}, _MEANS),),
    optimizers.AMSGrad: (
        Form("Adam", {**_ADAM, **_L2, "amsgrad": True, "decoupled_weight_decay": False}, _LARGEST),
        Form("Adam", {**_ADAM, **_OWN, "amsgrad": True, "decoupled_weight_decay": True}, _LARGEST),
    ),
    optimizers.Adamax: (
        Form("Adamax", {**_BETAS, "eps": Option(("eps_max",)), **_L2}, {"exp_avg": "m", "exp_inf": "u"}),
    ),
    optimizers.NAdam: tuple(
        Form(
            "NAdam",
            {
                **_BETAS,
                "eps": Option(("eps",)),
                "momentum_decay": Option(("momentum_decay",)),
                **decay,
                "decoupled_weight_decay": decay is _OWN,
            },
            _MEANS,
            derived=_product,
            multiplied=True,
        )
        for decay in (_L2, _OWN)
    ),
    optimizers.RAdam: tuple(
        Form(
            "RAdam",
            {**_BETAS, "eps": Option(("eps",)), **decay, "decoupled_weight_decay": decay is _OWN},
            _MEANS,
        )
        for decay in (_L2, _OWN)
    ),
    optimizers.AdaGrad: (
        Form(
            "Adagrad",
            {
                **_LR,
                "lr_decay": Option(("lr_decay",)),
                "eps": Option(("eps",)),
                **_L2,
                "initial_accumulator_value": Option(("initial",)),
            },
            {"sum": "h"},
        ),
    ),
    optimizers.RMSProp: (
        Form(
            "RMSprop",
            {**_RMSPROP, "centered": False},
            {"square_avg": "h", "momentum_buffer": "Trace.b"},
            rate="Scale.factor",
        ),
        Form("RMSprop", {**_RMSPROP, **_LR, "centered": False}, {"square_avg": "h"}),
    ),
    optimizers.CenteredRMSProp: (
        Form(
            "RMSprop",
            {**_RMSPROP, "centered": True},
            {"square_avg": "s", "grad_avg": "m", "momentum_buffer": "Trace.b"},
            rate="Scale.factor",
        ),
        Form("RMSprop", {**_RMSPROP, **_LR, "centered": True}, {"square_avg": "s", "grad_avg": "m"}),
    ),
    optimizers.AdaDelta: (
        Form(
            "Adadelta",
            {**_LR, "rho": Option(("rho",)), "eps": Option(("eps",)), **_L2},
            {"square_avg": "h", "acc_delta": "s"},
        ),
    ),
    optimizers.Rprop: (
        Form(
            "Rprop",
            {
                "lr": Option(("initial",)),
                "etas": Option(("eta_minus", "eta_plus")),
                "step_sizes": Option(("step_min", "step_max")),
            },
            {"prev": "d", "step_size": "s"},
        ),
    ),
    optimizers.ASGD: (
        Form(
            "ASGD",
            {**_LR, "lambd": Option(("lambd",)), "alpha": Option(("alpha",)), "t0": Option(("t0",)), **_L2},
            {"ax": "average"},
            derived=_next_rates,
        ),
    ),
    **{
        kind: (
            Form(
                "Adafactor",
                {**_ADAFACTOR, "eps": eps},
                {"row_var": "row", "col_var": "column", "variance": "v"},
            ),
        )
        for kind, eps in (
            (optimizers.Adafactor, Option(("least", "floor"))),
            (TorchAdafactor, Option(("floor",), lambda floor: (None, floor))),
        )
    },
    optimizers.Muon: (
        Form(
            "Muon",
            {
                **_LR,
                **_OWN,
                "momentum": Option(("momentum",)),
                "nesterov": Option(("ahead",), bool),
                "ns_coefficients": Option(("a", "b", "c")),
                "eps": Option(("least",)),
                "ns_steps": Option(("steps",), math.floor),
                "adjust_lr_fn": Option(("rms",), _step_size),
            },
            {"momentum_buffer": "m"},
            counts=False,
        ),
    ),
}
"""For each method here the forms that it has in torch."""

_ORDER = ("Maximize", "WeightDecay", "", "Trace", "Scale")
"""The order in which stages stand around the method, whose name is empty."""


class Named:
    """A selector of `groups`: the parameters with these paths."""

    def __init__(self, *paths: str) -> None:
        self.paths = paths
        self._found = frozenset(paths)

    def __call__(self, path: str, p: Any) -> bool:
        return path in self._found

    def __repr__(self) -> str:
        return f"Named({', '.join(map(repr, self.paths))})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and other.paths == self.paths

    def __hash__(self) -> int:
        return hash(self.paths)


def form_of(optimizer: Optimizer, fits: Callable[[Form], bool]) -> Form | None:
    """The first form of the method that has a place for all other stages, and fits."""
    method = next((stage for stage in optimizer.stages if isinstance(stage, Optimizer)), None)
    kinds = ["" if stage is method else type(stage).__name__ for stage in optimizer.stages]
    if [kind for kind in _ORDER if kind in kinds] != kinds:
        return None
    for form in FORMS.get(type(method), ()):
        keys = [key for option in form.options.values() if isinstance(option, Option) for key in option.of]
        known = {"", "Maximize", *(key.rpartition(".")[0] for key in keys)}
        if set(kinds) <= known and form.rate.rpartition(".")[0] in kinds and fits(form):
            return form
    return None


def place(optimizer: Optimizer, key: str) -> tuple[int, str] | None:
    """Which stage a key of the table means, and the name there; None if the optimizer has none."""
    kind, _, name = key.rpartition(".")
    for k, stage in enumerate(optimizer.stages):
        if type(stage).__name__ == kind or (not kind and isinstance(stage, Optimizer)):
            return k, name
    return None
