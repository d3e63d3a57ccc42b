"""What other libraries and textbooks call things, and what is meant here: for the errors of who brings their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module

__all__ = ["ARGUMENTS", "ATTRIBUTES", "PUBLIC", "RENAMED", "argument_hint", "attribute_hint", "public_hint"]

RENAMED: Mapping[str, Sequence[Sequence[str]]] = {
    "learning_rate": [["lr"]],
    "step_size": [["lr"]],
    "betas": [["beta1", "beta2", "beta3"], ["beta1", "beta2"]],
    "b1": [["beta1"]],
    "b2": [["beta2"]],
    "b3": [["beta3"]],
    "beta_1": [["beta1"]],
    "beta_2": [["beta2"]],
    "epsilon": [["eps"]],
    "alpha": [["rho"]],
    "smoothing": [["rho"]],
    "decay": [["rho"], ["weight_decay"]],
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
    "momentum": "ao.Momentum, or torch's form ao.HeavyBall",
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
    "keep_prob": "1 - dropout_ratio",
    "inplace": "out=, an argument of forward",
}
"""Arguments for which there is something else here."""

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
    "train": "forward(x, training=True)",
    "eval": "forward(x, training=False)",
}
"""Attributes of optimizers and layers elsewhere, and what is to be done here."""

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


def argument_hint(name: str, accepted: Iterable[str]) -> str:
    """What is meant here by an argument that a constructor does not take: the end of an error, or nothing."""
    accepted = [*accepted]
    for names in RENAMED.get(name, ()):
        if {*names} <= {*accepted}:
            return f"; here {name} is {' and '.join(names)}"
    if name in ARGUMENTS and not {"engine", "dropout_ratio"}.isdisjoint(accepted):
        return f"; here {name} is {ARGUMENTS[name]}"
    near = _near(name, accepted)
    if near:
        return f"; did you mean {near}?"
    known = {**RENAMED, **ARGUMENTS}
    foreign = None if name in known else _near(name, [*known])
    return argument_hint(foreign, accepted) if foreign else ""


def attribute_hint(name: str, present: Iterable[str]) -> str:
    """What is meant here by an attribute that there is not: the end of an error, or nothing."""
    return f"; here {name} is {ATTRIBUTES[name]}" if name in ATTRIBUTES else argument_hint(name, present)


def public_hint(name: str, public: Iterable[str]) -> str:
    """What is meant by a name that a module does not have: the end of an error, or nothing."""
    public = [*public]
    meant = next((one for one in public if _plain(one) == _plain(name)), PUBLIC.get(name))
    if meant in public:
        return f"; did you mean {meant}?"
    for place in ("torch", "torch.lr_scheduler", "optax", "optax.contrib", "keras", "keras.schedules"):
        if name in import_module(f"anyoptim.compat.{place}").__all__:
            return f"; did you mean ao.compat.{place}.{name}?"
    near = _near(name, public)
    return f"; did you mean {near}?" if near else ""


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _near(name: str, names: Sequence[str]) -> str | None:
    """The name that is spelt nearly like this one."""
    from difflib import get_close_matches  # noqa: PLC0415 - for errors alone

    return next(iter(get_close_matches(name, names, 1, 0.75)), None)
