"""What composes with a method: clipping, decay, averaging."""

from anyoptim.stages.averaging import EMA
from anyoptim.stages.clipping import ClipGlobalNorm, ClipValue
from anyoptim.stages.shaping import Scale, Trace, WeightDecay
from anyoptim.stages.subnormals import FlushSubnormals

__all__ = ["EMA", "ClipGlobalNorm", "ClipValue", "FlushSubnormals", "Scale", "Trace", "WeightDecay"]
