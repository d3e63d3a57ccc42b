"""Methods that average the parameters on their way."""

from __future__ import annotations

from typing import Any, ClassVar

from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import Nonnegative
from anyoptim._trace._scalars import power, where

__all__ = ["ASGD"]


class ASGD(Optimizer):
    """Averaged stochastic gradient descent: a falling learning rate, and the mean of where it led, to evaluate with.

    ::

        eta = lr / (1 + lambd*lr*(t-1))**alpha
        p <- p - eta*(g + lambd*p)
        average <- average + mu*(p - average),    mu = 1 / max(1, t-1-t0)

    This is torch's, whose ax is the slot `average` here, which `eval_params` gives: p itself until t0, and from then on
    the mean since. t counts the steps of this parameter, from 1. The average is of p as this rule moves it: where other
    stages come after it, `chain(ASGD(), ..., SWA(t0 + 2))` has that of p as it is in the end.

    Args:
        lr: learning rate, finite and at least 0.
        lambd: decay of p, which also lets eta fall, finite and at least 0.
        alpha: the power with which eta falls, finite and at least 0.
        t0: the step after which p is averaged, finite and at least 0.

    Source: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992; for eta Xu, Towards
    optimal one pass large scale learning with averaged stochastic gradient descent, 2011.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.ASGD(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.512, -1.024])
    """

    lr: Nonnegative = 0.01
    lambd: Nonnegative = 1e-4
    alpha: Nonnegative = 0.75
    t0: Nonnegative = 1e6
    slots: ClassVar[tuple[str, ...]] = ("average",)
    evaluate: ClassVar[Any] = staticmethod(lambda xp, p, average, hyper: average)

    def init_slots(self, xp: Any, p: Array) -> tuple[Array, ...]:
        """Start the slot as a copy of the parameter."""
        return (xp.asarray(p, copy=True),)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        late = t - 1 - hyper.t0
        eta = hyper.lr / power(1 + hyper.lambd * hyper.lr * (t - 1), hyper.alpha)
        return {"eta": eta, "lambd": hyper.lambd, "mu": 1 / where(late > 1, late, 1.0)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, average: Array, c: Any) -> tuple[Array, ...]:
        step = c.eta * (x + c.lambd * p)
        moved = p - step
        # p itself, whatever it is, and not what rounding leaves of it.
        return step, xp.where(c.mu < 1.0, average + c.mu * (moved - average), moved)
