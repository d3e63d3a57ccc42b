"""Optimizers and Dropout for the arrays people already have."""

from anyoptim import random, schedules
from anyoptim._chain import chain
from anyoptim._dropout import Dropout, dropout
from anyoptim._explain import Explanation, Share
from anyoptim._hyperparameters import Domain, fraction, nonnegative
from anyoptim._optimizer import Optimizer
from anyoptim._stage import ParameterStage, SlotStage, Stage
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
from anyoptim.stages import EMA, ClipGlobalNorm, ClipValue, FlushSubnormals, Scale, Trace, WeightDecay

__all__ = [
    "EMA",
    "SGD",
    "AdaDelta",
    "AdaGrad",
    "Adam",
    "CenteredRMSProp",
    "ClipGlobalNorm",
    "ClipValue",
    "Domain",
    "Dropout",
    "Explanation",
    "FlushSubnormals",
    "HeavyBall",
    "HeavyBallNesterov",
    "Momentum",
    "Nesterov",
    "Optimizer",
    "ParameterStage",
    "RMSProp",
    "Scale",
    "Share",
    "SlotStage",
    "Stage",
    "State",
    "TextbookNesterov",
    "Trace",
    "WeightDecay",
    "chain",
    "dropout",
    "fraction",
    "nonnegative",
    "random",
    "schedules",
]
