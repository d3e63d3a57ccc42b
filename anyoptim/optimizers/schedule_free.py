"""Methods that need no schedule, because they average on the way."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import Domain, Fraction, Hyper, Nonnegative
from anyoptim._trace._scalars import one_minus_power, sqrt, where
from anyoptim.optimizers._terms import mean_square, squarable

__all__ = ["ScheduleFreeAdamW", "ScheduleFreeSGD"]

_Inside = Annotated[Hyper, Domain(lambda x: 0 < x <= 1, "above 0 and at most 1")]


class ScheduleFreeSGD(Optimizer):
    """Gradient descent whose average is as good as a schedule's last iterate.

    ::

        z <- z - lr*(g + weight_decay*y)
        w <- w + lr*lr;  c = lr*lr / w
        x <- (1-c)*x + c*z
        y <- (1-beta)*z + beta*x

    `params` are y, where gradients are wanted; `eval_params` gives x, to evaluate with. z starts as the parameter, x is
    not kept but solved for. w is a number of the state: a schedule of lr, such as a warmup, weighs the average.

    Args:
        lr: learning rate, finite and at least 0.
        beta: how far y is from z to x, above 0 and at most 1.
        weight_decay: at y, finite and at least 0.

    Source: Defazio et al., The road less scheduled, 2024, equations 3 to 5, with weights by the square of lr.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.ScheduleFreeSGD(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.631, -1.262])
    """

    lr: Nonnegative = 1.0
    beta: _Inside = 0.9
    weight_decay: Nonnegative = 0.0
    slots: ClassVar[tuple[str, ...]] = ("z",)
    scalars: ClassVar[dict[str, float]] = {"weight": 0.0, "share": 1.0}

    def init_slots(self, xp: Any, p: Array) -> tuple[Array, ...]:
        """Start the slot as a copy of the parameter."""
        return (xp.asarray(p, copy=True),)

    @staticmethod
    def update_scalars(step: Any, hyper: Any) -> dict[str, Any]:
        return _weighed(hyper.weight, hyper.lr)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        along = 1 - hyper.beta * (1 - hyper.share)
        return {"rate": hyper.lr, "share": hyper.share, "along": along, "decay": hyper.weight_decay}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, z: Array, c: Any) -> tuple[Array, ...]:
        d = c.rate * (x + c.decay * p)
        return c.share * (p - z) + c.along * d, z - d

    @staticmethod
    def evaluate(xp: Any, p: Array, z: Array, hyper: Any) -> Array:
        return (p - (1 - hyper.beta) * z) / hyper.beta


class ScheduleFreeAdamW(Optimizer):
    """AdamW without a schedule: the average takes momentum's place.

    ::

        v <- beta2*v + (1-beta2)*g*g
        lr_t = lr*sqrt(1-beta2**t)
        z <- z - lr_t*(g / (sqrt(v) + eps) + weight_decay*y)
        w <- w + lr_t*lr_t;  c = lr_t*lr_t / w
        x <- (1-c)*x + c*z
        y <- (1-beta)*z + beta*x

    `params` are y, where gradients are wanted; `eval_params` gives x, to evaluate with. z starts as the parameter, x is
    not kept but solved for. w is a number of the state, summed over all steps, whatever parameters took part.

    Args:
        lr: learning rate, finite and at least 0. A schedule may be a warmup.
        beta: how far y is from z to x, above 0 and at most 1.
        beta2: decay of v, in [0, 1).
        eps: added to the root of the uncorrected v, finite and at least 0.
        weight_decay: at y, finite and at least 0.

    Source: Defazio et al., The road less scheduled, 2024, algorithm 1.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.ScheduleFreeAdamW(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.769, -1.765])
    """

    lr: Nonnegative = 0.0025
    beta: _Inside = 0.9
    beta2: Fraction = 0.999
    eps: Nonnegative = 1e-8
    weight_decay: Nonnegative = 0.0
    slots: ClassVar[tuple[str, ...]] = ("z", "v")
    scalars: ClassVar[dict[str, float]] = {"weight": 0.0, "share": 1.0}

    def init_slots(self, xp: Any, p: Array) -> tuple[Array, ...]:
        """Start z as a copy of the parameter, and v with zeros."""
        return xp.asarray(p, copy=True), xp.zeros_like(p)

    @staticmethod
    def update_scalars(step: Any, hyper: Any) -> dict[str, Any]:
        return _weighed(hyper.weight, hyper.lr * sqrt(one_minus_power(hyper.beta2, step)))

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {
            "rate": hyper.lr * sqrt(one_minus_power(hyper.beta2, t)),
            "beta2": hyper.beta2,
            "eps": hyper.eps,
            "share": hyper.share,
            "along": 1 - hyper.beta * (1 - hyper.share),
            "decay": hyper.weight_decay,
        }

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, z: Array, v: Array, c: Any) -> tuple[Array, ...]:
        x = squarable(xp, x, 1 / xp.sqrt(1 - c.beta2))
        v = mean_square(xp, v, x, c.beta2)
        d = c.rate * (x / (xp.sqrt(v) + c.eps) + c.decay * p)
        return c.share * (p - z) + c.along * d, z - d, v

    @staticmethod
    def evaluate(xp: Any, p: Array, z: Array, v: Array, hyper: Any) -> Array:
        return (p - (1 - hyper.beta) * z) / hyper.beta


def _weighed(weight: Any, rate: Any) -> dict[str, Any]:
    """The sum of weights, and the share of the newest: 0 as long as all are 0."""
    weight = weight + rate * rate
    there = weight > 0
    return {"weight": weight, "share": where(there, rate * rate / where(there, weight, 1.0), 0.0)}
