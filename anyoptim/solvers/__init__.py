"""Solvers, which are given the value of a function as well as its gradient."""

from anyoptim.solvers._callbacks import Callbacks, Store
from anyoptim.solvers._result import History, Progress, Record, Result
from anyoptim.solvers._stop import Both, Condition, Either, Stop
from anyoptim.solvers.line_searches import Armijo, HagerZhang, LineSearch, MoreThuente, StrongWolfe, Trial, Trials

__all__ = [
    "Armijo",
    "Both",
    "Callbacks",
    "Condition",
    "Either",
    "HagerZhang",
    "History",
    "LineSearch",
    "MoreThuente",
    "Progress",
    "Record",
    "Result",
    "Stop",
    "Store",
    "StrongWolfe",
    "Trial",
    "Trials",
]
