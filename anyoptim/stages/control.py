"""Stages that decide whether a step is taken at all."""

from __future__ import annotations

import math
from typing import Any

from anyoptim._arrays import Array
from anyoptim._hyperparameters import Domain, Hyper
from anyoptim._scalars import where
from anyoptim._stage import Gate, Stage

__all__ = ["Accumulate", "LossScale", "SkipNonFinite"]

_factor = Domain(lambda x: 1 <= x < math.inf, "finite and at least 1")
_share = Domain(lambda x: 0 < x <= 1, "above 0 and at most 1")
_count = Domain(lambda x: x >= 1, "at least 1")


class SkipNonFinite(Gate):
    """Take no step where a gradient has a NaN or an infinity.

    Parameters, slots and step counts then stay as they are: schedules, momenta and averages know nothing of it. How
    often that was is a number of the state, `optimizer.state.numbers[k]["skipped"]`, and `optimizer.stages[k].offender`
    is the path of the first parameter for which `update` last did so.

    It looks at the 2-norm of what it is given, which it shares with a `ClipGlobalNorm` right behind it. Under `jax.jit`
    and on lazy arrays both outcomes are computed and one is chosen; there, a step is skipped, too, where squares are
    too large for float64, or for float32 in JAX without x64. On a CUDA device, the host waits for the norm.

    Source: the practice of mixed-precision training, as in optax's `apply_if_finite` and torch's `GradScaler`.
    """

    numbers = {"skipped": 0.0}

    @staticmethod
    def advance(step: Any, *, skipped: Any, allowed: Any) -> dict[str, Any]:
        return {"skipped": skipped + where(allowed, 0.0, 1.0)}

    @staticmethod
    def coefficients(t: Any, *, skipped: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array) -> Array:
        return x


class LossScale(Gate):
    """Undo the scaling of a loss, which keeps small gradients from vanishing in float16, and adapt the scale.

    ::

        optimizer = ao.chain(ao.LossScale(), ao.ClipGlobalNorm(1.0), ao.Adam())
        grads = gradients of optimizer.loss_scale * loss
        optimizer.update(params, grads)

        x <- x / scale
        scale <- scale * growth      after `interval` steps in a row that were taken
        scale <- scale * backoff     and no step, where x is not finite everywhere, as by `SkipNonFinite`

    Scales that are powers of two round nothing. The scale and the number of good steps are numbers of the state: in the
    pure form it is `state.numbers[0]["scale"]`. It grows to no more than 2**127 and shrinks to no less than 2**-126,
    which float32 can hold.

    Args:
        growth: finite and at least 1; a number or a schedule.
        backoff: above 0 and at most 1; likewise.
        interval: at least 1; likewise.
        initial: the first scale, above 0 and finite.

    Source: Micikevicius et al., Mixed precision training, 2018, section 3.2; torch's `GradScaler`, whose defaults these
    are.
    """

    hyperparameters = {"growth": _factor, "backoff": _share, "interval": _count}

    def __init__(
        self, growth: Hyper = 2.0, backoff: Hyper = 0.5, interval: Hyper = 2000.0, *, initial: float = 65536.0
    ) -> None:
        super().__init__(growth=growth, backoff=backoff, interval=interval)
        self._initial: float = Domain(lambda x: 0 < x < math.inf, "above 0 and finite").value("initial", initial)

    @property
    def initial(self) -> float:
        """The first scale: a constant."""
        return self._initial

    @property
    def numbers(self) -> dict[str, float]:  # type: ignore[override] # it starts where the user says
        """The scale of the next loss; for how many steps it has lasted; how many were skipped."""
        return {"scale": self._initial, "good": 0.0, "skipped": 0.0}

    scaling = staticmethod(lambda *, scale, **_: scale)

    @staticmethod
    def coefficients(t: Any, *, scale: Any, **_: Any) -> dict[str, Any]:
        return {"inverse": 1 / scale}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, *, inverse: float) -> Array:
        return x * inverse

    @staticmethod
    def advance(
        step: Any, *, scale: Any, good: Any, skipped: Any, growth: Any, backoff: Any, interval: Any, allowed: Any
    ) -> dict[str, Any]:
        grown = good + 1 >= interval
        longer, shorter = scale * growth, scale * backoff
        longer, shorter = where(longer <= 2.0**127, longer, scale), where(shorter >= 2.0**-126, shorter, scale)
        return {
            "scale": where(allowed, where(grown, longer, scale), shorter),
            "good": where(allowed, where(grown, 0.0, good + 1), 0.0),
            "skipped": skipped + where(allowed, 0.0, 1.0),
        }


class Accumulate(Stage):
    """Take a step at every k-th update, with the mean of the gradients since the last.

    ::

        total <- total + g                        at each update but the k-th: nothing else is done
        x <- (total + g) / k; total <- 0          at the k-th: the chain goes on with x

    It is the first of a chain. Schedules, step counts and all other stages know only of the steps. A parameter whose
    gradient is None at a k-th update rests, and what it has gathered waits for its next step.

    Args:
        every: k, at least 1; a number or a schedule of the step number.
    """

    hyperparameters = {"every": _count}
    slots = ("total",)
    numbers = {"gathered": 0.0, "share": 1.0}

    def __init__(self, every: Hyper) -> None:
        super().__init__(every=every)

    @staticmethod
    def due(*, gathered: Any, every: Any, **_: Any) -> Any:
        """Whether the update at hand is a k-th one."""
        return gathered + 1 >= every

    @staticmethod
    def advance(step: Any, *, gathered: Any, share: Any, every: Any) -> dict[str, Any]:
        return {"gathered": 0.0, "share": 1 / (gathered + 1)}

    @staticmethod
    def coefficients(t: Any, *, share: Any, **_: Any) -> dict[str, Any]:
        return {"share": share}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, total: Array, *, share: float) -> tuple[Array, ...]:
        return (total + x) * share, xp.where(total == total, 0.0, 0.0)
