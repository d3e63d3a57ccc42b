"""Metrics: what a step measures of each parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from anyoptim._arrays import Array
from anyoptim._stage._stage import Stage, itself, nonfinite, parameter
from anyoptim._trace._reductions import Count, Norm, Reduction

__all__ = ["Metric", "Metrics"]


class Metric(NamedTuple):
    """What a step measured of one parameter.

    >>> optimizer = ao.chain(ao.SGD(lr=0.1), ao.Metrics("step"))
    >>> params = optimizer.update({"W": np.ones(4)}, {"W": np.full(4, 3.0)})
    >>> round(optimizer.last_metrics["step"]["W"].ratio, 3)
    0.3
    """

    norm: float
    """The 2-norm of what flows through the stage: of the gradient, or of the step."""
    parameter_norm: float
    """The 2-norm of the parameter before its step."""
    nonfinite: int
    """How many elements of what flows through are NaN or infinite."""

    @property
    def ratio(self) -> float:
        """The norm to that of the parameter; infinite where only this is 0."""
        if self.parameter_norm:
            return self.norm / self.parameter_norm
        return math.inf if self.norm else 0.0


class Metrics(Stage):
    """Look at what flows through, parameter by parameter, and change nothing.

    ::

        optimizer = ao.chain(ao.Metrics("gradient"), ao.ClipGlobalNorm(1.0), ao.Adam(), ao.Metrics("step"))
        optimizer.update(params, grads)
        optimizer.last_metrics["gradient"]["encoder.W"].norm
        optimizer.last_metrics["step"]["encoder.W"].ratio       # step to weight

    At each `update` it measures the 2-norm of the value and that of the parameter; the first it shares with a
    `ClipGlobalNorm` right behind it. Elements that are not finite are counted only where a norm is not. The pure
    `step` measures nothing. On a CUDA device, the host waits.

    Args:
        name: of these metrics in `optimizer.last_metrics`.

    >>> optimizer = ao.chain(ao.Metrics("gradient"), ao.SGD(lr=0.1))
    >>> params = optimizer.update({"W": np.ones(4)}, {"W": np.full(4, 3.0)})
    >>> optimizer.last_metrics["gradient"]["W"]
    Metric(norm=6.0, parameter_norm=2.0, nonfinite=0)
    """

    name: str = "gradient"

    metrics: ClassVar[dict[str, Reduction]] = {
        "norm": Norm(itself, "each"),
        "parameter_norm": Norm(parameter, "each"),
        "nonfinite": Count(nonfinite, "each"),
    }

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name is {self.name!r}; wanted a string")

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return x

    def record_metrics(self, paths: Sequence[str], values: Mapping[str, Sequence[float]]) -> None:
        """Keep what was measured of the parameters with these paths."""
        rows = zip(values["norm"], values["parameter_norm"], values["nonfinite"], strict=True)
        self.last = {path: Metric(float(a), float(b), int(n)) for path, (a, b, n) in zip(paths, rows, strict=True)}

    def __repr__(self) -> str:
        return f"Metrics({self.name!r})"
