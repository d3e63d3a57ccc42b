"""torch.optim's constructors, schedulers and state: `ao.compat.torch.AdamW(lr=1e-3, betas=(0.9, 0.999))`.

The functions have the names, the arguments, their order and their defaults, but for `params`, which `update` is given:
each gives an optimizer of anyoptim that does what torch's does, to round-off. The arguments may be schedules. What
says only how torch is to run (`foreach`, `fused`, `capturable`) changes no result, and is accepted; what can't be done
here (`differentiable`) is refused with NotImplementedError. The `lr` of the optimizer can be set at any time.
`LBFGS`, whose `step` is given a closure, is a solver, whose `update` is given a function.
"""

from anyoptim.compat.torch import lr_scheduler
from anyoptim.compat.torch._incoming import from_torch
from anyoptim.compat.torch._lbfgs import LBFGS
from anyoptim.compat.torch._methods import (
    ASGD,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Muon,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
)
from anyoptim.compat.torch._outgoing import to_torch

__all__ = [
    "ASGD",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Muon",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "from_torch",
    "lr_scheduler",
    "to_torch",
]
