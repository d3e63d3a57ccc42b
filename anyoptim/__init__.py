"""Optimizers and Dropout for the arrays people already have."""

from typing import TYPE_CHECKING

from anyoptim import random
from anyoptim._core._chain import chain, partition
from anyoptim._core._optimizer import Optimizer
from anyoptim._diagnosis._explanation import Explanation, Share
from anyoptim._engines import EngineName
from anyoptim._stage._groups import groups
from anyoptim._stage._stage import Gate, GradientStage, ParameterStage, SlotStage, Stage
from anyoptim._stage._state import State
from anyoptim._trace._hyperparameters import (
    Domain,
    Fraction,
    Hyper,
    Nonnegative,
    Number,
    Positive,
    UnitInterval,
    fraction,
    nonnegative,
)
from anyoptim._trace._reductions import Count, Dot, Max, Norm, Reduction, Size, Sum
from anyoptim.layers import (
    AlphaDropout,
    DropConnect,
    Dropout,
    DropPath,
    FeatureAlphaDropout,
    GaussianDropout,
    SpatialDropout,
    VariationalDropout,
    Zoneout,
    alpha_dropout,
    alpha_dropout_gradient,
    drop_path,
    dropout,
    feature_alpha_dropout,
    gaussian_dropout,
    spatial_dropout,
    zoneout,
    zoneout_gradient,
)
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
    Support,
    Trace,
    TrustRatio,
    UnitNorm,
    WeightDecay,
)

if TYPE_CHECKING:
    from anyoptim import compat, schedules, solvers, testing
    from anyoptim._diagnosis._table import Diagnosis, ParameterDiagnosis
    from anyoptim.checkpoint import Checkpoint, load, save
    from anyoptim.schedules import scalars
    from anyoptim.solvers import (
        CGLS,
        LBFGS,
        SIRT,
        GradientDescent,
        Landweber,
        LeastSquares,
        NonlinearCG,
        ProximalGradient,
        Stop,
        lipschitz,
        minimize,
    )
    from anyoptim.stages import prox
    from anyoptim.testing import check_adjoint, check_grad

__all__ = [
    "ASGD",
    "CGLS",
    "EMA",
    "LAMB",
    "LARS",
    "LBFGS",
    "SGD",
    "SGLD",
    "SIRT",
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
    "AlphaDropout",
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
    "Count",
    "Diagnosis",
    "Domain",
    "Dot",
    "DropConnect",
    "DropPath",
    "Dropout",
    "EngineName",
    "Explanation",
    "FeatureAlphaDropout",
    "FlushSubnormals",
    "Fraction",
    "Gate",
    "GaussianDropout",
    "GradientDescent",
    "GradientStage",
    "HeavyBall",
    "HeavyBallNesterov",
    "Hyper",
    "Landweber",
    "LeastSquares",
    "Lion",
    "Lookahead",
    "LossScale",
    "Max",
    "Maximize",
    "Metric",
    "Metrics",
    "Momentum",
    "Muon",
    "NAdam",
    "Nesterov",
    "NonNegative",
    "NonlinearCG",
    "Nonnegative",
    "Norm",
    "Number",
    "Optimizer",
    "ParameterDiagnosis",
    "ParameterStage",
    "Positive",
    "Prodigy",
    "ProximalGradient",
    "RAdam",
    "RMSProp",
    "Reduction",
    "Rprop",
    "Scale",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Shampoo",
    "Share",
    "Signum",
    "Size",
    "SkipNonFinite",
    "SlotStage",
    "SpatialDropout",
    "Stage",
    "State",
    "Stop",
    "Sum",
    "Support",
    "TextbookNesterov",
    "Trace",
    "TrustRatio",
    "UnitInterval",
    "UnitNorm",
    "VariationalDropout",
    "WeightDecay",
    "Yogi",
    "Zoneout",
    "alpha_dropout",
    "alpha_dropout_gradient",
    "chain",
    "check_adjoint",
    "check_grad",
    "compat",
    "drop_path",
    "dropout",
    "feature_alpha_dropout",
    "fraction",
    "gaussian_dropout",
    "groups",
    "lipschitz",
    "load",
    "minimize",
    "nonnegative",
    "partition",
    "prox",
    "random",
    "save",
    "scalars",
    "schedules",
    "solvers",
    "spatial_dropout",
    "testing",
    "zoneout",
    "zoneout_gradient",
]

__version__ = "0.1.0.dev0"


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]


_OF_SOLVERS = frozenset(
    {
        "CGLS",
        "GradientDescent",
        "LBFGS",
        "Landweber",
        "LeastSquares",
        "NonlinearCG",
        "ProximalGradient",
        "SIRT",
        "Stop",
        "lipschitz",
        "minimize",
    }
)
"""What is handed out of `solvers`."""

_WITHIN = {"prox": "stages", "scalars": "schedules"}
"""The public modules that stand in another, for which they are."""


if not TYPE_CHECKING:  # it would hide misspelt names from those who check types

    def __getattr__(name: str) -> object:
        # Imported where they are asked for: importing anyoptim has a limit in time.
        import importlib  # noqa: PLC0415

        if name in {"checkpoint", "compat", "schedules", "solvers", "testing"}:
            return importlib.import_module(f"anyoptim.{name}")
        if name in _WITHIN:
            return importlib.import_module(f"anyoptim.{_WITHIN[name]}.{name}")
        if name in {"Checkpoint", "load", "save"}:
            return getattr(importlib.import_module("anyoptim.checkpoint"), name)
        if name in {"Diagnosis", "ParameterDiagnosis"}:
            return getattr(importlib.import_module("anyoptim._diagnosis._table"), name)
        if name in _OF_SOLVERS:
            return getattr(importlib.import_module("anyoptim.solvers"), name)
        if name in {"check_adjoint", "check_grad"}:
            return getattr(importlib.import_module("anyoptim.testing"), name)
        hint = ""
        if not name.startswith("_"):
            from anyoptim._trace._other_names import public_hint  # noqa: PLC0415

            hint = public_hint(name, __all__)
        raise AttributeError(f"module 'anyoptim' has no attribute {name!r}{hint}")
