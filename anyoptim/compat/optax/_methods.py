"""Optax's other optimizers: its names, parameters, order and defaults, over the methods here."""

from __future__ import annotations

import math
from typing import Any

from anyoptim._arrays import traced
from anyoptim._core._chain import chain
from anyoptim._core._optimizer import Optimizer
from anyoptim._stage._stage import Stage
from anyoptim._trace._hyperparameters import Hyper
from anyoptim.compat._counts import rate
from anyoptim.compat.optax._decay import decay, decoupled, known_zero
from anyoptim.compat.optax._masks import accumulator, masked
from anyoptim.compat.optax._stages import MaskedTrustRatio, NesterovStepTrace, StepTrace
from anyoptim.compat.optax._variants import (
    CorrectedCenteredRMSProp,
    CorrectedRMSProp,
    OptaxAdaGrad,
    OptaxCenteredRMSProp,
    OptaxRMSProp,
    OptaxRprop,
    SignSGD,
)
from anyoptim.compat.optax._whole import BlockRMS, ClipBlockRMS, FactoredRMS, Mean
from anyoptim.optimizers import (
    SGD,
    AdaDelta,
    AdaGrad,
    CenteredRMSProp,
    HeavyBall,
    HeavyBallNesterov,
    Lion,
    Momentum,
    Nesterov,
    RMSProp,
    Signum,
)
from anyoptim.stages import Scale, TrustRatio, WeightDecay

__all__ = [
    "adadelta",
    "adafactor",
    "adagrad",
    "lars",
    "lion",
    "rmsprop",
    "rprop",
    "sgd",
    "sign_sgd",
    "signum",
]


def sgd(
    learning_rate: Hyper, momentum: float | None = None, nesterov: bool = False, accumulator_dtype: Any = None
) -> Optimizer:
    """`SGD`, `HeavyBall` or `HeavyBallNesterov`.

    >>> ao.compat.optax.sgd(0.1, momentum=0.9)
    HeavyBall(lr=0.1, momentum=0.9, dampening=0.0)
    """
    accumulator("accumulator_dtype", accumulator_dtype)
    if momentum is None:
        return SGD(rate(learning_rate))
    return (HeavyBallNesterov if nesterov else HeavyBall)(rate(learning_rate), momentum)


def adagrad(learning_rate: Hyper, initial_accumulator_value: float = 0.1, eps: float = 1e-7) -> Optimizer:
    """`AdaGrad` with its eps inside the root; what has seen no gradient stays, also without eps.

    >>> ao.compat.optax.adagrad(0.1)
    AdaGrad(lr=0.1, eps=0.0, joint=True, initial=0.1, eps_root=1e-07)
    """
    method = OptaxAdaGrad if traced(eps) or known_zero(eps) else AdaGrad
    return method(rate(learning_rate), 0.0, initial=initial_accumulator_value, eps_root=eps, joint=True)


def adadelta(
    learning_rate: Hyper | None = None,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: Hyper = 0.0,
    weight_decay_mask: Any = None,
) -> Optimizer:
    """`AdaDelta` after a `WeightDecay`. Without a learning rate it climbs, as optax's does up to 0.2.8.

    >>> ao.compat.optax.adadelta(0.1)
    AdaDelta(lr=0.1, rho=0.9, eps=1e-06)
    """
    before = decay("weight_decay_mask", weight_decay, weight_decay_mask)
    if learning_rate is None:
        return chain(*before, AdaDelta(1.0, rho, eps), Scale(-1.0))
    method = AdaDelta(rate(learning_rate), rho, eps)
    return chain(*before, method) if before else method


def rmsprop(
    learning_rate: Hyper,
    decay: float = 0.9,
    eps: float = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: float | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> Optimizer:
    """`RMSProp` or `CenteredRMSProp` with optax's start and correction; with momentum a `Trace` of the steps after.

    >>> ao.compat.optax.rmsprop(0.1)
    RMSProp(lr=0.1, rho=0.9, eps=0.0, joint=True, eps_root=1e-08)
    """
    if bias_correction:
        method: Any = CorrectedCenteredRMSProp if centered else CorrectedRMSProp
    else:
        method = OptaxCenteredRMSProp if centered else OptaxRMSProp
    out, inside = (0.0, eps) if eps_in_sqrt else (eps, 0.0)
    if bias_correction or not known_zero(initial_scale):
        made: Optimizer = method(rate(learning_rate), decay, out, initial=initial_scale, eps_root=inside, joint=True)
    else:
        made = (CenteredRMSProp if centered else RMSProp)(rate(learning_rate), decay, out, eps_root=inside, joint=True)
    if momentum is None:
        return made
    return chain(made, (NesterovStepTrace if nesterov else StepTrace)(momentum))


def lion(
    learning_rate: Hyper,
    b1: float = 0.9,
    b2: float = 0.99,
    mu_dtype: Any = None,
    weight_decay: Hyper = 1e-3,
    mask: Any = None,
) -> Optimizer:
    """`Lion`; with a mask a chain of it, `WeightDecay` and `Scale`.

    >>> ao.compat.optax.lion(0.1)
    Lion(lr=0.1, beta1=0.9, beta2=0.99, weight_decay=0.001, joint=True)
    """
    accumulator("mu_dtype", mu_dtype)
    if mask is None:
        return Lion(rate(learning_rate), b1, b2, rate(weight_decay), joint=True)
    return decoupled(lambda lr: Lion(lr, b1, b2, joint=True), learning_rate, weight_decay, mask)


def lars(
    learning_rate: Hyper,
    weight_decay: Hyper = 0.0,
    weight_decay_mask: Any = True,
    trust_coefficient: float = 0.001,
    eps: float = 0.0,
    trust_ratio_mask: Any = True,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Optimizer:
    """`WeightDecay`, `TrustRatio` and `Momentum` or `Nesterov`.

    >>> ao.compat.optax.lars(0.1)
    chain(TrustRatio(share=0.001, eps=0.0), Momentum(lr=0.1, momentum=0.9))
    """
    among = masked("trust_ratio_mask", trust_ratio_mask)
    ratio = TrustRatio(trust_coefficient, eps)
    return chain(
        *decay("weight_decay_mask", weight_decay, weight_decay_mask),
        ratio if among is None else MaskedTrustRatio(trust_coefficient, eps, among=among),
        (Nesterov if nesterov else Momentum)(rate(learning_rate), momentum),
    )


def signum(learning_rate: Hyper, beta: float = 0.9, accumulator_dtype: Any = None) -> Optimizer:
    """`Signum`.

    >>> ao.compat.optax.signum(0.1)
    Signum(lr=0.1, momentum=0.9, joint=True)
    """
    accumulator("accumulator_dtype", accumulator_dtype)
    return Signum(rate(learning_rate), beta, joint=True)


def sign_sgd(learning_rate: Hyper) -> Optimizer:
    """The sign of the gradient: `Signum` without momentum, and without memory.

    >>> ao.compat.optax.sign_sgd(0.1)
    SignSGD(lr=0.1)
    """
    return SignSGD(rate(learning_rate))


def rprop(
    learning_rate: float,
    eta_minus: float = 0.5,
    eta_plus: float = 1.2,
    min_step_size: float = 1e-6,
    max_step_size: float = 50.0,
) -> Optimizer:
    """`Rprop` as optax has it, up to 0.2.8: each step one update late. `learning_rate` is the first step, a number.

    >>> ao.compat.optax.rprop(0.1)
    OptaxRprop(eta_minus=0.5, eta_plus=1.2, step_min=1e-06, step_max=50.0, initial=0.1)
    """
    if callable(learning_rate):
        raise TypeError(f"learning_rate is {learning_rate!r}; wanted a number, the first step of each element")
    return OptaxRprop(eta_minus, eta_plus, min_step_size, max_step_size, initial=learning_rate)


def adafactor(
    learning_rate: Hyper | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: float = 0.8,
    decay_offset: int = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: float | None = 1.0,
    momentum: float | None = None,
    dtype_momentum: Any = "float32",
    weight_decay_rate: Hyper | None = None,
    eps: float = 1e-30,
    factored: bool = True,
    weight_decay_mask: Any = None,
) -> Optimizer:
    """A chain of optax's parts: the second moment, clipping, rates, momentum and decay, in its order.

    optax computes the decay of the second moment in float32 whatever the parameters are, here it is float64; its
    steps up to `decay_offset` give NaN, which here forget what was before.

    >>> ao.compat.optax.adafactor(0.1).update(np.ones(2), np.ones(2)).round(3)
    array([0.9, 0.9])
    """
    accumulator("dtype_momentum", dtype_momentum)
    least = min_dim_size_to_factor if factored else math.inf
    stages: list[Stage] = [FactoredRMS(decay_rate, decay_offset, eps, least=least)]
    if clipping_threshold is not None:
        stages.append(ClipBlockRMS(clipping_threshold))
    if learning_rate is not None:
        stages.append(Scale(rate(learning_rate)))
    if multiply_by_parameter_scale:
        stages.append(BlockRMS())
    if momentum is not None:
        stages.append(Mean(momentum))
    if weight_decay_rate is not None:
        stages.append(WeightDecay(rate(weight_decay_rate), where=masked("weight_decay_mask", weight_decay_mask)))
    return chain(*stages)
