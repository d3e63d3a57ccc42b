"""Stages that compose with a method: clipping, decay, averaging, projection, control."""

from anyoptim.stages.averaging import EMA, SWA, Lookahead
from anyoptim.stages.clipping import ClipGlobalNorm, ClipValue
from anyoptim.stages.control import Accumulate, LossScale, SkipNonFinite
from anyoptim.stages.layers import AdaptiveClip, Centralize, UnitNorm
from anyoptim.stages.metrics import Metric, Metrics
from anyoptim.stages.projection import Box, NonNegative, Support
from anyoptim.stages.scaling import Cautious, ClipNorm, TrustRatio
from anyoptim.stages.shaping import Maximize, Scale, Trace, WeightDecay
from anyoptim.stages.subnormals import FlushSubnormals

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
]
