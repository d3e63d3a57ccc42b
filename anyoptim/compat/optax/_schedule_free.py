"""The schedule-free methods whose average optax weighs by the largest rate so far."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any

from anyoptim._trace._hyperparameters import Nonnegative, Number
from anyoptim._trace._scalars import one_minus_power, power, sqrt, where
from anyoptim.optimizers import ScheduleFreeAdamW, ScheduleFreeSGD

__all__ = ["PeakScheduleFreeAdamW", "PeakScheduleFreeSGD"]


def _weighed(step: Any, *, weight: Any, highest: Any, weigh: Any, exponent: Any, **_: Any) -> dict[str, Any]:
    """The largest rate so far, the sum of its powers, and the share of the newest."""
    highest = where(weigh > highest, weigh, highest)
    new = power(highest, exponent)
    weight = weight + new
    there = weight > 0
    return {"weight": weight, "share": where(there, new / where(there, weight, 1.0), 0.0), "highest": highest}


class PeakScheduleFreeSGD(ScheduleFreeSGD):
    """Schedule-free SGD whose average is weighed by a power of the largest rate so far, as optax's.

    ::

        w <- w + max(rates)**exponent;  c = max(rates)**exponent / w

    The rates for that are `weigh`, which is the next step's lr in optax.
    """

    _: KW_ONLY
    weigh: Nonnegative
    exponent: Number
    scalars = {**ScheduleFreeSGD.scalars, "highest": 0.0}

    update_scalars = staticmethod(_weighed)  # type: ignore[assignment] # it has numbers and hyperparameters more

    @staticmethod
    def coefficients(  # type: ignore[override] # likewise
        t: Any, *, highest: Any, weigh: Any, exponent: Any, **own: Any
    ) -> dict[str, Any]:
        return ScheduleFreeSGD.coefficients(t, **own)


class PeakScheduleFreeAdamW(ScheduleFreeAdamW):
    """Schedule-free AdamW with such weights, a decay that no correction scales, and eps at the root of the corrected v.

    ::

        z <- z - lr*(g / (sqrt(v/(1-beta2**t)) + eps) + weight_decay*y)
    """

    _: KW_ONLY
    weigh: Nonnegative
    exponent: Number
    scalars = {**ScheduleFreeAdamW.scalars, "highest": 0.0}

    update_scalars = staticmethod(_weighed)  # type: ignore[assignment] # it has numbers and hyperparameters more

    @staticmethod
    def coefficients(  # type: ignore[override] # likewise
        t: Any, *, beta2: Any, eps: Any, weight_decay: Any, highest: Any, weigh: Any, exponent: Any, **own: Any
    ) -> dict[str, Any]:
        corrected = sqrt(one_minus_power(beta2, t))
        return ScheduleFreeAdamW.coefficients(
            t, beta2=beta2, eps=eps * corrected, weight_decay=weight_decay / corrected, **own
        )
