"""Optimizers and Dropout for the arrays people already have."""

from typing import TYPE_CHECKING, Any

from anyoptim import random
from anyoptim._chain import chain, partition
from anyoptim._dropout import Dropout, dropout
from anyoptim._explain import Explanation, Share
from anyoptim._groups import groups
from anyoptim._hyperparameters import Domain, fraction, nonnegative
from anyoptim._optimizer import Optimizer
from anyoptim._stage import Gate, GradientStage, ParameterStage, SlotStage, Stage
from anyoptim._state import State
from anyoptim.optimizers import (
    ASGD,
    LAMB,
    LARS,
    SGD,
    SGLD,
    AdaBelief,
    AdaDelta,
    Adafactor,
    AdaGrad,
    Adam,
    Adamax,
    AdamW,
    Adan,
    AMSGrad,
    CenteredRMSProp,
    CorrectedAMSGrad,
    CorrectedYogi,
    HeavyBall,
    HeavyBallNesterov,
    Lion,
    Momentum,
    Muon,
    NAdam,
    Nesterov,
    Prodigy,
    RAdam,
    RMSProp,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    Shampoo,
    Signum,
    TextbookNesterov,
    Yogi,
)
from anyoptim.stages import (
    EMA,
    SWA,
    Accumulate,
    AdaptiveClip,
    Box,
    Cautious,
    Centralize,
    ClipGlobalNorm,
    ClipNorm,
    ClipValue,
    FlushSubnormals,
    Lookahead,
    LossScale,
    Maximize,
    Metric,
    Metrics,
    NonNegative,
    Scale,
    SkipNonFinite,
    Trace,
    TrustRatio,
    UnitNorm,
    WeightDecay,
)

if TYPE_CHECKING:
    from anyoptim import compat, schedules
    from anyoptim._checkpoint import Checkpoint, load, save

__all__ = [
    "ASGD",
    "EMA",
    "LAMB",
    "LARS",
    "SGD",
    "SGLD",
    "SWA",
    "AMSGrad",
    "Accumulate",
    "AdaBelief",
    "AdaDelta",
    "AdaGrad",
    "Adafactor",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "AdaptiveClip",
    "Box",
    "Cautious",
    "CenteredRMSProp",
    "Centralize",
    "Checkpoint",
    "ClipGlobalNorm",
    "ClipNorm",
    "ClipValue",
    "CorrectedAMSGrad",
    "CorrectedYogi",
    "Domain",
    "Dropout",
    "Explanation",
    "FlushSubnormals",
    "Gate",
    "GradientStage",
    "HeavyBall",
    "HeavyBallNesterov",
    "Lion",
    "Lookahead",
    "LossScale",
    "Maximize",
    "Metric",
    "Metrics",
    "Momentum",
    "Muon",
    "NAdam",
    "Nesterov",
    "NonNegative",
    "Optimizer",
    "ParameterStage",
    "Prodigy",
    "RAdam",
    "RMSProp",
    "Rprop",
    "Scale",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Shampoo",
    "Share",
    "Signum",
    "SkipNonFinite",
    "SlotStage",
    "Stage",
    "State",
    "TextbookNesterov",
    "Trace",
    "TrustRatio",
    "UnitNorm",
    "WeightDecay",
    "Yogi",
    "chain",
    "compat",
    "dropout",
    "fraction",
    "groups",
    "load",
    "nonnegative",
    "partition",
    "random",
    "save",
    "schedules",
]


def __getattr__(name: str) -> Any:
    # Imported where they are asked for: importing anyoptim has a limit in time.
    import importlib  # noqa: PLC0415

    if name in {"compat", "schedules"}:
        return importlib.import_module(f"anyoptim.{name}")
    if name in {"Checkpoint", "load", "save"}:
        return getattr(importlib.import_module("anyoptim._checkpoint"), name)
    raise AttributeError(f"module 'anyoptim' has no attribute {name!r}")
