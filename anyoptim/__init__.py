"""Optimizers and Dropout for the arrays people already have."""

from anyoptim import random
from anyoptim._dropout import Dropout, dropout
from anyoptim._hyperparameters import Domain, fraction, nonnegative
from anyoptim._optimizer import Optimizer, State
from anyoptim.optimizers import SGD, AdaGrad, Adam, Momentum

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "Domain",
    "Dropout",
    "Momentum",
    "Optimizer",
    "State",
    "dropout",
    "fraction",
    "nonnegative",
    "random",
]
