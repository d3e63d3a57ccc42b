"""Optax's Adam and its relatives: its names, parameters, order and defaults, over the methods here."""

from __future__ import annotations

from typing import Any

from anyoptim._core._chain import chain
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import Hyper
from anyoptim._trace._scalars import one_minus_power, sqrt
from anyoptim.compat._counts import Product, rate
from anyoptim.compat.optax._decay import decay, decoupled
from anyoptim.compat.optax._masks import accumulator
from anyoptim.compat.optax._variants import NesterovAdaBelief, NesterovRAdam, OptaxAdan, OptaxYogi
from anyoptim.optimizers import AdaBelief, Adam, Adamax, AdamW, AMSGrad, CorrectedAMSGrad, NAdam, RAdam
from anyoptim.stages import Scale, TrustRatio

__all__ = [
    "adabelief",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "amsgrad",
    "lamb",
    "nadam",
    "nadamw",
    "radam",
    "yogi",
]


def adam(
    learning_rate: Hyper,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> Optimizer:
    """`Adam` with its eps at the root of the corrected v; with `nesterov` `NAdam` without warmup.

    >>> ao.compat.optax.adam(0.1)
    Adam(lr=0.1, beta1=0.9, beta2=0.999, eps=0.0, joint=True, eps_corrected=1e-08)
    """
    return adamw(learning_rate, b1, b2, eps, eps_root, mu_dtype, 0.0, nesterov=nesterov)


def adamw(
    learning_rate: Hyper,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    weight_decay: Hyper = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
) -> Optimizer:
    """`AdamW`; with a mask or `nesterov` a chain of `Adam` or `NAdam`, `WeightDecay` and `Scale`.

    >>> ao.compat.optax.adamw(0.1)
    AdamW(lr=0.1, beta1=0.9, beta2=0.999, eps=0.0, weight_decay=0.0001, joint=True, eps_corrected=1e-08)
    """
    accumulator("mu_dtype", mu_dtype)
    own: Any = {"eps_corrected": eps, "eps_root": eps_root, "joint": True}
    if nesterov:
        return decoupled(
            lambda lr: NAdam(lr, b1, b2, eps, warmup=0.0, eps_root=eps_root, joint=True),
            learning_rate,
            weight_decay,
            mask,
        )
    if mask is None and decay("mask", weight_decay, mask):
        return AdamW(rate(learning_rate), b1, b2, 0.0, rate(weight_decay), **own)
    return decoupled(lambda lr: Adam(lr, b1, b2, 0.0, **own), learning_rate, weight_decay, mask)


def amsgrad(
    learning_rate: Hyper,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> Optimizer:
    """`CorrectedAMSGrad`; without `bias_correction_nu` `AMSGrad`. What is not corrected, schedules undo.

    >>> ao.compat.optax.amsgrad(0.1)
    CorrectedAMSGrad(lr=0.1, beta1=0.9, beta2=0.999, eps=1e-08, joint=True)
    """
    accumulator("mu_dtype", mu_dtype)
    lr: Any = rate(learning_rate)
    if not bias_correction_mu:
        lr = Product(lr, _Correction(b1))
    if bias_correction_nu:
        return CorrectedAMSGrad(lr, b1, b2, eps, eps_root=eps_root, joint=True)
    root = _Correction(b2, rooted=True)
    return AMSGrad(
        Product(lr, _Inverse(root)),
        b1,
        b2,
        eps,
        eps_root=Product(eps_root, _Inverse(_Correction(b2))) if eps_root else 0.0,
        joint=True,
    )


class _Correction:
    """`1 - beta**t`, or its root, as a schedule."""

    def __init__(self, beta: float, *, rooted: bool = False) -> None:
        self._beta, self._rooted = beta, rooted

    def __call__(self, t: Any) -> Any:
        c = one_minus_power(self._beta, t)
        return sqrt(c) if self._rooted else c


class _Inverse:
    """1 over a schedule."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __call__(self, t: Any) -> Any:
        return 1 / self._of(t)


def nadam(
    learning_rate: Hyper,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
) -> Optimizer:
    """`NAdam` without warmup; `adam` without `nesterov`.

    >>> ao.compat.optax.nadam(0.1)
    NAdam(lr=0.1, beta1=0.9, beta2=0.999, eps=1e-08, joint=True, warmup=0.0)
    """
    return adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)


def nadamw(
    learning_rate: Hyper,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    weight_decay: Hyper = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = True,
) -> Optimizer:
    """`NAdam` without warmup, `WeightDecay` and `Scale`; `adamw` without `nesterov`.

    >>> ao.compat.optax.nadamw(0.1).update(np.ones(2), np.ones(2)).round(3)
    array([0.853, 0.853])
    """
    return adamw(learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov=nesterov)


def adamax(learning_rate: Hyper, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Optimizer:
    """`Adamax` with its eps inside the maximum.

    >>> ao.compat.optax.adamax(0.1)
    Adamax(lr=0.1, beta1=0.9, beta2=0.999, eps=0.0, joint=True, eps_max=1e-08)
    """
    return Adamax(rate(learning_rate), b1, b2, 0.0, eps_max=eps, joint=True)


def adamaxw(
    learning_rate: Hyper,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: Hyper = 1e-4,
    mask: Any = None,
) -> Optimizer:
    """`Adamax`, `WeightDecay` and `Scale`.

    >>> ao.compat.optax.adamaxw(0.1).update(np.ones(2), np.ones(2)).round(3)
    array([0.9, 0.9])
    """
    return decoupled(lambda lr: Adamax(lr, b1, b2, 0.0, eps_max=eps, joint=True), learning_rate, weight_decay, mask)


def adabelief(
    learning_rate: Hyper,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-16,
    eps_root: float = 1e-16,
    *,
    nesterov: bool = False,
) -> Optimizer:
    """`AdaBelief`; with `nesterov` it looks ahead.

    >>> ao.compat.optax.adabelief(0.1)
    AdaBelief(lr=0.1, beta1=0.9, beta2=0.999, eps=1e-16, eps_root=1e-16, joint=True)
    """
    return (NesterovAdaBelief if nesterov else AdaBelief)(rate(learning_rate), b1, b2, eps, eps_root, joint=True)


def adan(
    learning_rate: Hyper,
    b1: float = 0.98,
    b2: float = 0.92,
    b3: float = 0.99,
    eps: float = 1e-8,
    eps_root: float = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Any = None,
) -> Optimizer:
    """`Adan` with `1-b2` where the paper has b2, and a decay as in `AdamW`.

    >>> ao.compat.optax.adan(0.1)
    OptaxAdan(lr=0.1, beta1=0.98, beta2=0.92, beta3=0.99, eps=1e-08, weight_decay=0.0, joint=True, eps_root=1e-08)
    """
    return decoupled(
        lambda lr: OptaxAdan(lr, b1, b2, b3, eps, 0.0, eps_root=eps_root, joint=True), learning_rate, weight_decay, mask
    )


def radam(
    learning_rate: Hyper,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    threshold: float = 5.0,
    *,
    nesterov: bool = False,
) -> Optimizer:
    """`RAdam` with its eps at the root of the corrected v; with `nesterov` it looks ahead.

    >>> ao.compat.optax.radam(0.1)
    RAdam(lr=0.1, beta1=0.9, beta2=0.999, eps=0.0, joint=True, eps_corrected=1e-08)
    """
    method = NesterovRAdam if nesterov else RAdam
    own: Any = {"threshold": threshold, "eps_corrected": eps, "eps_root": eps_root}
    return method(rate(learning_rate), b1, b2, 0.0, joint=True, **own)


def yogi(learning_rate: Hyper, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-3) -> Optimizer:
    """`CorrectedYogi` whose m starts at 1e-6, too.

    >>> ao.compat.optax.yogi(0.1)
    OptaxYogi(lr=0.1, beta1=0.9, beta2=0.999, eps=0.001, joint=True)
    """
    return OptaxYogi(rate(learning_rate), b1, b2, eps, joint=True)


def lamb(
    learning_rate: Hyper,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    eps_root: float = 0.0,
    weight_decay: Hyper = 0.0,
    mask: Any = None,
) -> Optimizer:
    """`Adam`, `WeightDecay`, `TrustRatio` and `Scale`: `LAMB`, with an eps_root and a mask.

    >>> ao.compat.optax.lamb(0.1).update(np.ones(2), np.ones(2)).round(3)
    array([0.9, 0.9])
    """
    return chain(
        Adam(1.0, b1, b2, 0.0, eps_corrected=eps, eps_root=eps_root, joint=True),
        *decay("mask", weight_decay, mask),
        TrustRatio(),
        Scale(rate(learning_rate)),
    )
