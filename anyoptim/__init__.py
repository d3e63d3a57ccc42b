"""Optimizers and Dropout for the arrays people already have."""

from anyoptim import random
from anyoptim._dropout import Dropout, dropout
from anyoptim._explain import Explanation, Share
from anyoptim._hyperparameters import Domain, fraction, nonnegative
from anyoptim._optimizer import Optimizer
from anyoptim._stage import ParameterStage, SlotStage, Stage
from anyoptim._state import State
from anyoptim.optimizers import SGD, AdaGrad, Adam, Momentum
from anyoptim.stages import EMA, ClipGlobalNorm, FlushSubnormals, WeightDecay, chain

__all__ = [
    "EMA",
    "SGD",
    "AdaGrad",
    "Adam",
    "ClipGlobalNorm",
    "Domain",
    "Dropout",
    "Explanation",
    "FlushSubnormals",
    "Momentum",
    "Optimizer",
    "ParameterStage",
    "Share",
    "SlotStage",
    "Stage",
    "State",
    "WeightDecay",
    "chain",
    "dropout",
    "fraction",
    "nonnegative",
    "random",
]
