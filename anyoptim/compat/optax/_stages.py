"""Stages that optax computes in another way than ours: a look ahead, a sum, the other sign, a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, InitVar
from typing import Annotated, Any

from anyoptim._arrays import Array
from anyoptim._trace._hyperparameters import Domain, Hyper
from anyoptim._trace._scalars import where
from anyoptim.stages import Accumulate, Trace, TrustRatio

__all__ = ["MaskedTrustRatio", "NesterovStepTrace", "NesterovTrace", "StepTrace", "SumAccumulate"]

_Switch = Annotated[Hyper, Domain(lambda x: x in {0.0, 1.0}, "0 or 1")]


class NesterovTrace(Trace):
    """Momentum as a stage that looks ahead.

    ::

        b <- momentum*b + x
        x <- momentum*b + x
    """

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, b: Array, c: Any) -> tuple[Array, ...]:
        b = c.momentum * b + x
        return c.momentum * b + x, b


class SumAccumulate(Accumulate):
    """Accumulation with the sum of the gradients instead of their mean."""

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"share": 1.0}


class StepTrace(Trace):
    """A trace of steps, which here are subtracted: optax keeps it with the other sign."""


class NesterovStepTrace(NesterovTrace):
    """A trace of steps that looks ahead, which optax keeps with the other sign, too."""


class MaskedTrustRatio(TrustRatio):
    """A trust ratio for some of the parameters; 1 for others."""

    _: KW_ONLY
    among: InitVar[Callable[[str, Array], bool]]
    on: _Switch = 1.0

    def __post_init__(self, among: Callable[[str, Array], bool]) -> None:
        self._where = among

    def overrides(self, path: str, p: Array) -> Mapping[str, Hyper]:
        """Switch the ratio off for parameters that are left out."""
        return {} if self._where(path, p) else {"on": 0.0}

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"ratio": where(hyper.on > 0, TrustRatio.coefficients(t, hyper)["ratio"], 1.0)}
