"""Solvers, which are given the value of a function as well as its gradient."""

from anyoptim.solvers._callbacks import Callbacks, Store
from anyoptim.solvers._minimize import minimize
from anyoptim.solvers._result import History, Progress, Record, Result
from anyoptim.solvers._solver import Iteration, Run, Solver
from anyoptim.solvers._stop import Both, Condition, Either, Stop
from anyoptim.solvers.lbfgs import LBFGS
from anyoptim.solvers.line_searches import Armijo, HagerZhang, LineSearch, MoreThuente, StrongWolfe, Trial, Trials

__all__ = [
    "LBFGS",
    "Armijo",
    "Both",
    "Callbacks",
    "Condition",
    "Either",
    "HagerZhang",
    "History",
    "Iteration",
    "LineSearch",
    "MoreThuente",
    "Progress",
    "Record",
    "Result",
    "Run",
    "Solver",
    "Stop",
    "Store",
    "StrongWolfe",
    "Trial",
    "Trials",
    "minimize",
]
