"""The schedulers of torch.optim.lr_scheduler as schedules: torch's names and defaults, and its learning rates."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from anyoptim.compat.torch import lr_scheduler as ours
from tests.support.libraries import Library
from tests.support.options import both, flag, one_of, or_zero, powers, uniform

STEPS = 300
DRAWS = range(6)


def whole(low: int, high: int) -> Callable[[Any], int]:
    return lambda rng: int(rng.integers(low, high))


def _milestones(rng: Any) -> list[int]:
    return [int(n) for n in rng.permutation(np.arange(1, STEPS))[:4]]


def _wave(n: int) -> float:
    return 1 / (1 + n % 17)


OPTIONS: dict[str, dict[str, Any]] = {
    "LambdaLR": {"lr_lambda": lambda rng: _wave},
    "MultiplicativeLR": {"lr_lambda": lambda rng: lambda n: 1 - 0.1 / n},
    "StepLR": {"step_size": whole(1, 90), "gamma": uniform(0.5, 1.1)},
    "MultiStepLR": {"milestones": _milestones, "gamma": uniform(0.5, 1.1)},
    "ConstantLR": {"factor": uniform(0.1, 1), "total_iters": whole(1, 200)},
    "LinearLR": {"start_factor": uniform(0.1, 1), "end_factor": uniform(0.1, 1), "total_iters": whole(1, 400)},
    "ExponentialLR": {"gamma": uniform(0.97, 1.01)},
    "PolynomialLR": {"total_iters": whole(1, 290), "power": uniform(0.5, 2)},
    "CosineAnnealingLR": {"T_max": whole(2, 400), "eta_min": or_zero(0.001, 0.1)},
    "CosineAnnealingWarmRestarts": {"T_0": whole(1, 90), "T_mult": whole(1, 4), "eta_min": or_zero(0.001, 0.1)},
    "CyclicLR": {
        "base_lr": uniform(0, 0.1),
        "max_lr": uniform(0.1, 1),
        "step_size_up": whole(1, 60),
        "step_size_down": one_of(None, 1, 40),
        "mode": one_of("triangular", "triangular2", "exp_range"),
        "gamma": uniform(0.99, 1),
        "cycle_momentum": flag,
        "base_momentum": uniform(0.7, 0.8),
        "max_momentum": uniform(0.85, 0.95),
    },
    "OneCycleLR": {
        "max_lr": uniform(0.1, 1),
        "total_steps": one_of(None, STEPS),
        "epochs": one_of(10),
        "steps_per_epoch": one_of(STEPS // 10),
        "pct_start": uniform(0.05, 0.45),
        "anneal_strategy": one_of("cos", "linear"),
        "cycle_momentum": flag,
        "base_momentum": uniform(0.7, 0.8),
        "max_momentum": uniform(0.85, 0.95),
        "div_factor": uniform(2, 30),
        "final_div_factor": powers(1, 4),
        "three_phase": flag,
    },
}

NO_RATE = {"SequentialLR", "CyclicLR", "OneCycleLR"}
"""Schedulers that set the learning rate, whatever the optimizer's was, or that have schedulers which know it."""


@pytest.fixture
def theirs(need: Callable[[str], Library]) -> Any:
    need("torch")
    import torch

    return torch.optim.lr_scheduler


def _optimizer(lr: float) -> Any:
    import torch

    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)


def _compared(schedule: Any, optimizer: Any, scheduler: Any, steps: int = STEPS, start: int = 1) -> None:
    """The rates, and momenta, of all steps: torch multiplies its last one, which adds a rounding or two at each."""
    for t in range(start, steps + 1):
        group = optimizer.param_groups[0]
        assert schedule(t) == pytest.approx(group["lr"], rel=1e-11, abs=1e-14), t
        if hasattr(schedule, "momentum"):
            assert schedule.momentum(t) == pytest.approx(group["momentum"], rel=1e-12), t
        else:
            assert group["momentum"] == 0.9
        optimizer.step()
        if t < steps:
            scheduler.step()


def test_signatures_are_torchs(theirs: Any) -> None:
    """The names, the order and the defaults; in the place of the optimizer its lr, if anything."""
    assert set(ours.__all__) - {"Epochs"} == set(theirs.__all__) - {"LRScheduler"}
    for name in ours.__all__:
        if name == "Epochs":
            continue
        expected = [(p.name, p.default) for p in inspect.signature(getattr(theirs, name)).parameters.values()]
        at = next(i for i, (key, _) in enumerate(expected) if key == "optimizer")
        expected[at : at + 1] = [] if name in NO_RATE else [("lr", inspect.Parameter.empty)]
        found = inspect.signature(getattr(ours, name)).parameters.values()
        assert [(p.name, p.default) for p in found] == expected, name


def test_all_are_compared() -> None:
    """A scheduler without draws would go untested."""
    rest = {"Epochs", "SequentialLR", "ChainedScheduler", "ReduceLROnPlateau"}
    assert set(OPTIONS) == set(ours.__all__) - rest
    for name, options in OPTIONS.items():
        arguments = set(inspect.signature(getattr(ours, name)).parameters)
        assert arguments - {"lr", "last_epoch", "scale_fn", "scale_mode"} == set(options), name


def _drawn(name: str, draw: int) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """The optimizer's lr; options of torch's, and of ours."""
    rng = np.random.default_rng([draw, *name.encode()])
    lr = float(rng.uniform(0.05, 0.5))
    options = {option: pick(rng) for option, pick in OPTIONS[name].items()}
    return lr, options, options if name in NO_RATE else {"lr": lr, **options}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_torch(name: str, draw: int, theirs: Any) -> None:
    """The learning rates of 300 steps, with all options drawn at random."""
    lr, options, own = _drawn(name, draw)
    optimizer = _optimizer(lr)
    scheduler = getattr(theirs, name)(optimizer, **options)
    schedule = getattr(ours, name)(**own)
    _compared(schedule, optimizer, scheduler)
    if "Lambda" not in name and "Multiplicative" not in name:
        assert pickle.loads(pickle.dumps(schedule)) == schedule  # noqa: S301 - it is ours
    assert copy.deepcopy(schedule)(7) == schedule(7)


@pytest.mark.parametrize("name", OPTIONS)
def test_last_epoch(name: str, theirs: Any) -> None:
    """Begun later, torch's goes on where another of its own would be, and so does ours."""
    _, _, own = _drawn(name, 0)
    schedule, later = getattr(ours, name)(**own), getattr(ours, name)(**own, last_epoch=29)
    assert [later(t) for t in range(1, 200)] == [schedule(t + 30) for t in range(1, 200)]
    if hasattr(schedule, "momentum"):
        assert later.momentum(3) == schedule.momentum(33)


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # torch's own
def test_in_sequence_and_together(theirs: Any) -> None:
    """SequentialLR of several, the last of which goes up again; ChainedScheduler of those that multiply."""
    optimizer = _optimizer(0.3)
    scheduler = theirs.SequentialLR(
        optimizer,
        [theirs.LinearLR(optimizer, 0.1, 1.0, 20), theirs.ExponentialLR(optimizer, 0.97), theirs.StepLR(optimizer, 9)],
        [20, 150],
    )
    schedule = ours.SequentialLR(
        [ours.LinearLR(0.3, 0.1, 1.0, 20), ours.ExponentialLR(0.3, 0.97), ours.StepLR(0.3, 9)], [20, 150]
    )
    _compared(schedule, optimizer, scheduler, 180)
    optimizer = _optimizer(0.3)
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("ConstantLR", {"factor": 0.1, "total_iters": 20}),
        ("LinearLR", {"total_iters": 11}),
        ("ExponentialLR", {"gamma": 0.99}),
        ("StepLR", {"step_size": 50, "gamma": 0.7}),
        ("MultiStepLR", {"milestones": [7, 70]}),
        ("PolynomialLR", {"total_iters": 280, "power": 0.9}),
        ("MultiplicativeLR", {"lr_lambda": lambda n: 0.999}),
    ]
    chained = theirs.ChainedScheduler([getattr(theirs, name)(optimizer, **own) for name, own in kinds])
    _compared(
        ours.ChainedScheduler([getattr(ours, name)(0.3, **own) for name, own in kinds], 0.3), optimizer, chained, 270
    )


def test_once_in_an_epoch(theirs: Any) -> None:
    """`Epochs` is what torch does where its scheduler is stepped at the end of each epoch."""
    optimizer = _optimizer(0.3)
    scheduler = theirs.StepLR(optimizer, 2, 0.5)
    schedule = ours.Epochs(ours.StepLR(0.3, 2, 0.5), 7)
    for t in range(1, 71):
        assert schedule(t) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-14)
        optimizer.step()
        if t % 7 == 0:
            scheduler.step()


@pytest.mark.parametrize("draw", range(24))
def test_plateau_equals_torch(draw: int, theirs: Any) -> None:
    """Noisy losses that improve ever more slowly, positive and negative, some NaN: the same reductions."""
    rng = np.random.default_rng(draw)
    pick = both(one_of("min", "max"), one_of("rel", "abs"))
    mode, threshold_mode = pick(rng)
    options: dict[str, Any] = {
        "mode": mode,
        "factor": float(rng.uniform(0.1, 0.9)),
        "patience": int(rng.integers(0, 5)),
        "threshold": float(rng.uniform(0, 0.02)),
        "threshold_mode": threshold_mode,
        "cooldown": int(rng.integers(0, 4)),
        "min_lr": float(rng.uniform(0, 0.01)) * flag(rng),
        "eps": one_of(0.0, 1e-8, 0.01)(rng),
    }
    optimizer = _optimizer(0.3)
    scheduler, schedule = theirs.ReduceLROnPlateau(optimizer, **options), ours.ReduceLROnPlateau(0.3, **options)
    losses = np.exp(-np.arange(STEPS) / 60) + 0.05 * rng.uniform(size=STEPS) - 0.5 * flag(rng)
    losses[rng.integers(STEPS, size=9)] = np.nan
    values = set()
    for t, loss in enumerate(losses if mode == "min" else -losses, 1):
        assert schedule(t) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        values.add(schedule(t))
        scheduler.step(float(loss))
        (schedule.step if t % 2 else schedule.tell)(float(loss))
    assert len(values) > 1 or options["eps"] == 0.01 or options["patience"] > 2


def test_refusals() -> None:
    """What can't be had is refused by its name."""
    with pytest.raises(NotImplementedError, match=r"scale_fn=.* can't be had here"):
        ours.CyclicLR(0.1, 1.0, scale_fn=lambda x: x)
    with pytest.raises(NotImplementedError, match=r"schedulers\[1\] is .*Periodic.*, which is no factor"):
        ours.ChainedScheduler([ours.StepLR(0.1, 3), ours.CosineAnnealingLR(0.1, 3)], 0.1)
    with pytest.raises(TypeError, match=r"lr_lambda is .*; wanted one function"):
        ours.LambdaLR(0.1, [lambda n: 1.0])  # type: ignore[arg-type] # which is the mistake
    with pytest.raises(ValueError, match=r"pct_start is 0\.01 of 100 steps, which leaves a phase no time"):
        ours.OneCycleLR(0.1, 100, pct_start=0.01)
    with pytest.raises(ValueError, match="total_steps is None"):
        ours.OneCycleLR(0.1)
    for name, options, message in (
        ("StepLR", {"step_size": 0}, "step_size is 0; wanted at least 1"),
        ("StepLR", {"step_size": 3, "gamma": -1.0}, "gamma is -1.0; wanted finite and above 0"),
        ("LinearLR", {"start_factor": 2.0}, "start_factor is 2.0; wanted"),
        ("CosineAnnealingLR", {"T_max": 0}, "T_max is 0; wanted at least 1"),
        ("ExponentialLR", {"gamma": 0.9, "last_epoch": -3}, r"last_epoch \+ 1 is -2; wanted at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            getattr(ours, name)(0.1, **options)
