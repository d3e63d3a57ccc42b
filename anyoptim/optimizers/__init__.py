"""The methods: one short class each, its equation in the letters of its docstring."""

from anyoptim.optimizers.adagrad import AdaDelta, AdaGrad, CenteredRMSProp, RMSProp
from anyoptim.optimizers.adam import Adam, AdamW, AMSGrad, CorrectedAMSGrad
from anyoptim.optimizers.adamax import Adamax
from anyoptim.optimizers.adan import Adan
from anyoptim.optimizers.averaged import ASGD
from anyoptim.optimizers.belief import AdaBelief, CorrectedYogi, Yogi
from anyoptim.optimizers.langevin import SGLD
from anyoptim.optimizers.layerwise import LAMB, LARS
from anyoptim.optimizers.matrices import Adafactor, Muon, Shampoo
from anyoptim.optimizers.momentum import SGD, HeavyBall, HeavyBallNesterov, Momentum, Nesterov, TextbookNesterov
from anyoptim.optimizers.nadam import NAdam
from anyoptim.optimizers.prodigy import Prodigy
from anyoptim.optimizers.radam import RAdam
from anyoptim.optimizers.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
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
