"""Schedules beside torch's and optax's, run for real.

Tolerances: torch multiplies its last value at each step, so that 300 steps bring up to 300 times a few roundings of
2**-53 each, below 1e-12 in all. optax runs in float64 here (`jax.enable_x64`), and a dozen roundings of numbers no
larger than the largest value are below 1e-14 of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from anyoptim.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    Linear,
    MultiStep,
    OneCycle,
    Plateau,
    Polynomial,
    StepDecay,
    WarmupStableDecay,
    join,
    piecewise,
    warmup,
    warmup_cosine,
)
from tests.support.libraries import Library

STEPS = 300
LR = 0.3

TORCH: dict[str, tuple[Any, Callable[[Any, Any], Any]]] = {
    "StepLR": (StepDecay(LR, 30, 0.7), lambda s, o: s.StepLR(o, 30, 0.7)),
    "MultiStepLR": (MultiStep(LR, [1, 70, 71, 200], 0.4), lambda s, o: s.MultiStepLR(o, [1, 70, 71, 200], 0.4)),
    "ExponentialLR": (Exponential(LR, 0.98), lambda s, o: s.ExponentialLR(o, 0.98)),
    "PolynomialLR": (Polynomial(LR, 220, power=0.9), lambda s, o: s.PolynomialLR(o, 220, 0.9)),
    "LinearLR": (Linear(LR / 4, 220, LR * 0.9), lambda s, o: s.LinearLR(o, 0.25, 0.9, 220)),
    "ConstantLR": (join([LR / 4, LR], [50]), lambda s, o: s.ConstantLR(o, 0.25, 50)),
    "CosineAnnealingLR": (Cosine(LR, STEPS, 0.01), lambda s, o: s.CosineAnnealingLR(o, STEPS, 0.01)),
    "CosineAnnealingWarmRestarts": (
        CosineRestarts(LR, 30, 0.01),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 30, 1, 0.01),
    ),
    "CosineAnnealingWarmRestarts, longer": (
        CosineRestarts(LR, 7, 0.01, growth=3),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 7, 3, 0.01),
    ),
    "OneCycleLR": (
        OneCycle(LR, STEPS - 1, STEPS // 4 - 1),
        lambda s, o: s.OneCycleLR(o, LR, STEPS, pct_start=0.25),
    ),
    "OneCycleLR, linear in three phases": (
        OneCycle(LR, STEPS - 1, STEPS // 4 - 1, STEPS // 4 - 1, LR / 10, LR / 1000, "linear"),
        lambda s, o: s.OneCycleLR(
            o,
            LR,
            STEPS,
            pct_start=0.25,
            anneal_strategy="linear",
            div_factor=10,
            final_div_factor=100,
            three_phase=True,
        ),
    ),
    "SequentialLR": (
        join([Linear(LR / 10, 20, LR), Exponential(LR, 0.97), Cosine(LR, 150)], [20, 150]),
        lambda s, o: s.SequentialLR(
            o, [s.LinearLR(o, 0.1, 1.0, 20), s.ExponentialLR(o, 0.97), s.CosineAnnealingLR(o, 150)], [20, 150]
        ),
    ),
} | {
    f"CyclicLR, {mode}": (
        Cyclic(0.01, LR, 17, 30, mode, gamma),
        lambda s, o, mode=mode, gamma=gamma: s.CyclicLR(o, 0.01, LR, 17, 30, mode, gamma),
    )
    for mode, gamma in (("triangular", 1.0), ("triangular2", 1.0), ("exp_range", 0.99))
}


def _torch_optimizer(torch: Any) -> Any:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR, momentum=0.9)


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # torch's own, in SequentialLR
def test_beside_torch(name: str, need: Callable[[str], Library]) -> None:
    """The learning rates of 300 steps of a torch optimizer under its scheduler, from the first step on."""
    need("torch")
    import torch

    ours, make = TORCH[name]
    optimizer = _torch_optimizer(torch)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    theirs = []
    for t in range(1, STEPS + 1):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if t < STEPS:
            scheduler.step()
    np.testing.assert_allclose([ours(t) for t in range(1, STEPS + 1)], theirs, rtol=1e-12, atol=1e-12 * LR)


def test_momentum_beside_torchs_one_cycle(need: Callable[[str], Library]) -> None:
    """The momentum goes down and up, by the class that takes learning rates up and down."""
    need("torch")
    import torch

    ours = OneCycle(0.85, STEPS - 1, STEPS // 4 - 1, start=0.95, end=0.95)
    optimizer = _torch_optimizer(torch)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, STEPS, pct_start=0.25)
    for t in range(1, STEPS + 1):
        assert ours(t) == pytest.approx(optimizer.param_groups[0]["momentum"], rel=1e-14)
        optimizer.step()
        if t < STEPS:
            scheduler.step()


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize(("patience", "cooldown", "minimum"), [(0, 0, 0.0), (3, 0, 0.2), (2, 4, 0.0), (0, 2, 0.01)])
def test_plateau_beside_torch(
    mode: str, threshold_mode: str, patience: int, cooldown: int, minimum: float, need: Callable[[str], Library]
) -> None:
    """Noisy positive losses that improve ever more slowly, some NaN: the same reductions at the same times.

    A reduced rate is the product of the same factors in the same order, or off by one rounding for each.
    """
    need("torch")
    import torch

    rng = np.random.default_rng(7)
    losses = 1 + np.exp(-np.arange(STEPS) / 40) + 0.05 * rng.uniform(size=STEPS)
    losses = 3 - losses if mode == "max" else losses
    losses[[0, 50, 51, 120]] = np.nan
    ours = Plateau(LR, 0.8, patience, 0.01, threshold_mode, cooldown, minimum, mode)
    optimizer = _torch_optimizer(torch)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode=mode,
        factor=0.8,
        patience=patience,
        threshold=0.01,
        threshold_mode=threshold_mode,
        cooldown=cooldown,
        min_lr=minimum * LR,
        eps=0,
    )
    theirs, mine = [], []
    for t, loss in enumerate(losses, start=1):
        theirs.append(optimizer.param_groups[0]["lr"])
        mine.append(ours(t))
        scheduler.step(loss)
        ours.tell(loss)
    np.testing.assert_allclose(mine, theirs, rtol=1e-13)
    assert len(set(mine)) > 3  # it was reduced


OPTAX: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "constant_schedule": (Constant(LR), lambda o: o.constant_schedule(LR)),
    "polynomial_schedule": (Polynomial(LR, 120, 0.02, 1.7), lambda o: o.polynomial_schedule(LR, 0.02, 1.7, 120)),
    "polynomial_schedule, later": (
        join([LR, Polynomial(LR, 90, 0.02, 3)], [40]),
        lambda o: o.polynomial_schedule(LR, 0.02, 3, 90, 40),
    ),
    "linear_schedule": (Linear(0.01, 120, LR), lambda o: o.linear_schedule(0.01, LR, 120)),
    "exponential_decay": (Exponential(LR, 0.4, 50), lambda o: o.exponential_decay(LR, 50, 0.4)),
    "exponential_decay, staircase": (
        StepDecay(LR, 50, 0.4),
        lambda o: o.exponential_decay(LR, 50, 0.4, staircase=True),
    ),
    "cosine_decay_schedule": (Cosine(LR, 150, 0.2 * LR), lambda o: o.cosine_decay_schedule(LR, 150, 0.2)),
    "warmup_cosine_decay_schedule": (
        warmup_cosine(LR, 200, 30, 0.05, 0.02),
        lambda o: o.warmup_cosine_decay_schedule(0.05, LR, 30, 200, 0.02),
    ),
    "warmup_exponential_decay_schedule": (
        warmup(30, Exponential(LR, 0.6, 50), 0.05),
        lambda o: o.warmup_exponential_decay_schedule(0.05, LR, 30, 50, 0.6),
    ),
    "piecewise_constant_schedule": (
        piecewise({0: LR, 50: LR * 0.5, 180: LR * 0.1}, "constant"),
        lambda o: o.piecewise_constant_schedule(LR, {50: 0.5, 180: 0.2}),
    ),
    "piecewise_constant_schedule, by one factor": (
        MultiStep(LR, [50, 180], 0.5),
        lambda o: o.piecewise_constant_schedule(LR, {50: 0.5, 180: 0.5}),
    ),
    "piecewise_interpolate_schedule, linear": (
        piecewise({0: LR, 50: LR * 0.5, 180: LR}, "linear"),
        lambda o: o.piecewise_interpolate_schedule("linear", LR, {50: 0.5, 180: 2.0}),
    ),
    "piecewise_interpolate_schedule, cosine": (
        piecewise({0: LR, 50: LR * 0.5, 180: LR}, "cosine"),
        lambda o: o.piecewise_interpolate_schedule("cosine", LR, {50: 0.5, 180: 2.0}),
    ),
    "cosine_onecycle_schedule": (OneCycle(LR, 200), lambda o: o.cosine_onecycle_schedule(200, LR)),
    "linear_onecycle_schedule": (
        OneCycle(LR, 200, 60, 110, ease="linear"),
        lambda o: o.linear_onecycle_schedule(200, LR),
    ),
    "sgdr_schedule": (
        CosineRestarts(LR, 20, growth=2, decay=0.5),
        lambda o: o.sgdr_schedule(
            {"init_value": 0, "peak_value": LR * 0.5**i, "warmup_steps": 0, "decay_steps": 20 * 2**i} for i in range(5)
        ),
    ),
    "sgdr_schedule, warmed up": (
        join([warmup_cosine(LR, 80, 10), warmup_cosine(LR / 2, 300, 30)], [80]),
        lambda o: o.sgdr_schedule(
            [
                {"init_value": 0, "peak_value": LR, "warmup_steps": 10, "decay_steps": 80},
                {"init_value": 0, "peak_value": LR / 2, "warmup_steps": 30, "decay_steps": 300},
            ]
        ),
    ),
    "join_schedules": (
        WarmupStableDecay(LR, 30, 100, 70, 0.01, 0.02),
        lambda o: o.join_schedules(
            [o.linear_schedule(0.01, LR, 30), o.constant_schedule(LR), o.linear_schedule(LR, 0.02, 70)], [30, 130]
        ),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_beside_optax(name: str, need: Callable[[str], Library]) -> None:
    """The values of 300 steps: ours count from 1, optax's from 0."""
    need("jax-x64")
    import jax
    import jax.numpy as jnp
    import optax

    ours, make = OPTAX[name]
    with jax.enable_x64(True):
        schedule = jax.jit(make(optax))
        theirs = [float(schedule(jnp.asarray(n))) for n in range(STEPS)]
    np.testing.assert_allclose([ours(t) for t in range(1, STEPS + 1)], theirs, rtol=1e-14, atol=1e-14 * LR)
