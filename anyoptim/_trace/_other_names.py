"""What other libraries and textbooks call things, and what is meant here: for the errors of who brings their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

__all__ = [
    "ARGUMENTS",
    "ATTRIBUTES",
    "LAYER_ARGUMENTS",
    "LAYER_ATTRIBUTES",
    "PEERS",
    "PUBLIC",
    "RENAMED",
    "argument_hint",
    "attribute_hint",
    "public_hint",
]

RENAMED: Mapping[str, Sequence[Sequence[str]]] = {
    "learning_rate": [["lr"]],
    "step_size": [["lr"]],
    "eta": [["lr"]],
    "betas": [["beta1", "beta2", "beta3"], ["beta1", "beta2"]],
    "b1": [["beta1"]],
    "b2": [["beta2"]],
    "b3": [["beta3"]],
    "beta_1": [["beta1"]],
    "beta_2": [["beta2"]],
    "epsilon": [["eps"]],
    "alpha": [["rho"], ["lr"]],
    "smoothing": [["rho"]],
    "decay": [["rho"]],
    "momentum": [["beta"]],
    "nesterov": [["ahead"]],
    "init_scale": [["initial"]],
    "growth_interval": [["interval"]],
    "decay_rate": [["rho"]],
    "initial_accumulator_value": [["initial"]],
    "wd": [["weight_decay"]],
    "weight_decay_rate": [["weight_decay"]],
    "p": [["dropout_ratio"]],
    "rate": [["dropout_ratio"]],
    "ratio": [["dropout_ratio"]],
    "drop_prob": [["dropout_ratio"]],
}
"""Arguments that have other names here: the first row of names, all of which a constructor takes, is meant."""

_ENGINE = "nothing to ask for: the fastest engine is chosen, and engine= names one"

_DECAY = "ao.AdamW for Adam, or ao.WeightDecay(0.01): in ao.chain before the method L2, and behind it decoupled"
_EMA = "ao.chain(ao.Adam(), ao.EMA(0.99))"
_INITIAL = "of ao.AdaGrad and the like, and for RMSProp ao.compat.optax.rmsprop(0.001, initial_scale=1.0)"

ARGUMENTS: Mapping[str, str] = {
    "momentum": "ao.Momentum, or torch's form ao.HeavyBall; of RMSProp ao.compat.torch.RMSprop(momentum=0.9)",
    "nesterov": "ao.Nesterov, torch's form ao.HeavyBallNesterov, or for Adam ao.NAdam",
    "dampening": "ao.compat.torch.SGD(dampening=0.1)",
    "weight_decay": _DECAY,
    "wd": _DECAY,
    "weight_decay_rate": _DECAY,
    "amsgrad": "ao.AMSGrad",
    "centered": "ao.CenteredRMSProp",
    "clipnorm": "ao.chain(ao.ClipNorm(1.0), ao.Adam())",
    "clipvalue": "ao.chain(ao.ClipValue(1.0), ao.Adam())",
    "global_clipnorm": "ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam())",
    "max_grad_norm": "ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam())",
    "maximize": "ao.chain(ao.Maximize(), ao.Adam())",
    "ema": _EMA,
    "use_ema": _EMA,
    "ema_momentum": _EMA,
    "initial": _INITIAL,
    "initial_scale": _INITIAL,
    "initial_accumulator_value": _INITIAL,
    "loss_scale_factor": "ao.chain(ao.LossScale(), ao.Adam())",
    "gradient_accumulation_steps": "ao.chain(ao.Accumulate(4), ao.Adam())",
    "foreach": _ENGINE,
    "fused": _ENGINE,
    "capturable": _ENGINE,
    "jit_compile": _ENGINE,
    "params": "an argument of update(params, grads)",
    "mask": "a part of ao.groups({'b': None, ...: {}}), where None freezes",
}
"""Arguments of optimizers for which there is something else here."""

LAYER_ARGUMENTS: Mapping[str, str] = {
    "keep_prob": "1 - dropout_ratio",
    "inplace": "out=, an argument of forward",
}
"""The same of layers."""

ATTRIBUTES: Mapping[str, str] = {
    "zero_grad": "nothing to call: gradients are arguments of update(params, grads), and none is kept",
    "param_groups": "optimizer.lr and the like, and for some parameters ao.groups({'b': {'lr': 0.1}, ...: {}})",
    "add_param_group": "ao.groups({'b': {'lr': 0.1}, ...: {}}) in a chain",
    "apply_gradients": "update(params, grads)",
    "apply": "update(params, grads)",
    "minimize": "update(params, grads), with gradients that you have computed",
    "iterations": "state.step",
    "variables": "state.slots",
    "get_config": "repr(optimizer), or state_dict()",
    "register_step_post_hook": "what you call after update",
    "train": "nothing to call: update trains the parameters that it is given",
    "eval": "eval_params(params), where a stage averages",
}
"""Attributes of optimizers elsewhere, and what is to be done here."""

LAYER_ATTRIBUTES: Mapping[str, str] = {
    "train": "forward(x, training=True)",
    "eval": "forward(x, training=False)",
    "call": "forward(x)",
    "seed": "key",
    "parameters": "nothing: there is none to train",
}
"""The same of layers."""

PUBLIC: Mapping[str, str] = {
    "clip_by_global_norm": "ClipGlobalNorm",
    "clip_grad_norm_": "ClipGlobalNorm",
    "clip_grad_value_": "ClipValue",
    "clip": "ClipValue",
    "MultiSteps": "Accumulate",
    "GradScaler": "LossScale",
    "apply_if_finite": "SkipNonFinite",
    "AveragedModel": "EMA",
    "add_decayed_weights": "WeightDecay",
    "adaptive_grad_clip": "AdaptiveClip",
    "multi_transform": "partition",
    "Dropout1d": "SpatialDropout",
    "Dropout2d": "SpatialDropout",
    "Dropout3d": "SpatialDropout",
    "SpatialDropout2D": "SpatialDropout",
    "StochasticDepth": "DropPath",
}
"""Names of other libraries, and of what is public here."""

PEERS: Mapping[str, Sequence[str]] = {
    "torch.lr_scheduler": [
        "ChainedScheduler",
        "ConstantLR",
        "CosineAnnealingLR",
        "CosineAnnealingWarmRestarts",
        "CyclicLR",
        "ExponentialLR",
        "LambdaLR",
        "LinearLR",
        "MultiStepLR",
        "MultiplicativeLR",
        "OneCycleLR",
        "PolynomialLR",
        "ReduceLROnPlateau",
        "SequentialLR",
        "StepLR",
    ],
    "optax": [
        "adamaxw",
        "nadamw",
        "sign_sgd",
        "clip_by_block_rms",
        "constant_schedule",
        "cosine_decay_schedule",
        "cosine_onecycle_schedule",
        "exponential_decay",
        "join_schedules",
        "linear_onecycle_schedule",
        "linear_schedule",
        "piecewise_constant_schedule",
        "piecewise_interpolate_schedule",
        "polynomial_schedule",
        "sgdr_schedule",
        "warmup_constant_schedule",
        "warmup_cosine_decay_schedule",
        "warmup_exponential_decay_schedule",
        "keep_params_nonnegative",
        "polyak_sgd",
        "scale_by_learning_rate",
        "scale_by_param_block_rms",
        "scale_by_schedule",
        "scale_by_trust_ratio",
        "scale_by_zoom_linesearch",
    ],
    "keras.schedules": [
        "CosineDecay",
        "CosineDecayRestarts",
        "ExponentialDecay",
        "InverseTimeDecay",
        "PiecewiseConstantDecay",
        "PolynomialDecay",
    ],
}
"""What `ao.compat` has under names of its own. They are written out, so that asking for a name imports nothing."""


def argument_hint(name: str, accepted: Iterable[str]) -> str:
    """What is meant here by an argument that a constructor does not take: the end of an error, or nothing."""
    accepted = [*accepted]
    for names in RENAMED.get(name, ()):
        if {*names} <= {*accepted}:
            return f"; here {name} is {' and '.join(names)}"
    known: Mapping[str, Any] = (
        LAYER_ARGUMENTS if "dropout_ratio" in accepted else ARGUMENTS if "engine" in accepted else {}
    )
    if name in known:
        return f"; here {name} is {known[name]}"
    near = _near(name, accepted)
    if near:
        return f"; did you mean {near}?"
    known = {**RENAMED, **known}
    foreign = None if name in known else _near(name, [*known])
    return argument_hint(foreign, accepted) if foreign else ""


@lru_cache(maxsize=256)
def attribute_hint(cls: type[Any], name: str) -> str:
    """What is meant here by an attribute that a class does not have: the end of an error, or nothing.

    It is remembered, since programs that look for attributes look for the same ones again and again.
    """
    attributes = LAYER_ATTRIBUTES if hasattr(cls, "forward") else ATTRIBUTES
    if name in attributes:
        return f"; here {name} is {attributes[name]}"
    present = [*dir(cls), *getattr(cls, "_fields", ())]
    return argument_hint(name, [one for one in present if not one.startswith("_")])


def public_hint(name: str, public: Iterable[str]) -> str:
    """What is meant by a name that a module does not have: the end of an error, or nothing."""
    public = [*public]
    meant = next((one for one in public if _plain(one) == _plain(name)), PUBLIC.get(name))
    if meant in public:
        return f"; did you mean {meant}?"
    for place, names in PEERS.items():
        if name in names:
            return f"; did you mean ao.compat.{place}.{name}?"
    near = _near(name, public)
    return f"; did you mean {near}?" if near else ""


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _near(name: str, names: Sequence[str]) -> str | None:
    """The name that is spelt nearly like this one."""
    from difflib import get_close_matches  # noqa: PLC0415 - for errors alone

    return next(iter(get_close_matches(name, [one for one in names if one != name], 1, 0.75)), None)
