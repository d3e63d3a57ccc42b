"""Stages that decide whether a step is taken at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

from anyoptim._arrays import Array, traced
from anyoptim._stage._stage import Gate, Stage
from anyoptim._trace._hyperparameters import KW_ONLY, Domain, Hyper
from anyoptim._trace._scalars import where

__all__ = ["Accumulate", "LossScale", "SkipNonFinite"]

_Factor = Annotated[Hyper, Domain(lambda x: 1 <= x < math.inf, "finite and at least 1")]
_share = Domain(lambda x: 0 < x <= 1, "above 0 and at most 1")
_Least = Annotated[Hyper, Domain(lambda x: x >= 1, "at least 1")]
_scale = Domain(lambda x: 0 < x < math.inf, "above 0 and finite")
_Smallest = Annotated[Hyper, Domain(lambda x: 2.0**-126 <= x < math.inf, "finite and at least 2**-126")]
_Every = Annotated[Hyper, Domain(lambda x: x >= 1 and x % 1 == 0, "a whole number, at least 1")]
_count = Domain(lambda x: x >= 0 and x % 1 == 0, "a whole number, at least 0")
_Most = Annotated[
    Hyper, Domain(lambda x: x == math.inf or (x >= 0 and x % 1 == 0), "a whole number, at least 0, or infinity")
]


class _Skipping(Gate):
    """A gate that counts the steps that it skips, and gives up after too many in a row."""

    ranges: ClassVar[dict[str, Domain]] = {"skipped": _count, "consecutive": _count}

    def exhausted(self, step: Any, scalars: Mapping[str, Any]) -> dict[str, Any] | None:
        """Give up after more than `max_consecutive_skips` skips in a row, which are counted anew after an error."""
        past = scalars["consecutive"] > self._values(step, {})["max_consecutive_skips"]
        return {**scalars, "consecutive": 0.0} if not traced(past) and past else None


def _skips(hyper: Any) -> dict[str, Any]:
    """How many steps were skipped, and how many of these since the last one that was taken."""
    allowed = hyper.allowed
    return {
        "skipped": hyper.skipped + where(allowed, 0.0, 1.0),
        "consecutive": where(allowed, 0.0, hyper.consecutive + 1),
    }


class SkipNonFinite(_Skipping):
    """Take no step where a gradient has a NaN or an infinity.

    Parameters, slots and step counts then stay as they are: schedules, momenta and averages know nothing of it. How
    often that was is a number of the state, `optimizer.state.scalars[k]["skipped"]`, and since the last step
    `["consecutive"]`; `optimizer.stages[k].offender` is the path of the first parameter for which `update` last did so.

    It looks at the 2-norm of what it is given, which it shares with a `ClipGlobalNorm` right behind it. Under `jax.jit`
    and on lazy arrays both outcomes are computed and one is chosen; there, a step is skipped, too, where the
    norm is too large for float64, or for float32 in JAX without x64. On a CUDA device, the host waits for the norm.

    Args:
        max_consecutive_skips: after how many skips in a row `update`, and `step`, raise FloatingPointError at the next
            one. It is skipped all the same, and counting begins anew. Under `jax.jit` and on
            lazy arrays `step` can't raise: there, look at the state's number `consecutive`.

    Source: the practice of mixed-precision training, as in optax's `apply_if_finite` and torch's `GradScaler`.

    >>> w, optimizer = np.zeros(1), ao.chain(ao.SkipNonFinite(), ao.SGD(lr=1.0))
    >>> [float(optimizer.update(w, np.array([g]))[0]) for g in (1.0, np.nan, 1.0)]
    [-1.0, -1.0, -2.0]
    >>> optimizer.state.step
    2
    """

    _: KW_ONLY
    max_consecutive_skips: _Most = math.inf
    scalars: ClassVar[dict[str, float]] = {"skipped": 0.0, "consecutive": 0.0}

    @staticmethod
    def update_scalars(step: Any, hyper: Any) -> dict[str, Any]:
        return _skips(hyper)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return x


class LossScale(_Skipping):
    """Undo the scaling of a loss, which keeps small gradients from vanishing in float16, and adapt the scale.

    ::

        optimizer = ao.chain(ao.LossScale(), ao.ClipGlobalNorm(1.0), ao.Adam())
        grads = gradients of optimizer.loss_scale * loss
        optimizer.update(params, grads)

        x <- x / scale
        scale <- scale * growth      after `interval` steps in a row that were taken
        scale <- scale * backoff     and no step, where x is not finite everywhere, as by `SkipNonFinite`

    Scales that are powers of two round nothing. The scale and the number of good steps are numbers of the state: in the
    pure form it is `state.scalars[0]["scale"]`. It grows to no more than 2**127, which float32 can hold, and shrinks to
    no less than `min_scale`. `optimizer.loss_scale = 8.0` sets it, between steps: gradients that `Accumulate` has
    gathered are of losses with the old one.

    Args:
        growth: finite and at least 1.
        backoff: above 0 and at most 1.
        interval: at least 1.
        initial: the first scale, above 0 and finite.
        min_scale: finite and at least 2**-126.
        max_consecutive_skips: that of `SkipNonFinite`. A scale that shrinks without end is a sign of gradients that are
            not finite whatever it is.

    Source: Micikevicius et al., Mixed precision training, 2018, section 3.2; torch's `GradScaler`, whose defaults these
    are.

    >>> w, optimizer = np.zeros(1), ao.chain(ao.LossScale(initial=1024.0), ao.SGD(lr=1.0))
    >>> optimizer.update(w, np.array([optimizer.loss_scale * 0.5]))
    array([-0.5])
    >>> optimizer.update(w, np.array([np.inf]))
    array([-0.5])
    >>> optimizer.loss_scale
    512.0
    """

    growth: _Factor = 2.0
    backoff: Annotated[Hyper, _share] = 0.5
    interval: _Least = 2000.0
    _: KW_ONLY
    initial: Final[Annotated[float, _scale]] = 65536.0
    min_scale: _Smallest = 2.0**-126
    max_consecutive_skips: _Most = math.inf
    ranges: ClassVar[dict[str, Domain]] = {"scale": _scale, "good": _count, **_Skipping.ranges}

    @property
    def scalars(self) -> dict[str, float]:  # type: ignore[override] # it starts where the user says
        """The scale of the next loss; for how many steps it has lasted; how many were skipped, and in a row."""
        return {"scale": self.initial, "good": 0.0, "skipped": 0.0, "consecutive": 0.0}

    get_loss_scale: ClassVar[Any] = staticmethod(lambda *, scale, **_: scale)
    set_loss_scale: ClassVar[Any] = staticmethod(lambda to, **scalars: {**scalars, "scale": to, "good": 0.0})

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"inverse": 1 / hyper.scale}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return x * c.inverse

    @staticmethod
    def update_scalars(step: Any, hyper: Any) -> dict[str, Any]:
        scale, allowed = hyper.scale, hyper.allowed
        grown = hyper.good + 1 >= hyper.interval
        longer, shorter = scale * hyper.growth, scale * hyper.backoff
        longer = where(longer <= 2.0**127, longer, scale)
        least = where(scale < hyper.min_scale, scale, hyper.min_scale)  # one that is set lower stays
        shorter = where(shorter >= least, shorter, least)
        return {
            "scale": where(allowed, where(grown, longer, scale), shorter),
            "good": where(allowed, where(grown, 0.0, hyper.good + 1), 0.0),
            **_skips(hyper),
        }


class Accumulate(Stage):
    """Take a step at every k-th update, with the mean of the gradients since the last.

    ::

        total <- total + g                        at each update but the k-th: nothing else is done
        x <- (total + g) / k; total <- 0          at the k-th: the chain goes on with x

    It is the first of a chain. Schedules, step counts and all other stages know only of the steps. A gradient that is
    None counts as 0, in an update of which all are None, too. Who had a gradient at any of the k updates takes part in
    the step; who had none at all rests, and where that is everybody, there is no step. `optimizer.flush(params)` takes
    the step of what is gathered before k is reached, with the mean of as many as there were; the pure form is
    `params, state = optimizer.flush_step(params, state)`.

    How many updates were gathered is a number of the state, `state.scalars[0]["gathered"]`, and how many gradients of
    each parameter its `state.pending`.

    Args:
        every: k, a whole number, at least 1; or a schedule of the step number.

    >>> w, optimizer = np.zeros(1), ao.chain(ao.Accumulate(2), ao.SGD(lr=1.0))
    >>> [float(optimizer.update(w, np.array([g]))[0]) for g in (1.0, 3.0, 5.0)]
    [0.0, -2.0, -2.0]
    >>> optimizer.flush(w)
    array([-7.])
    """

    every: _Every
    slots: ClassVar[tuple[str, ...]] = ("total",)
    scalars: ClassVar[dict[str, float]] = {"gathered": 0.0, "share": 1.0}
    ranges: ClassVar[dict[str, Domain]] = {"gathered": _count, "share": _share}

    @staticmethod
    def is_step(hyper: Any) -> Any:
        """Whether the update at hand is a k-th one."""
        return hyper.gathered + 1 >= hyper.every

    @staticmethod
    def update_scalars(step: Any, hyper: Any) -> dict[str, Any]:
        return {"gathered": 0.0, "share": 1 / (hyper.gathered + 1)}

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"share": hyper.share}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, total: Array, c: Any) -> tuple[Array, ...]:
        return (total + x) * c.share, xp.where(total == total, 0.0, 0.0)
