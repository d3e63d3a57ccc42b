"""Proximal gradients of anyoptim, accelerated and restarted, on X and y as they are."""

import numpy as np
from benchopt import BaseSolver

import anyoptim as ao


class Solver(BaseSolver):
    name = "anyoptim"
    requirements = ["pip::anyoptim"]
    sampling_strategy = "callback"

    def skip(self, X, y, lmbd, fit_intercept):
        return fit_intercept, "there is no intercept here" if fit_intercept else None

    def set_objective(self, X, y, lmbd, fit_intercept):
        self.X, self.y, self.lmbd = X, y, lmbd

    def value_and_grad(self, beta):
        r = self.X @ beta - self.y
        return r @ r / 2, self.X.T @ r

    def warm_up(self):
        self.run_once(stop_val=20)

    def run(self, callback):
        def each(result):
            self.beta = result.params
            if not callback():
                raise StopIteration

        self.beta, method = np.zeros(self.X.shape[1]), ao.ProximalGradient(ao.prox.L1(self.lmbd))
        if callback():
            ao.minimize(self.value_and_grad, self.beta, method=method, stop=ao.Stop(steps=10**6), callback=each)

    def get_result(self):
        return {"beta": self.beta}
