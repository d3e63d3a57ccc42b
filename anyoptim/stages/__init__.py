"""Stages that compose with a method: clipping, decay, averaging, projection, control; proximal steps in `prox`."""

from typing import TYPE_CHECKING

from anyoptim.stages.averaging import EMA, SWA, Lookahead
from anyoptim.stages.clipping import ClipGlobalNorm, ClipValue
from anyoptim.stages.control import Accumulate, LossScale, SkipNonFinite
from anyoptim.stages.layers import AdaptiveClip, Centralize, UnitNorm
from anyoptim.stages.metrics import Metric, Metrics
from anyoptim.stages.projection import Box, NonNegative, Support
from anyoptim.stages.scaling import Cautious, ClipNorm, TrustRatio
from anyoptim.stages.shaping import Maximize, Scale, Trace, WeightDecay
from anyoptim.stages.subnormals import FlushSubnormals

if TYPE_CHECKING:
    from anyoptim.stages import prox

__all__ = [
    "EMA",
    "SWA",
    "Accumulate",
    "AdaptiveClip",
    "Box",
    "Cautious",
    "Centralize",
    "ClipGlobalNorm",
    "ClipNorm",
    "ClipValue",
    "FlushSubnormals",
    "Lookahead",
    "LossScale",
    "Maximize",
    "Metric",
    "Metrics",
    "NonNegative",
    "Scale",
    "SkipNonFinite",
    "Support",
    "Trace",
    "TrustRatio",
    "UnitNorm",
    "WeightDecay",
    "prox",
]


if not TYPE_CHECKING:  # it would hide misspelt names from those who check types

    def __getattr__(name: str) -> object:
        # Imported where it is asked for: importing anyoptim has a limit in time.
        import importlib  # noqa: PLC0415

        if name == "prox":
            return importlib.import_module("anyoptim.stages.prox")
        raise AttributeError(f"module 'anyoptim.stages' has no attribute {name!r}")
