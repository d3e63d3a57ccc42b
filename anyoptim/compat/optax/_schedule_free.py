"""The schedule-free methods whose average optax weighs by the largest rate so far."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any

from anyoptim._trace._hyperparameters import Nonnegative, Number
from anyoptim._trace._scalars import one_minus_power, power, sqrt, where
from anyoptim.optimizers import ScheduleFreeAdamW, ScheduleFreeSGD

__all__ = ["OptaxScheduleFreeAdamW", "OptaxScheduleFreeSGD"]


def _weighed(step: Any, hyper: Any) -> dict[str, Any]:
    """The largest rate so far, the sum of its powers, and the share of the newest."""
    highest = where(hyper.weigh > hyper.highest, hyper.weigh, hyper.highest)
    new = power(highest, hyper.exponent)
    weight = hyper.weight + new
    there = weight > 0
    return {"weight": weight, "share": where(there, new / where(there, weight, 1.0), 0.0), "highest": highest}


class OptaxScheduleFreeSGD(ScheduleFreeSGD):
    """Schedule-free SGD whose average is weighed by a power of the largest rate so far, as optax's.

    ::

        w <- w + max(rates)**exponent;  c = max(rates)**exponent / w

    The rates for that are `weigh`, which is the next step's lr in optax.
    """

    _: KW_ONLY
    weigh: Nonnegative
    exponent: Number
    scalars = {**ScheduleFreeSGD.scalars, "highest": 0.0}

    update_scalars = staticmethod(_weighed)


class OptaxScheduleFreeAdamW(ScheduleFreeAdamW):
    """Schedule-free AdamW with such weights, a decay that no correction scales, and eps at the root of the corrected v.

    ::

        z <- z - lr*(g / (sqrt(v/(1-beta2**t)) + eps) + weight_decay*y)
    """

    _: KW_ONLY
    weigh: Nonnegative
    exponent: Number
    scalars = {**ScheduleFreeAdamW.scalars, "highest": 0.0}

    update_scalars = staticmethod(_weighed)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        corrected = sqrt(one_minus_power(hyper.beta2, t))
        own = {"eps": hyper.eps * corrected, "decay": hyper.weight_decay / corrected}
        return ScheduleFreeAdamW.coefficients(t, hyper) | own
