"""Solvers, which are given the value of a function as well as its gradient."""

from anyoptim.solvers._hager_zhang import HagerZhang
from anyoptim.solvers._line_search import Armijo, LineSearch, WolfeSearch
from anyoptim.solvers._more_thuente import MoreThuente
from anyoptim.solvers._result import History, Progress, Record, Result
from anyoptim.solvers._stop import Both, Condition, Either, Stop
from anyoptim.solvers._strong_wolfe import StrongWolfe

__all__ = [
    "Armijo",
    "Both",
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
    "StrongWolfe",
    "WolfeSearch",
]
