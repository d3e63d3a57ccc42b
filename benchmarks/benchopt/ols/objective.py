"""Half of |y - X@beta|**2, as benchopt's benchmark_ols has it."""

import numpy as np
from benchopt import BaseObjective


class Objective(BaseObjective):
    name = "Ordinary Least Squares"
    parameters = {"fit_intercept": [False]}

    def set_data(self, X, y):
        self.X, self.y = X, y

    def get_objective(self):
        return {"X": self.X, "y": self.y, "fit_intercept": self.fit_intercept}

    def evaluate_result(self, beta):
        r = self.X @ beta - self.y
        return {"value": r @ r / 2}

    def get_one_result(self):
        return {"beta": np.zeros(self.X.shape[1])}
