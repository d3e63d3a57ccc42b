"""torch.optim.lr_scheduler's schedulers as schedules: functions of the step, for any hyperparameter.

::

    optimizer = ao.compat.torch.SGD(lr=lr_scheduler.StepLR(0.1, step_size=30), momentum=0.9)

The arguments are torch's, but for the optimizer: in its place stands the lr that it would have, and where that plays no
part (`CyclicLR`, `OneCycleLR`, `SequentialLR`) nothing. There is no `scheduler.step()`: the optimizer calls the
schedule with the number of its step. Where torch steps its scheduler once in an epoch, so does
`Epochs(StepLR(0.1, step_size=30), steps=steps_in_an_epoch)`. `ReduceLROnPlateau` is told losses, by `tell` or `step`.

`last_epoch` is for training that goes on with a new optimizer; one that came by `from_torch` or `load_state_dict`
counts on, and needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from anyoptim._trace._hyperparameters import Domain
from anyoptim.compat.torch._schedules import (
    Epochs,
    Factors,
    Later,
    Periodic,
    Phases,
    Products,
    Reduced,
    Scaled,
    WithMomentum,
)
from anyoptim.schedules import CosineRestarts, Cyclic, Exponential, Linear, MultiStep, Polynomial, StepDecay, join
from anyoptim.schedules._schedule import Schedule, choice, finite, positive, whole_number

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "Epochs",
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
]

_between = Domain(lambda x: 0 <= x <= 1, "at least 0 and at most 1")

_FACTORS = (StepDecay, MultiStep, Exponential, Linear, Polynomial, Products, join)
"""Schedules that multiply the learning rate, whatever it is."""


def LambdaLR(lr: float, lr_lambda: Callable[[int], float], last_epoch: int = -1) -> Schedule:  # noqa: N802 - torch's
    """Lr times what `lr_lambda` gives for the number of steps before this one. A function for each group is refused.

    >>> schedule = ao.compat.torch.lr_scheduler.LambdaLR(1.0, lambda n: 1 / (1 + n))
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 0.5, 0.333, 0.25, 0.2]
    """
    return _later(Scaled(lr, _one("lr_lambda", lr_lambda)), last_epoch)


def MultiplicativeLR(lr: float, lr_lambda: Callable[[int], float], last_epoch: int = -1) -> Schedule:  # noqa: N802
    """Lr times all that `lr_lambda` gave for 1 up to the steps before this one.

    >>> schedule = ao.compat.torch.lr_scheduler.MultiplicativeLR(1.0, lambda n: 0.5)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 0.5, 0.25, 0.125, 0.062]
    """
    return _later(Products(lr, _one("lr_lambda", lr_lambda)), last_epoch)


def StepLR(lr: float, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> Schedule:  # noqa: N802
    """`StepDecay`.

    >>> schedule = ao.compat.torch.lr_scheduler.StepLR(1.0, 2)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 1.0, 0.1, 0.1, 0.01]
    """
    return _later(StepDecay(lr, whole_number("step_size", step_size), positive.value("gamma", gamma)), last_epoch)


def MultiStepLR(lr: float, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1) -> Schedule:  # noqa: N802
    """`MultiStep`. A milestone twice is refused.

    >>> schedule = ao.compat.torch.lr_scheduler.MultiStepLR(1.0, [2, 4])
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 1.0, 0.1, 0.1, 0.01]
    """
    return _later(MultiStep(lr, sorted(milestones), positive.value("gamma", gamma)), last_epoch)


def ConstantLR(lr: float, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1) -> Schedule:  # noqa: N802
    """lr*factor for `total_iters` steps, at least 1, and then lr.

    >>> schedule = ao.compat.torch.lr_scheduler.ConstantLR(1.0, total_iters=2)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [0.333, 0.333, 1.0, 1.0, 1.0]
    """
    low = finite.value("lr", lr) * _between.value("factor", factor)
    return _later(join([low, lr], [whole_number("total_iters", total_iters)]), last_epoch)


def LinearLR(  # noqa: N802
    lr: float,
    start_factor: float = 1.0 / 3,
    end_factor: float = 1.0,
    total_iters: int = 5,
    last_epoch: int = -1,
) -> Schedule:
    """`Linear`, from lr*start_factor to lr*end_factor.

    >>> schedule = ao.compat.torch.lr_scheduler.LinearLR(1.0, total_iters=2)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [0.333, 0.667, 1.0, 1.0, 1.0]
    """
    first, last = _between.value("start_factor", start_factor), _between.value("end_factor", end_factor)
    lr = finite.value("lr", lr)
    return _later(Linear(lr * first, whole_number("total_iters", total_iters), lr * last), last_epoch)


def ExponentialLR(lr: float, gamma: float, last_epoch: int = -1) -> Schedule:  # noqa: N802
    """`Exponential`.

    >>> schedule = ao.compat.torch.lr_scheduler.ExponentialLR(1.0, gamma=0.5)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 0.5, 0.25, 0.125, 0.062]
    """
    return _later(Exponential(lr, positive.value("gamma", gamma)), last_epoch)


def PolynomialLR(lr: float, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> Schedule:  # noqa: N802
    """`Polynomial`, down to 0.

    >>> schedule = ao.compat.torch.lr_scheduler.PolynomialLR(1.0, total_iters=4)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    return _later(Polynomial(lr, whole_number("total_iters", total_iters), 0.0, power), last_epoch)


def CosineAnnealingLR(lr: float, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> Schedule:  # noqa: N802
    """Half a cosine down in T_max steps and, as torch has it, up again, for ever. `Cosine` stays below.

    >>> schedule = ao.compat.torch.lr_scheduler.CosineAnnealingLR(1.0, T_max=4)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    return _later(Periodic(lr, whole_number("T_max", T_max), finite.value("eta_min", eta_min)), last_epoch)


def CosineAnnealingWarmRestarts(  # noqa: N802
    lr: float, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
) -> Schedule:
    """`CosineRestarts`.

    >>> schedule = ao.compat.torch.lr_scheduler.CosineAnnealingWarmRestarts(1.0, T_0=2)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    steps, growth = whole_number("T_0", T_0), whole_number("T_mult", T_mult)
    return _later(CosineRestarts(lr, steps, finite.value("eta_min", eta_min), growth), last_epoch)


def SequentialLR(schedulers: Sequence[Any], milestones: Sequence[int], last_epoch: int = -1) -> Schedule:  # noqa: N802
    """`join`: each counts its own steps.

    >>> from anyoptim.compat.torch import lr_scheduler
    >>> parts = [lr_scheduler.ConstantLR(1.0), lr_scheduler.ExponentialLR(1.0, 0.5)]
    >>> schedule = lr_scheduler.SequentialLR(parts, [2])
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [0.333, 0.333, 1.0, 0.5, 0.25]
    """
    return _later(join(schedulers, milestones), last_epoch)


def ChainedScheduler(schedulers: Sequence[Any], lr: float) -> Schedule:  # noqa: N802
    """Lr times the factors of all, which are schedules of the same lr.

    Torch's apply theirs to what the others made of it. Of those that set it instead of multiplying (LambdaLR, the
    cosines, the cycles) the result would depend on the order, and they are refused.

    >>> from anyoptim.compat.torch import lr_scheduler
    >>> factors = [lr_scheduler.StepLR(1.0, 2), lr_scheduler.ExponentialLR(1.0, 0.5)]
    >>> schedule = lr_scheduler.ChainedScheduler(factors, 1.0)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [1.0, 0.5, 0.025, 0.013, 0.001]
    """
    for i, schedule in enumerate(schedulers):
        if not isinstance(schedule, _FACTORS):
            raise NotImplementedError(
                f"schedulers[{i}] is {schedule!r}, which is no factor; wanted StepLR and the like"
            )
    return Factors(lr, schedulers)


def CyclicLR(  # noqa: N802
    base_lr: float,
    max_lr: float,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
    scale_fn: Callable[[float], float] | None = None,
    scale_mode: str = "cycle",
    cycle_momentum: bool = True,
    base_momentum: float = 0.8,
    max_momentum: float = 0.9,
    last_epoch: int = -1,
) -> Schedule:
    """`Cyclic`; with cycle_momentum, `momentum` of what is returned is the schedule of the momentum or beta1.

    ::

        cycle = CyclicLR(0.01, 0.1)
        optimizer = ao.compat.torch.SGD(lr=cycle, momentum=cycle.momentum)

    `scale_fn` is refused; any function of the step is a schedule.

    >>> schedule = ao.compat.torch.lr_scheduler.CyclicLR(0.0, 1.0, step_size_up=2)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if scale_fn is not None:
        raise NotImplementedError(
            f"scale_fn={scale_fn!r} can't be had here; wanted a function of the step as the schedule"
        )
    choice("scale_mode", scale_mode, ("cycle", "iterations"))
    up = whole_number("step_size_up", step_size_up)
    down = up if step_size_down is None else whole_number("step_size_down", step_size_down)
    rate = Cyclic(base_lr, max_lr, up, down, mode, gamma)
    if not cycle_momentum:
        return _later(rate, last_epoch)
    momentum = Cyclic(max_momentum, base_momentum, up, down, mode, gamma)
    return WithMomentum(_later(rate, last_epoch), _later(momentum, last_epoch))


def OneCycleLR(  # noqa: N802
    max_lr: float,
    total_steps: int | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    cycle_momentum: bool = True,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
    last_epoch: int = -1,
) -> Schedule:
    """Up to max_lr, down, and far below, at the last step; with cycle_momentum, `momentum` goes with it.

    ::

        cycle = OneCycleLR(0.1, total_steps=10_000)
        optimizer = ao.compat.torch.AdamW(lr=cycle, betas=(cycle.momentum, 0.999))

    After `total_steps` steps, where torch raises, it stays as it is.

    >>> schedule = ao.compat.torch.lr_scheduler.OneCycleLR(1.0, total_steps=5)
    >>> [round(schedule(t), 3) for t in range(1, 6)]
    [0.04, 0.95, 0.611, 0.188, 0.0]
    """
    if total_steps is None:
        if epochs is None or steps_per_epoch is None:
            raise ValueError("total_steps is None; wanted it, or epochs and steps_per_epoch")
        total_steps = whole_number("epochs", epochs) * whole_number("steps_per_epoch", steps_per_epoch)
    total, share = whole_number("total_steps", total_steps), _between.value("pct_start", pct_start)
    choice("anneal_strategy", anneal_strategy, ("cos", "linear"))
    top = finite.value("max_lr", max_lr)
    first = top / positive.value("div_factor", div_factor)
    last = first / positive.value("final_div_factor", final_div_factor)
    up = share * total - 1
    ends = (up, 2 * share * total - 2, total - 1) if three_phase else (up, total - 1)
    if any(b <= a for a, b in zip((0, *ends), ends, strict=False)):
        raise ValueError(
            f"pct_start is {share} of {total} steps, which leaves a phase no time; wanted phases of some steps"
        )
    rates = (top, first, last) if three_phase else (top, last)
    rate = _later(Phases(first, ends, rates, anneal_strategy), last_epoch)
    if not cycle_momentum:
        return rate
    high, low = finite.value("max_momentum", max_momentum), finite.value("base_momentum", base_momentum)
    momenta = (low, high, high) if three_phase else (low, high)
    return WithMomentum(rate, _later(Phases(high, ends, momenta, anneal_strategy), last_epoch))


def ReduceLROnPlateau(  # noqa: N802
    lr: float,
    mode: str = "min",
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    min_lr: float = 0,
    eps: float = 1e-8,
) -> Reduced:
    """`Plateau` with torch's eps, and its "rel". A min_lr for each group is refused; it is at most lr.

    >>> schedule = ao.compat.torch.lr_scheduler.ReduceLROnPlateau(1.0, factor=0.5, patience=1)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     schedule.tell(loss)
    >>> schedule(5)
    0.5
    """
    lr = positive.value("lr", lr)
    minimum = finite.value("min_lr", min_lr) / lr
    return Reduced(
        lr,
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode=threshold_mode,
        cooldown=cooldown,
        minimum=minimum,
        mode=mode,
        eps=eps,
    )


def _later(schedule: Schedule, last_epoch: int) -> Schedule:
    """The schedule from the step after `last_epoch` on."""
    steps = whole_number("last_epoch + 1", last_epoch + 1, 0)
    return Later(schedule, steps) if steps else schedule


def _one(name: str, function: Any) -> Callable[[int], float]:
    """The function. Raises TypeError for a list of them, and for anything else."""
    if not callable(function):
        raise TypeError(
            f"{name} is {function!r}; wanted one function; of several groups each takes a schedule of its own"
        )
    one: Callable[[int], float] = function
    return one
