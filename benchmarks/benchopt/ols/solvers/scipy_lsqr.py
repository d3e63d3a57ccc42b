"""LSQR of SciPy, conjugate gradients for least squares: the best that knows of X no more than products."""

import numpy as np
import scipy.sparse.linalg
from benchopt import BaseSolver


class Solver(BaseSolver):
    name = "SciPy LSQR"
    requirements = ["scipy"]
    sampling_strategy = "iteration"

    def set_objective(self, X, y, fit_intercept):
        self.X, self.y = X, y

    def run(self, n_iter):
        self.beta = np.zeros(self.X.shape[1])
        if n_iter:
            self.beta = scipy.sparse.linalg.lsqr(self.X, self.y, atol=0, btol=0, conlim=0, iter_lim=n_iter)[0]

    def get_result(self):
        return {"beta": self.beta}
