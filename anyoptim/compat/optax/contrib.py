"""The optimizers of optax.contrib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyoptim._core._chain import chain, partition
from anyoptim._core._optimizer import Optimizer
from anyoptim._stage._stage import Stage
from anyoptim._trace._hyperparameters import Hyper
from anyoptim._trace._scalars import whole_number
from anyoptim.compat._counts import NextValue, rate
from anyoptim.compat.optax._adams import adamw
from anyoptim.compat.optax._masks import accumulator, masked
from anyoptim.compat.optax._schedule_free import OptaxScheduleFreeAdamW, OptaxScheduleFreeSGD
from anyoptim.compat.optax._schedules import warmup_constant_schedule
from anyoptim.compat.optax._whole import OptaxAdaptiveMuon, OptaxAdaptiveNesterovMuon, OptaxMuon, OptaxNesterovMuon
from anyoptim.stages import Scale, WeightDecay

__all__ = ["muon", "schedule_free_adamw", "schedule_free_sgd"]

_PRESETS: dict[str, Sequence[Any]] = {
    "standard": (3.4445, -4.7750, 2.0315),
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}


def _matrix(path: str, p: Any) -> bool:
    return len(p.shape) == 2


def muon(
    learning_rate: Hyper,
    ns_coeffs: Any = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    beta: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: float = 0.9,
    adam_b2: float = 0.999,
    adam_eps_root: float = 0.0,
    adam_weight_decay: float = 0.0,
    adam_learning_rate: Hyper | None = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: float | None = None,
) -> Optimizer:
    """A `partition`: matrices to Muon with a corrected mean, `WeightDecay` and `Scale`, others to AdamW.

    Refuses other `preconditioning` than "frobenius", and `muon_weight_dimension_numbers`.

    >>> ao.compat.optax.contrib.muon(0.1).update(np.eye(2), np.eye(2)).round(3)
    array([[0.889, 0.   ],
           [0.   , 0.889]])
    """
    accumulator("mu_dtype", mu_dtype)
    if preconditioning != "frobenius":
        raise ValueError(f"preconditioning is {preconditioning!r}; wanted 'frobenius'")
    if muon_weight_dimension_numbers is not None:
        raise ValueError(
            f"muon_weight_dimension_numbers is {muon_weight_dimension_numbers!r}; wanted None: matrices, rows in"
        )
    methods = {
        (False, False): OptaxMuon,
        (True, False): OptaxNesterovMuon,
        (False, True): OptaxAdaptiveMuon,
        (True, True): OptaxAdaptiveNesterovMuon,
    }
    method = methods[bool(nesterov), bool(adaptive)]
    direction = method(beta, eps, ns=_polynomials(ns_coeffs, ns_steps), rms=consistent_rms)
    decay: list[Stage] = []
    if weight_decay:
        decay = [WeightDecay(weight_decay, where=masked("weight_decay_mask", weight_decay_mask))]
    return partition(
        {
            _matrix: chain(direction, *decay, Scale(rate(learning_rate))),
            ...: adamw(
                learning_rate if adam_learning_rate is None else adam_learning_rate,
                adam_b1,
                adam_b2,
                eps,
                adam_eps_root,
                mu_dtype,
                adam_weight_decay,
                nesterov=nesterov,
            ),
        }
    )


def _polynomials(coeffs: Any, steps: int) -> list[tuple[float, float, float]]:
    """A polynomial for each step: of a longer list the last ones."""
    if isinstance(coeffs, str):
        if coeffs not in _PRESETS:
            raise ValueError(f"ns_coeffs is {coeffs!r}; wanted one of {', '.join(_PRESETS)}, or three numbers")
        coeffs = _PRESETS[coeffs]
    steps = whole_number("ns_steps", steps)
    several: list[Any] = [tuple(map(float, abc)) if isinstance(abc, Sequence) else float(abc) for abc in coeffs]
    if all(isinstance(abc, float) for abc in several):
        several = [tuple(several)] * steps
    elif len(several) > steps:
        raise ValueError(f"ns_coeffs has {len(several)} for {steps} ns_steps; wanted no more")
    if any(not isinstance(abc, tuple) or len(abc) != 3 for abc in several):
        raise ValueError(f"ns_coeffs is {coeffs!r}; wanted three numbers, or three for each step")
    return several[-steps:]


def schedule_free_sgd(
    learning_rate: float = 1.0,
    warmup_steps: int | None = None,
    b1: float = 0.9,
    weight_decay: float | None = None,
    weight_lr_power: float = 2.0,
    state_dtype: Any = None,
) -> Optimizer:
    """`ScheduleFreeSGD` with weights by the largest rate so far.

    >>> ao.compat.optax.contrib.schedule_free_sgd(0.1)
    OptaxScheduleFreeSGD(lr=0.1, beta=0.9, weight_decay=0.0, weigh=0.1, exponent=2.0)
    """
    accumulator("state_dtype", state_dtype)
    return OptaxScheduleFreeSGD(
        beta=b1,
        weight_decay=0.0 if weight_decay is None else weight_decay,
        exponent=weight_lr_power,
        **_warmed(learning_rate, warmup_steps),
    )


def schedule_free_adamw(
    learning_rate: float = 0.0025,
    warmup_steps: int | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_lr_power: float = 2.0,
    state_dtype: Any = None,
) -> Optimizer:
    """`ScheduleFreeAdamW` with weights by the largest rate so far, and its eps at the root of the corrected v.

    >>> ao.compat.optax.contrib.schedule_free_adamw(0.1).update(np.ones(2), np.ones(2)).round(3)
    array([0.9, 0.9])
    """
    accumulator("state_dtype", state_dtype)
    return OptaxScheduleFreeAdamW(
        beta=b1,
        beta2=b2,
        eps=eps,
        weight_decay=weight_decay,
        exponent=weight_lr_power,
        joint=True,
        **_warmed(learning_rate, warmup_steps),
    )


def _warmed(learning_rate: Any, warmup_steps: int | None) -> dict[str, Any]:
    """The rate of a step, and that by which optax weighs it: the next one's."""
    if callable(learning_rate):
        raise TypeError(f"learning_rate is {learning_rate!r}; wanted a number, which warmup_steps lead up to")
    if warmup_steps is None:
        return {"lr": learning_rate, "weigh": learning_rate}
    schedule = warmup_constant_schedule(0.0, learning_rate, warmup_steps)
    return {"lr": rate(schedule), "weigh": NextValue(schedule)}
