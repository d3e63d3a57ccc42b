"""The methods: one short class each, its equation in the letters of its docstring."""

from anyoptim.optimizers.adagrad import AdaDelta, AdaGrad, CenteredRMSProp, RMSProp
from anyoptim.optimizers.adam import Adam
from anyoptim.optimizers.averaged import ASGD
from anyoptim.optimizers.langevin import SGLD
from anyoptim.optimizers.layerwise import LAMB, LARS
from anyoptim.optimizers.matrices import Adafactor, Muon, Shampoo
from anyoptim.optimizers.momentum import SGD, HeavyBall, HeavyBallNesterov, Momentum, Nesterov, TextbookNesterov
from anyoptim.optimizers.prodigy import Prodigy
from anyoptim.optimizers.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from anyoptim.optimizers.signs import Lion, Rprop, Signum

__all__ = [
    "ASGD",
    "LAMB",
    "LARS",
    "SGD",
    "SGLD",
    "AdaDelta",
    "AdaGrad",
    "Adafactor",
    "Adam",
    "CenteredRMSProp",
    "HeavyBall",
    "HeavyBallNesterov",
    "Lion",
    "Momentum",
    "Muon",
    "Nesterov",
    "Prodigy",
    "RMSProp",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Shampoo",
    "Signum",
    "TextbookNesterov",
]
