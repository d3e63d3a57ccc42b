"""What composes with a method: clipping, decay, averaging, control."""

from anyoptim.stages.averaging import EMA
from anyoptim.stages.clipping import ClipGlobalNorm, ClipValue
from anyoptim.stages.control import Accumulate, LossScale, SkipNonFinite
from anyoptim.stages.layers import AdaptiveClip, Centralize, UnitNorm
from anyoptim.stages.metrics import Metric, Metrics
from anyoptim.stages.scaling import Cautious, ClipNorm, TrustRatio
from anyoptim.stages.shaping import Scale, Trace, WeightDecay
from anyoptim.stages.subnormals import FlushSubnormals

__all__ = [
    "EMA",
    "Accumulate",
    "AdaptiveClip",
    "Cautious",
    "Centralize",
    "ClipGlobalNorm",
    "ClipNorm",
    "ClipValue",
    "FlushSubnormals",
    "LossScale",
    "Metric",
    "Metrics",
    "Scale",
    "SkipNonFinite",
    "Trace",
    "TrustRatio",
    "UnitNorm",
    "WeightDecay",
]
