"""The active-set method of Lawson and Hanson, of SciPy: one point, the solution."""

import numpy as np
import scipy.optimize
from benchopt import BaseSolver


class Solver(BaseSolver):
    name = "SciPy nnls"
    requirements = ["scipy"]
    sampling_strategy = "run_once"

    def set_objective(self, X, y, fit_intercept):
        self.X, self.y = X, y

    def run(self, _):
        self.beta = np.maximum(scipy.optimize.nnls(self.X, self.y, maxiter=10**5)[0], 0)

    def get_result(self):
        return {"beta": self.beta}
