"""L-BFGS with bounds of anyoptim, on the parameters by name: a scale is above 0."""

import numpy as np
from benchopt import BaseSolver

import anyoptim as ao


class Solver(BaseSolver):
    name = "anyoptim"
    requirements = ["pip::anyoptim"]
    sampling_strategy = "callback"

    def set_objective(self, X, y, epsilon, lmbd):
        self.X, self.y, self.epsilon, self.lmbd = X, y, epsilon, lmbd

    def value_and_grad(self, params):
        scale, coef, epsilon = params["scale"], params["coef"], self.epsilon
        r = self.X @ coef + params["intercept"] - self.y
        z = np.clip(r / scale, -epsilon, epsilon)
        losses = z * (2 * r - z * scale)  # scale * z**2 within, and scale * (2*epsilon*|r|/scale - epsilon**2) without
        value = len(r) * scale[0] + losses.sum() + self.lmbd * (coef @ coef)
        grads = {
            "intercept": 2 * z.sum(keepdims=True),
            "scale": len(r) - (z * z).sum(keepdims=True),
            "coef": 2 * (z @ self.X) + 2 * self.lmbd * coef,
        }
        return value, grads

    def warm_up(self):
        self.run_once(stop_val=20)

    def run(self, callback):
        def each(result):
            self.params = result.params
            if not callback():
                raise StopIteration

        lower = {"intercept": -np.inf, "scale": 10 * np.finfo(float).eps, "coef": -np.inf}
        method = ao.LBFGS(bounds=(lower, np.inf))
        self.params = {"intercept": np.zeros(1), "scale": np.ones(1), "coef": np.zeros(self.X.shape[1])}
        if callback():
            ao.minimize(self.value_and_grad, self.params, method=method, stop=ao.Stop(steps=10**6), callback=each)

    def get_result(self):
        return {"params": np.concatenate([self.params[name] for name in ("intercept", "scale", "coef")])}
