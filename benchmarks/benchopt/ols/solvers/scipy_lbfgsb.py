"""L-BFGS-B of SciPy."""

import numpy as np
import scipy.optimize
from benchopt import BaseSolver


class Solver(BaseSolver):
    name = "SciPy L-BFGS-B"
    requirements = ["scipy"]
    sampling_strategy = "callback"

    def set_objective(self, X, y, fit_intercept):
        self.X, self.y = X, y

    def value_and_grad(self, beta):
        r = self.X @ beta - self.y
        return r @ r / 2, self.X.T @ r

    def run(self, callback):
        def each(beta):
            self.beta = beta
            if not callback():
                raise StopIteration

        self.beta = np.zeros(self.X.shape[1])
        if callback():
            options = {"maxcor": 10, "ftol": 0.0, "gtol": 0.0, "maxiter": 10**6, "maxfun": 10**6}
            scipy.optimize.minimize(
                self.value_and_grad, self.beta, jac=True, method="L-BFGS-B", callback=each, options=options
            )

    def get_result(self):
        return {"beta": self.beta}
