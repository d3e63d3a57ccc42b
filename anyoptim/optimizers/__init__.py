"""The methods: one short class each, its equation in the letters of its docstring."""

from anyoptim.optimizers.adagrad import AdaDelta, AdaGrad, CenteredRMSProp, RMSProp
from anyoptim.optimizers.adam import Adam, Adamax, AdamW, AMSGrad, CorrectedAMSGrad
from anyoptim.optimizers.belief import AdaBelief, CorrectedYogi, RAdam, Yogi
from anyoptim.optimizers.layerwise import LAMB, LARS
from anyoptim.optimizers.matrices import Adafactor, Muon, Shampoo
from anyoptim.optimizers.nadam import Adan, NAdam
from anyoptim.optimizers.schedule_free import Prodigy, ScheduleFreeAdamW, ScheduleFreeSGD
from anyoptim.optimizers.sgd import ASGD, SGD, SGLD, HeavyBall, HeavyBallNesterov, Momentum, Nesterov, TextbookNesterov
from anyoptim.optimizers.signs import Lion, Rprop, Signum

__all__ = [
    "ASGD",
    "LAMB",
    "LARS",
    "SGD",
    "SGLD",
    "AMSGrad",
    "AdaBelief",
    "AdaDelta",
    "AdaGrad",
    "Adafactor",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "CenteredRMSProp",
    "CorrectedAMSGrad",
    "CorrectedYogi",
    "HeavyBall",
    "HeavyBallNesterov",
    "Lion",
    "Momentum",
    "Muon",
    "NAdam",
    "Nesterov",
    "Prodigy",
    "RAdam",
    "RMSProp",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Shampoo",
    "Signum",
    "TextbookNesterov",
    "Yogi",
]
