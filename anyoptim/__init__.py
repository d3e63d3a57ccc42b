"""Optimizers and Dropout for the arrays people already have."""

from anyoptim import random, schedules
from anyoptim._chain import chain, partition
from anyoptim._dropout import Dropout, dropout
from anyoptim._explain import Explanation, Share
from anyoptim._groups import groups
from anyoptim._hyperparameters import Domain, fraction, nonnegative
from anyoptim._optimizer import Optimizer
from anyoptim._stage import GradientStage, ParameterStage, SlotStage, Stage
from anyoptim._state import State
from anyoptim.optimizers import (
    SGD,
    AdaDelta,
    AdaGrad,
    Adam,
    CenteredRMSProp,
    HeavyBall,
    HeavyBallNesterov,
    Momentum,
    Nesterov,
    RMSProp,
    TextbookNesterov,
)
from anyoptim.stages import (
    EMA,
    Accumulate,
    AdaptiveClip,
    Cautious,
    Centralize,
    ClipGlobalNorm,
    ClipNorm,
    ClipValue,
    FlushSubnormals,
    LossScale,
    Metric,
    Metrics,
    Scale,
    SkipNonFinite,
    Trace,
    TrustRatio,
    UnitNorm,
    WeightDecay,
)

__all__ = [
    "EMA",
    "SGD",
    "Accumulate",
    "AdaDelta",
    "AdaGrad",
    "Adam",
    "AdaptiveClip",
    "Cautious",
    "CenteredRMSProp",
    "Centralize",
    "ClipGlobalNorm",
    "ClipNorm",
    "ClipValue",
    "Domain",
    "Dropout",
    "Explanation",
    "FlushSubnormals",
    "GradientStage",
    "HeavyBall",
    "HeavyBallNesterov",
    "LossScale",
    "Metric",
    "Metrics",
    "Momentum",
    "Nesterov",
    "Optimizer",
    "ParameterStage",
    "RMSProp",
    "Scale",
    "Share",
    "SkipNonFinite",
    "SlotStage",
    "Stage",
    "State",
    "TextbookNesterov",
    "Trace",
    "TrustRatio",
    "UnitNorm",
    "WeightDecay",
    "chain",
    "dropout",
    "fraction",
    "groups",
    "nonnegative",
    "partition",
    "random",
    "schedules",
]
