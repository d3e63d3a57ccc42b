"""The sum of log(1 + exp(-y*(X@beta + c))) and lmbd/2 * |beta|**2, as benchopt's benchmark_logreg_l2 has it."""

import numpy as np
from benchopt import BaseObjective


class Objective(BaseObjective):
    name = "L2 Logistic Regression"
    parameters = {"lmbd": [0.1], "fit_intercept": [True, False]}

    def set_data(self, X, y):
        self.X, self.y = X, y

    def get_objective(self):
        return {"X": self.X, "y": self.y, "lmbd": self.lmbd, "fit_intercept": self.fit_intercept}

    def evaluate_result(self, beta):
        w, c = (beta[:-1], beta[-1]) if self.fit_intercept else (beta, 0.0)
        return {"value": np.logaddexp(0, -self.y * (self.X @ w + c)).sum() + self.lmbd / 2 * (w @ w)}

    def get_one_result(self):
        return {"beta": np.zeros(self.X.shape[1] + self.fit_intercept)}
