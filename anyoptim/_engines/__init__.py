"""Engines: machines that run a program over leaves, and the choice among them.

An engine is given a program and leaves and knows nothing else: no container, no optimizer, no other engine. It
prepares a step, which may fail, and gives back the commit, which writes and may not: so that a step over
several engines is taken whole or not at all.
"""

from anyoptim._engines._base import Leaf, Plan, Replayed, Result
from anyoptim._engines._choice import (
    ENGINES,
    GENERATING,
    LAZY,
    EngineName,
    Plans,
    check_engine,
    choices,
    precompile,
    source,
)
from anyoptim._engines._dispatch import Dispatch
from anyoptim._trace._coefficients import CoefficientTable

__all__ = [
    "ENGINES",
    "GENERATING",
    "LAZY",
    "CoefficientTable",
    "Dispatch",
    "EngineName",
    "Leaf",
    "Plan",
    "Plans",
    "Replayed",
    "Result",
    "check_engine",
    "choices",
    "precompile",
    "source",
]
