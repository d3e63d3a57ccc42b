"""Half of |y - X@beta - c|**2 and lmbd * sum |beta|, as benchopt's benchmark_lasso has it, with the duality gap."""

import numpy as np
from benchopt import BaseObjective


class Objective(BaseObjective):
    name = "Lasso Regression"
    parameters = {"fit_intercept": [False], "reg": [0.5, 0.1, 0.05]}

    def set_data(self, X, y):
        self.X, self.y = X, y
        centred = y - y.mean() if self.fit_intercept else y
        self.lmbd = self.reg * np.abs(X.T @ centred).max()

    def get_objective(self):
        return {"X": self.X, "y": self.y, "lmbd": self.lmbd, "fit_intercept": self.fit_intercept}

    def evaluate_result(self, beta):
        w, c = (beta[:-1], beta[-1]) if self.fit_intercept else (beta, 0.0)
        r = self.y - self.X @ w - c
        value = r @ r / 2 + self.lmbd * np.abs(w).sum()
        dual = r / max(1.0, np.abs(self.X.T @ r).max() / self.lmbd)
        return {
            "value": value,
            "support_size": np.count_nonzero(w),
            "duality_gap": value - (self.y @ self.y - (self.y - dual) @ (self.y - dual)) / 2,
        }

    def get_one_result(self):
        return {"beta": np.zeros(self.X.shape[1] + self.fit_intercept)}
