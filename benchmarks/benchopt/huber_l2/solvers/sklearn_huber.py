"""Huber's regression of scikit-learn, by SciPy's L-BFGS-B."""

import warnings

import numpy as np
from benchopt import BaseSolver
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import HuberRegressor


class Solver(BaseSolver):
    name = "scikit-learn"
    requirements = ["scikit-learn"]
    sampling_strategy = "iteration"

    def set_objective(self, X, y, epsilon, lmbd):
        self.X, self.y, self.epsilon, self.lmbd = X, y, epsilon, lmbd
        warnings.filterwarnings("ignore", category=ConvergenceWarning)  # iterations end where benchopt says

    def run(self, n_iter):
        self.params = np.append([0.0, 1.0], np.zeros(self.X.shape[1]))
        if n_iter:
            model = HuberRegressor(epsilon=self.epsilon, alpha=self.lmbd, max_iter=n_iter, tol=1e-15)
            model.fit(self.X, self.y)
            self.params = np.concatenate([[model.intercept_, model.scale_], model.coef_])

    def get_result(self):
        return {"params": self.params}
