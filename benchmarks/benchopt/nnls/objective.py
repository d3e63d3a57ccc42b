"""Half of |y - X@beta|**2 with beta >= 0, and infinite elsewhere, as benchopt's benchmark_nnls has it."""

import numpy as np
from benchopt import BaseObjective


class Objective(BaseObjective):
    name = "Non Negative Least Squares"
    parameters = {"fit_intercept": [False]}

    def set_data(self, X, y):
        self.X, self.y = X, y

    def get_objective(self):
        return {"X": self.X, "y": self.y, "fit_intercept": self.fit_intercept}

    def evaluate_result(self, beta):
        r = self.X @ beta - self.y
        return {"value": r @ r / 2 if np.all(beta >= 0) else np.inf}

    def get_one_result(self):
        return {"beta": np.zeros(self.X.shape[1])}
