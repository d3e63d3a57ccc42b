"""Huber's loss with a scale that is fitted, too, and lmbd * |coef|**2, as benchopt's benchmark_huber_l2 has it."""

import numpy as np
from benchopt import BaseObjective


class Objective(BaseObjective):
    name = "Huber Regression with L2 regularization"
    parameters = {"epsilon": [1.35], "lmbd": [1.0]}

    def set_data(self, X, y):
        self.X, self.y = X, y

    def get_objective(self):
        return {"X": self.X, "y": self.y, "epsilon": self.epsilon, "lmbd": self.lmbd}

    def evaluate_result(self, params):
        intercept, scale, coef = params[0], params[1], params[2:]
        z = np.abs(self.y - self.X @ coef - intercept) / scale
        losses = np.where(z > self.epsilon, 2 * self.epsilon * z - self.epsilon**2, z**2)
        return {"value": (scale + losses * scale).sum() + self.lmbd * (coef @ coef)}

    def get_one_result(self):
        return {"params": np.append([0.0, 1.0], np.zeros(self.X.shape[1]))}
