"""The schedule that is told losses, and is reduced after each time that they have stopped falling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar, Self

from anyoptim._arrays import traced
from anyoptim._trace._hyperparameters import Domain, Hyper, nonnegative
from anyoptim.schedules._combined import as_schedule, value_of
from anyoptim.schedules._schedule import Schedule, choice, whole_number

__all__ = ["Plateau"]

_ANY = Domain(lambda _: True, "or NaN")
_BELOW_ONE = Domain(lambda x: 0 < x < 1, "above 0 and below 1")
_TO_ONE = Domain(lambda x: 0 <= x <= 1, "at least 0 and at most 1")

_NEW = {"multiplier": 1.0, "best": None, "failures": 0, "resting": 0}


class Plateau(Schedule):
    """A schedule times a multiplier, which is reduced whenever the values it is told have not improved for a while.

    ::

        schedule(t) * multiplier

    The multiplier starts at 1, and changes by `tell` alone::

        lr = ao.schedules.Plateau(0.1, patience=5)
        optimizer = ao.Momentum(lr=lr)
        for epoch in range(100):
            ...
            lr.tell(validation_loss)

    Copies are told on their own, and a copy of an optimizer has one. The function that `jax.jit` compiles keeps the
    multiplier it was compiled with.

    Args:
        schedule: any function of the step number, or a number.
        factor: by what the multiplier is reduced, above 0 and below 1.
        patience: how many times in a row `tell` may bring no improvement; the next time reduces. At least 0.
        threshold: what is an improvement on the best value so far: "rel", lower by more than threshold*|best|; "abs",
            lower by more than the threshold. At least 0.
        threshold_mode: "rel" or "abs".
        cooldown: for how many times after a reduction nothing counts as a failure; at least 0.
        minimum: the multiplier goes no lower, at least 0 and at most 1.
        mode: "min" where lower is better, "max" where higher is.
        state: the `state` of another one, from which to continue; None starts anew.

    `state` is a dict of plain numbers, for checkpoints: multiplier, best (None before the first), failures (in a row),
    resting (of the cooldown).

    Source: torch's ReduceLROnPlateau, with its min_lr / lr as minimum and its eps as 0. Its "rel" means
    threshold*best, which for a negative best takes what is worse for better.

    >>> schedule = ao.schedules.Plateau(1.0, factor=0.5, patience=1)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     schedule.tell(loss)
    >>> schedule(5)
    0.5
    """

    arguments: ClassVar[tuple[str, ...]] = (
        "schedule",
        "factor",
        "patience",
        "threshold",
        "threshold_mode",
        "cooldown",
        "minimum",
        "mode",
        "state",
    )

    def __init__(
        self,
        schedule: Hyper,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        minimum: float = 0.0,
        mode: str = "min",
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.schedule: Any = as_schedule("schedule", schedule)
        self.factor: float = _BELOW_ONE.value("factor", factor)
        self.patience: int = whole_number("patience", patience, 0)
        self.threshold: float = nonnegative.value("threshold", threshold)
        self.threshold_mode: str = choice("threshold_mode", threshold_mode, ("rel", "abs"))
        self.cooldown: int = whole_number("cooldown", cooldown, 0)
        self.minimum: float = _TO_ONE.value("minimum", minimum)
        self.mode: str = choice("mode", mode, ("min", "max"))
        self.state: dict[str, Any] = _checked(_NEW if state is None else state)

    def _value(self, n: Any) -> Any:
        return value_of("schedule", self.schedule, n + 1) * self.state["multiplier"]

    def tell(self, loss: float) -> None:
        """Take note of a value, and reduce the multiplier if it is time. NaN and infinities are no improvement.

        Raises TypeError for what is no real number, and for what is traced, as under `jax.jit`.
        """
        value = _number("loss", loss)
        state = self.state
        if self._improves(value):
            state["best"], state["failures"] = value, 0
        else:
            state["failures"] += 1
        if state["resting"]:
            state["resting"], state["failures"] = state["resting"] - 1, 0
        if state["failures"] > self.patience:
            state["multiplier"] = self._reduced(state["multiplier"])
            state["resting"], state["failures"] = self.cooldown, 0

    def _reduced(self, multiplier: float) -> float:
        lower: float = max(multiplier * self.factor, self.minimum)
        return min(multiplier, lower)

    def _improves(self, value: float) -> bool:
        best = self.state["best"]
        if best is None or not math.isfinite(value):
            return math.isfinite(value)
        margin: float = self.threshold * (abs(best) if self.threshold_mode == "rel" else 1)
        gain: float = best - value if self.mode == "min" else value - best
        return gain > margin

    def __copy__(self) -> Self:
        return deepcopy(self)  # two schedules with one state would be told as one


def _number(name: str, value: Any) -> float:
    if traced(value):
        raise TypeError(f"{name} is traced; wanted a number that is known: tell it outside the transformed function")
    return float(_ANY.value(name, value))


def _checked(state: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(state, Mapping) or set(state) != set(_NEW):
        raise ValueError(f"state is {state!r}; wanted a dict with {', '.join(_NEW)}")
    return {
        "multiplier": _TO_ONE.value("state['multiplier']", state["multiplier"]),
        "best": None if state["best"] is None else _number("state['best']", state["best"]),
        "failures": whole_number("state['failures']", state["failures"], 0),
        "resting": whole_number("state['resting']", state["resting"], 0),
    }
