"""torch.optim's constructors, each a few lines over the methods here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from anyoptim import optimizers
from anyoptim._arrays import Array, library
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import Domain, Hyper, fraction, nonnegative, number, positive
from anyoptim._trace._scalars import where
from anyoptim.compat._shared import composed, given, refused, zero
from anyoptim.compat.torch._constructor import without_params
from anyoptim.schedules._combined import as_schedule, value_of
from anyoptim.schedules._schedule import Schedule
from anyoptim.stages import Maximize, Scale, Trace, WeightDecay

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lagged",
    "Muon",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "TorchAdafactor",
]

_nonpositive = Domain(lambda x: x <= 0, "at most 0")
_from_one = Domain(lambda x: 1 <= x < math.inf, "finite and at least 1")

Flag = bool | None


@without_params
def SGD(  # noqa: N802 - the names are torch's, in all of this file
    lr: Hyper = 1e-3,
    momentum: Hyper = 0,
    dampening: Hyper = 0,
    weight_decay: Hyper = 0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
    foreach: Flag = None,
    differentiable: bool = False,
    fused: Flag = None,
) -> Optimizer:
    """torch.optim.SGD: `SGD`, or with momentum `HeavyBall` or `HeavyBallNesterov`, behind an L2 `WeightDecay`.

    A momentum of 1 or more, and a dampening below 0 or of 1 or more, which torch takes, are refused.

    >>> ao.compat.torch.SGD(lr=0.1, momentum=0.9)
    HeavyBall(lr=0.1, momentum=0.9, dampening=0.0)
    """
    del foreach, fused
    refused("torch.optim.SGD", differentiable=differentiable)
    lr, weight_decay = given(nonnegative, lr=lr, weight_decay=weight_decay)
    momentum, dampening = given(fraction, momentum=momentum, dampening=dampening)
    if nesterov and (zero(momentum) or not zero(dampening)):
        raise ValueError(f"nesterov wants a momentum above 0 and no dampening; they are {momentum!r} and {dampening!r}")
    if zero(momentum):
        return _composed(maximize, weight_decay, optimizers.SGD(lr))
    kind = optimizers.HeavyBallNesterov if nesterov else optimizers.HeavyBall
    return _composed(maximize, weight_decay, kind(lr, momentum, dampening))


@without_params
def Adam(  # noqa: N802
    lr: Hyper = 1e-3,
    betas: Sequence[Hyper] = (0.9, 0.999),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    amsgrad: bool = False,
    *,
    foreach: Flag = None,
    maximize: bool = False,
    capturable: bool = False,
    differentiable: bool = False,
    fused: Flag = None,
    decoupled_weight_decay: bool = False,
) -> Optimizer:
    """torch.optim.Adam: `Adam` or `AMSGrad` behind an L2 `WeightDecay`; or `AdamW`, or an `AMSGrad` that decays.

    >>> ao.compat.torch.Adam(lr=0.1, betas=(0.9, 0.95))
    Adam(lr=0.1, beta1=0.9, beta2=0.95, eps=0.0, eps_corrected=1e-08)
    """
    del foreach, capturable, fused
    refused("torch.optim.Adam", differentiable=differentiable)
    beta1, beta2 = _pair("betas", betas, fraction)
    lr, eps, weight_decay = given(nonnegative, lr=lr, eps=eps, weight_decay=weight_decay)
    l2, own = (0.0, weight_decay) if decoupled_weight_decay else (weight_decay, 0.0)
    method: Optimizer
    if amsgrad:
        method = optimizers.AMSGrad(lr, beta1, beta2, 0.0, eps_corrected=eps, weight_decay=own)
    elif decoupled_weight_decay:
        method = optimizers.AdamW(lr, beta1, beta2, 0.0, own, eps_corrected=eps)
    else:
        method = optimizers.Adam(lr, beta1, beta2, 0.0, eps_corrected=eps)
    return _composed(maximize, l2, method)


@without_params
def AdamW(  # noqa: N802
    lr: Hyper = 1e-3,
    betas: Sequence[Hyper] = (0.9, 0.999),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    foreach: Flag = None,
    capturable: bool = False,
    differentiable: bool = False,
    fused: Flag = None,
) -> Optimizer:
    """torch.optim.AdamW: `AdamW`, or `AMSGrad` with decoupled decay.

    >>> ao.compat.torch.AdamW(lr=0.1, weight_decay=0.1)
    AdamW(lr=0.1, beta1=0.9, beta2=0.999, eps=0.0, weight_decay=0.1, eps_corrected=1e-08)
    """
    del foreach, capturable, fused
    refused("torch.optim.AdamW", differentiable=differentiable)
    return Adam(lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True)


@without_params
def Adamax(  # noqa: N802
    lr: Hyper = 2e-3,
    betas: Sequence[Hyper] = (0.9, 0.999),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    foreach: Flag = None,
    *,
    maximize: bool = False,
    differentiable: bool = False,
    capturable: bool = False,
) -> Optimizer:
    """torch.optim.Adamax: `Adamax` with its eps inside the maximum, behind an L2 `WeightDecay`.

    >>> ao.compat.torch.Adamax(lr=0.1)
    Adamax(lr=0.1, beta1=0.9, beta2=0.999, eps=0.0, eps_max=1e-08)
    """
    del foreach, capturable
    refused("torch.optim.Adamax", differentiable=differentiable)
    beta1, beta2 = _pair("betas", betas, fraction)
    lr, eps, weight_decay = given(nonnegative, lr=lr, eps=eps, weight_decay=weight_decay)
    return _composed(maximize, weight_decay, optimizers.Adamax(lr, beta1, beta2, 0.0, eps_max=eps))


@without_params
def NAdam(  # noqa: N802
    lr: Hyper = 2e-3,
    betas: Sequence[Hyper] = (0.9, 0.999),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    momentum_decay: Hyper = 4e-3,
    decoupled_weight_decay: bool = False,
    *,
    foreach: Flag = None,
    maximize: bool = False,
    capturable: bool = False,
    differentiable: bool = False,
) -> Optimizer:
    """torch.optim.NAdam: `NAdam`, behind an L2 `WeightDecay`, or with its own.

    torch multiplies up its momenta, in float32 unless its default is float64; here the product is exact, and as if they
    had always been those of today.

    >>> ao.compat.torch.NAdam(lr=0.1)
    NAdam(lr=0.1, beta1=0.9, beta2=0.999, eps=1e-08)
    """
    del foreach, capturable
    refused("torch.optim.NAdam", differentiable=differentiable)
    beta1, beta2 = _pair("betas", betas, fraction)
    lr, eps, weight_decay = given(nonnegative, lr=lr, eps=eps, weight_decay=weight_decay)
    (momentum_decay,) = given(nonnegative, momentum_decay=momentum_decay)
    l2, own = (0.0, weight_decay) if decoupled_weight_decay else (weight_decay, 0.0)
    method = optimizers.NAdam(lr, beta1, beta2, eps, momentum_decay=momentum_decay, weight_decay=own)
    return _composed(maximize, l2, method)


@without_params
def RAdam(  # noqa: N802
    lr: Hyper = 1e-3,
    betas: Sequence[Hyper] = (0.9, 0.999),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    decoupled_weight_decay: bool = False,
    *,
    foreach: Flag = None,
    maximize: bool = False,
    capturable: bool = False,
    differentiable: bool = False,
) -> Optimizer:
    """torch.optim.RAdam: `RAdam`, behind an L2 `WeightDecay`, or with its own.

    >>> ao.compat.torch.RAdam(lr=0.1)
    RAdam(lr=0.1, beta1=0.9, beta2=0.999, eps=1e-08)
    """
    del foreach, capturable
    refused("torch.optim.RAdam", differentiable=differentiable)
    beta1, beta2 = _pair("betas", betas, fraction)
    lr, eps, weight_decay = given(nonnegative, lr=lr, eps=eps, weight_decay=weight_decay)
    l2, own = (0.0, weight_decay) if decoupled_weight_decay else (weight_decay, 0.0)
    return _composed(maximize, l2, optimizers.RAdam(lr, beta1, beta2, eps, weight_decay=own))


@without_params
def Adagrad(  # noqa: N802
    lr: Hyper = 1e-2,
    lr_decay: Hyper = 0,
    weight_decay: Hyper = 0,
    initial_accumulator_value: float = 0,
    eps: Hyper = 1e-10,
    foreach: Flag = None,
    *,
    maximize: bool = False,
    differentiable: bool = False,
    fused: Flag = None,
) -> Optimizer:
    """torch.optim.Adagrad: `AdaGrad` behind an L2 `WeightDecay`.

    >>> ao.compat.torch.Adagrad(lr=0.1)
    AdaGrad(lr=0.1, eps=1e-10)
    """
    del foreach, fused
    refused("torch.optim.Adagrad", differentiable=differentiable)
    lr, lr_decay, eps, weight_decay = given(nonnegative, lr=lr, lr_decay=lr_decay, eps=eps, weight_decay=weight_decay)
    initial = nonnegative.value("initial_accumulator_value", initial_accumulator_value)
    return _composed(maximize, weight_decay, optimizers.AdaGrad(lr, eps, initial=initial, lr_decay=lr_decay))


@without_params
def RMSprop(  # noqa: N802
    lr: Hyper = 1e-2,
    alpha: Hyper = 0.99,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    momentum: Hyper = 0,
    centered: bool = False,
    capturable: bool = False,
    foreach: Flag = None,
    maximize: bool = False,
    differentiable: bool = False,
) -> Optimizer:
    """torch.optim.RMSprop: `RMSProp` or `CenteredRMSProp` behind an L2 `WeightDecay`.

    With momentum it has an lr of 1, and behind it are a `Trace` and the lr, a `Scale`. An alpha or a momentum of 1 or
    more, which torch takes, is refused.

    >>> ao.compat.torch.RMSprop(lr=0.1, centered=True)
    CenteredRMSProp(lr=0.1, rho=0.99, eps=1e-08)
    """
    del foreach, capturable
    refused("torch.optim.RMSprop", differentiable=differentiable)
    lr, eps, weight_decay = given(nonnegative, lr=lr, eps=eps, weight_decay=weight_decay)
    alpha, momentum = given(fraction, alpha=alpha, momentum=momentum)
    kind = optimizers.CenteredRMSProp if centered else optimizers.RMSProp
    if zero(momentum):
        return _composed(maximize, weight_decay, kind(lr, alpha, eps))
    last = Scale(lr)
    return composed(
        *_before(maximize, weight_decay), kind(1.0, alpha, eps), Trace(momentum), last, of=last, name="factor"
    )


@without_params
def Adadelta(  # noqa: N802
    lr: Hyper = 1.0,
    rho: Hyper = 0.9,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0,
    foreach: Flag = None,
    *,
    capturable: bool = False,
    maximize: bool = False,
    differentiable: bool = False,
) -> Optimizer:
    """torch.optim.Adadelta: `AdaDelta` behind an L2 `WeightDecay`. A rho of 1, which torch takes, is refused.

    >>> ao.compat.torch.Adadelta()
    AdaDelta(lr=1.0, rho=0.9, eps=1e-06)
    """
    del foreach, capturable
    refused("torch.optim.Adadelta", differentiable=differentiable)
    lr, eps, weight_decay = given(nonnegative, lr=lr, eps=eps, weight_decay=weight_decay)
    (rho,) = given(fraction, rho=rho)
    return _composed(maximize, weight_decay, optimizers.AdaDelta(lr, rho, eps))


@without_params
def Rprop(  # noqa: N802
    lr: float = 1e-2,
    etas: Sequence[Hyper] = (0.5, 1.2),
    step_sizes: Sequence[Hyper] = (1e-6, 50),
    *,
    capturable: bool = False,
    foreach: Flag = None,
    maximize: bool = False,
    differentiable: bool = False,
) -> Optimizer:
    """torch.optim.Rprop: `Rprop` whose `initial` is lr.

    Torch reads its lr but once, before the first step; a schedule of it is refused. The `lr` of the optimizer is a
    factor to all steps, which torch has not: 1.

    >>> ao.compat.torch.Rprop(lr=0.1)
    Rprop(lr=1.0, eta_minus=0.5, eta_plus=1.2, step_min=1e-06, step_max=50.0, initial=0.1)
    """
    del capturable, foreach
    refused("torch.optim.Rprop", differentiable=differentiable)
    if callable(lr):
        raise TypeError(f"lr is {lr!r}, and Rprop reads it but once; wanted a number")
    initial = nonnegative.value("lr", lr)
    minus, plus = _pair("etas", etas, fraction, _from_one)
    least, most = _pair("step_sizes", step_sizes, nonnegative)
    return _composed(maximize, 0.0, optimizers.Rprop(1.0, minus, plus, least, most, initial=initial))


@without_params
def ASGD(  # noqa: N802
    lr: Hyper = 1e-2,
    lambd: Hyper = 1e-4,
    alpha: Hyper = 0.75,
    t0: Hyper = 1e6,
    weight_decay: Hyper = 0,
    foreach: Flag = None,
    maximize: bool = False,
    differentiable: bool = False,
    capturable: bool = False,
) -> Optimizer:
    """torch.optim.ASGD: `ASGD` behind an L2 `WeightDecay`.

    Torch computes the rate of a step at the end of the parameter's step before, in float32 unless its default is
    float64: a schedule of lr is a step late, as there, but not later for a parameter that rested.

    >>> ao.compat.torch.ASGD(lr=0.1)
    ASGD(lr=0.1, lambd=0.0001, alpha=0.75, t0=1000000.0)
    """
    del foreach, capturable
    refused("torch.optim.ASGD", differentiable=differentiable)
    lr, lambd, weight_decay = given(nonnegative, lr=lr, lambd=lambd, weight_decay=weight_decay)
    alpha, t0 = given(nonnegative, alpha=alpha, t0=t0)
    return _composed(maximize, weight_decay, optimizers.ASGD(Lagged(lr) if callable(lr) else lr, lambd, alpha, t0))


@without_params
def Adafactor(  # noqa: N802
    lr: Hyper = 1e-2,
    beta2_decay: float = -0.8,
    eps: Sequence[Any] = (None, 1e-3),
    d: Hyper = 1.0,
    weight_decay: Hyper = 0.0,
    *,
    foreach: Flag = None,
    maximize: bool = False,
) -> Optimizer:
    """torch.optim.Adafactor: `Adafactor` with its eps as a lower bound: of None, the eps of the parameter's dtype.

    >>> ao.compat.torch.Adafactor(lr=0.1)
    TorchAdafactor(lr=0.1, decay=0.8, eps=0.0, floor=0.001, clip=1.0)
    """
    del foreach
    if len(eps) != 2:
        raise ValueError(f"eps is {eps!r}; wanted two")
    first, floor = eps
    lr, floor, weight_decay = given(nonnegative, lr=lr, **{"eps[1]": floor}, weight_decay=weight_decay)
    (least,) = given(nonnegative, **{"eps[0]": 0.0 if first is None else first})
    (clip,) = given(positive, d=d)
    decay = -_nonpositive.value("beta2_decay", beta2_decay)
    kind = TorchAdafactor if first is None else optimizers.Adafactor
    return _composed(maximize, 0.0, kind(lr, decay, 0.0, floor, clip, least=least, weight_decay=weight_decay))


@without_params
def Muon(  # noqa: N802
    lr: Hyper = 1e-3,
    weight_decay: Hyper = 0.1,
    momentum: Hyper = 0.95,
    nesterov: bool = True,
    ns_coefficients: Sequence[Hyper] = (3.4445, -4.775, 2.0315),
    eps: Hyper = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
) -> Optimizer:
    """torch.optim.Muon: `Muon` with its eps as a lower bound.

    Torch makes the matrix orthogonal in bfloat16, of 1/256; here it is float32 or float64, which is as near to torch as
    torch is to itself.

    >>> ao.compat.torch.Muon(lr=0.1)
    Muon(lr=0.1, momentum=0.95, weight_decay=0.1, eps=0.0, least=1e-07)
    """
    if adjust_lr_fn not in {None, "original", "match_rms_adamw"}:
        raise ValueError(f"adjust_lr_fn is {adjust_lr_fn!r}; wanted 'original', 'match_rms_adamw' or None")
    if len(ns_coefficients) != 3:
        raise ValueError(f"ns_coefficients is {ns_coefficients!r}; wanted three")
    lr, weight_decay, eps = given(nonnegative, lr=lr, weight_decay=weight_decay, eps=eps)
    (momentum,) = given(fraction, momentum=momentum)
    a, b, c = given(number, **{f"ns_coefficients[{i}]": value for i, value in enumerate(ns_coefficients)})
    return optimizers.Muon(
        lr,
        momentum,
        weight_decay,
        steps=ns_steps,
        eps=0.0,
        least=eps,
        ahead=1.0 if nesterov else 0.0,
        rms=0.2 if adjust_lr_fn == "match_rms_adamw" else 0.0,
        a=a,
        b=b,
        c=c,
    )


class TorchAdafactor(optimizers.Adafactor):
    """Adafactor whose `least` is the eps of the parameter's dtype, where no group has another."""

    def overrides(self, path: str, p: Array) -> Mapping[str, Hyper]:
        """Give each parameter the eps of its dtype."""
        return {"least": float(library(p).xp.finfo(p.dtype).eps)}


class Lagged(Schedule):
    """Another schedule, one step late: at the first two steps what it is at the first."""

    arguments = ("schedule",)

    def __init__(self, schedule: Hyper) -> None:
        self.schedule = as_schedule("schedule", schedule)

    def _value(self, n: Any) -> Any:
        return value_of("schedule", self.schedule, where(n > 0, n, 1))


def _pair(name: str, values: Sequence[Hyper], first: Domain, second: Domain | None = None) -> list[Any]:
    if len(values) != 2:
        raise ValueError(f"{name} is {values!r}; wanted two")
    return given(first, **{f"{name}[0]": values[0]}) + given(second or first, **{f"{name}[1]": values[1]})


def _before(maximize: bool, weight_decay: Hyper) -> tuple[Any, Any]:
    return Maximize() if maximize else None, None if zero(weight_decay) else WeightDecay(weight_decay)


def _composed(maximize: bool, weight_decay: Hyper, method: Optimizer) -> Optimizer:
    return composed(*_before(maximize, weight_decay), method, of=method)
