"""L-BFGS of anyoptim, on a weight vector and an intercept as parameters of their own."""

import numpy as np
from benchopt import BaseSolver

import anyoptim as ao


class Solver(BaseSolver):
    name = "anyoptim"
    requirements = ["pip::anyoptim"]
    sampling_strategy = "callback"

    def set_objective(self, X, y, lmbd, fit_intercept):
        self.X, self.y, self.lmbd, self.fit_intercept = X, y, lmbd, fit_intercept

    def value_and_grad(self, params):
        margins = self.y * (self.X @ params["w"] + params["c"])
        wrong = -self.y * (0.5 - 0.5 * np.tanh(margins / 2))
        value = np.logaddexp(0, -margins).sum() + self.lmbd / 2 * (params["w"] @ params["w"])
        grad_c = wrong.sum(keepdims=True) if self.fit_intercept else None
        return value, {"w": wrong @ self.X + self.lmbd * params["w"], "c": grad_c}

    def warm_up(self):
        self.run_once(stop_val=20)

    def run(self, callback):
        def each(result):
            self.params = result.params
            if not callback():
                raise StopIteration

        self.params = {"w": np.zeros(self.X.shape[1]), "c": np.zeros(1)}
        if callback():
            ao.minimize(self.value_and_grad, self.params, method=ao.LBFGS(), stop=ao.Stop(steps=10**6), callback=each)

    def get_result(self):
        return {
            "beta": np.concatenate([self.params["w"], self.params["c"]] if self.fit_intercept else [self.params["w"]])
        }
