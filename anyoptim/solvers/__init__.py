"""Solvers, which are given the value of a function as well as its gradient."""

from anyoptim._search._result import History, Progress, Record, Result
from anyoptim._search._stop import Both, Condition, Either, Stop
from anyoptim._search.line_searches import Armijo, HagerZhang, LineSearch, MoreThuente, StrongWolfe, Trial, Trials
from anyoptim.solvers._callbacks import Callbacks, Store
from anyoptim.solvers._minimize import minimize
from anyoptim.solvers._solver import Iteration, Run, Solver
from anyoptim.solvers.cgls import CGLS
from anyoptim.solvers.conjugate_gradient import NonlinearCG
from anyoptim.solvers.curvature import lipschitz
from anyoptim.solvers.gradient_descent import GradientDescent
from anyoptim.solvers.landweber import SIRT, Landweber
from anyoptim.solvers.lbfgs import LBFGS
from anyoptim.solvers.least_squares import LeastSquares
from anyoptim.solvers.proximal_gradient import ProximalGradient
from anyoptim.solvers.step_rules import BarzilaiBorwein, Descent, Polyak, StepRule

__all__ = [
    "CGLS",
    "LBFGS",
    "SIRT",
    "Armijo",
    "BarzilaiBorwein",
    "Both",
    "Callbacks",
    "Condition",
    "Descent",
    "Either",
    "GradientDescent",
    "HagerZhang",
    "History",
    "Iteration",
    "Landweber",
    "LeastSquares",
    "LineSearch",
    "MoreThuente",
    "NonlinearCG",
    "Polyak",
    "Progress",
    "ProximalGradient",
    "Record",
    "Result",
    "Run",
    "Solver",
    "StepRule",
    "Stop",
    "Store",
    "StrongWolfe",
    "Trial",
    "Trials",
    "lipschitz",
    "minimize",
]
