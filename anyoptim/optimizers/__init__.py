"""The methods: one short class each, its equation in the letters of its docstring."""

from anyoptim.optimizers.adagrad import AdaDelta, AdaGrad, CenteredRMSProp, RMSProp
from anyoptim.optimizers.adam import Adam
from anyoptim.optimizers.momentum import SGD, HeavyBall, HeavyBallNesterov, Momentum, Nesterov, TextbookNesterov

__all__ = [
    "SGD",
    "AdaDelta",
    "AdaGrad",
    "Adam",
    "CenteredRMSProp",
    "HeavyBall",
    "HeavyBallNesterov",
    "Momentum",
    "Nesterov",
    "RMSProp",
    "TextbookNesterov",
]
