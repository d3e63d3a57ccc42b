"""Methods that need no schedule, because they average on their way, or no learning rate, which they find."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from anyoptim._arrays import Array
from anyoptim._core._adaptive import Adaptive
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import KW_ONLY, Domain, Fraction, Hyper, Nonnegative, Positive
from anyoptim._trace._reductions import Dot, Reduction, Sum
from anyoptim._trace._scalars import one_minus_power, sqrt, where
from anyoptim.optimizers._terms import mean_square, squarable

__all__ = ["Prodigy", "ScheduleFreeAdamW", "ScheduleFreeSGD"]

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
        lr: learning rate.
        beta: how far y is from z to x, above 0 and at most 1.
        weight_decay: at y.

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
    starts: ClassVar[dict[str, Any]] = {"z": "p"}
    scalars: ClassVar[dict[str, float]] = {"weight": 0.0, "share": 1.0}

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


class ScheduleFreeAdamW(Adaptive):
    """AdamW without a schedule: the average takes momentum's place.

    ::

        v <- beta2*v + (1-beta2)*g*g
        lr_t = lr*sqrt(1-beta2**t)
        z <- z - lr_t*(g / (sqrt(v) + eps) + weight_decay*y)
        w <- w + lr_t*lr_t;  c = lr_t*lr_t / w
        x <- (1-c)*x + c*z
        y <- (1-beta)*z + beta*x

    `params` are y, and `eval_params` gives x, as for `ScheduleFreeSGD`, whose w this is, too, with this lr_t.

    Args:
        lr, joint: learning rate, whose schedule may be a warmup; as in `Adam`.
        beta, weight_decay: as in `ScheduleFreeSGD`.
        beta2: decay of v.
        eps: keeps the division finite, added to the root of the uncorrected v.

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
    starts: ClassVar[dict[str, Any]] = {"z": "p"}
    scalars: ClassVar[dict[str, float]] = {"weight": 0.0, "share": 1.0}

    @staticmethod
    def update_scalars(step: Any, hyper: Any) -> dict[str, Any]:
        return _weighed(hyper.weight, hyper.lr * sqrt(one_minus_power(hyper.beta2, step)))

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        rate = hyper.lr * sqrt(one_minus_power(hyper.beta2, t))
        return {**ScheduleFreeSGD.coefficients(t, hyper), "rate": rate, "beta2": hyper.beta2, "eps": hyper.eps}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, z: Array, v: Array, c: Any) -> tuple[Array, ...]:
        x = squarable(xp, x, 1 / xp.sqrt(1 - c.beta2))
        v = mean_square(xp, v, x, c.beta2, c)
        return *ScheduleFreeSGD.rule(xp, p, x / (xp.sqrt(v) + c.eps), z, c), v

    @staticmethod
    def evaluate(xp: Any, p: Array, z: Array, v: Array, hyper: Any) -> Array:
        return (p - (1 - hyper.beta) * z) / hyper.beta


def _weighed(weight: Any, rate: Any) -> dict[str, Any]:
    """The sum of weights, and the share of the newest: 0 as long as all are 0."""
    weight = weight + rate * rate
    there = weight > 0
    return {"weight": weight, "share": where(there, rate * rate / where(there, weight, 1.0), 0.0)}


class Prodigy(Optimizer):
    """Adam with a learning rate in the units of the distance to the solution, which it estimates.

    ::

        d <- max(d, d0, growth * r / |s|)        of the steps before; |s| is the sum of magnitudes
        r <- sqrt(beta2)*r + (1-sqrt(beta2))*lr*d*d * (sum of g*(p0 - p))
        s <- sqrt(beta2)*s + (1-sqrt(beta2))*lr*d*d*g
        m <- beta1*m + (1-beta1)*d*g
        v <- beta2*v + (1-beta2)*d*d*g*g
        p <- p - lr*d*(m / (sqrt(v) + d*eps) + weight_decay*p)

    p0 is where a parameter began; the sums go over all elements of all parameters, in float64. d and r are numbers of
    the state. lr stays 1, or is a schedule that begins or ends below it. The decay is decoupled, as in the authors'
    code, which also can correct for the start of m and v, as optax's does.

    Args:
        lr: times the estimate.
        beta1, beta2: decay of m and of v; r and s have the root of beta2.
        eps: keeps the division finite.
        weight_decay: of the parameter.
        d0: the first estimate, far too small.
        growth: times the estimate.

    Source: Mishchenko and Defazio, Prodigy: an expeditiously adaptive parameter-free learner, 2024, algorithm 4.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.Prodigy(d0=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([-0.357, -0.577])
    """

    lr: Nonnegative = 1.0
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: Nonnegative = 1e-8
    weight_decay: Nonnegative = 0.0
    _: KW_ONLY
    d0: Positive = 1e-6
    growth: Positive = 1.0
    slots: ClassVar[tuple[str, ...]] = ("m", "v", "s", "start")
    starts: ClassVar[dict[str, Any]] = {"start": "p"}
    scalars: ClassVar[dict[str, float]] = {"d": 0.0, "r": 0.0}
    reductions: ClassVar[dict[str, Reduction]] = {
        "along": Dot(lambda xp, p, x, m, v, s, start: squarable(xp, x), lambda xp, p, x, m, v, s, start: start - p),
        "length": Sum(lambda xp, p, x, m, v, s, start: xp.abs(s)),
    }

    @staticmethod
    def update_scalars(step: Any, hyper: Any) -> dict[str, Any]:
        there = hyper.length > 0
        estimate = where(there, hyper.growth * hyper.r / where(there, hyper.length, 1.0), 0.0)
        d = where(hyper.d > hyper.d0, hyper.d, hyper.d0)
        d = where(estimate > d, estimate, d)
        kept = sqrt(hyper.beta2)
        return {"d": d, "r": kept * hyper.r + (1 - kept) * hyper.lr * d * d * hyper.along}

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        d, kept = hyper.d, sqrt(hyper.beta2)
        of_m = {"rate": hyper.lr * d, "b1": hyper.beta1, "n1": (1 - hyper.beta1) * d, "eps": d * hyper.eps}
        of_v = {"b2": hyper.beta2, "n2": (1 - hyper.beta2) * d * d}
        return {**of_m, **of_v, "kept": kept, "ns": (1 - kept) * hyper.lr * d * d, "decay": hyper.weight_decay}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, v: Array, s: Array, start: Array, c: Any) -> tuple[Array, ...]:
        x = squarable(xp, x)
        m = c.b1 * m + c.n1 * x
        v = xp.bound(c.b2 * v + (c.n2 * x) * x, xp.largest(v))
        s = c.kept * s + c.ns * x
        return c.rate * (m / (xp.sqrt(v) + c.eps) + c.decay * p), m, v, s, start
