"""Logistic regression of scikit-learn, by SciPy's L-BFGS-B."""

import warnings

import numpy as np
from benchopt import BaseSolver
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression


class Solver(BaseSolver):
    name = "scikit-learn"
    requirements = ["scikit-learn"]
    sampling_strategy = "iteration"

    def set_objective(self, X, y, lmbd, fit_intercept):
        self.X, self.y, self.lmbd, self.fit_intercept = X, y, lmbd, fit_intercept
        warnings.filterwarnings("ignore", category=ConvergenceWarning)  # iterations end where benchopt says

    def run(self, n_iter):
        self.beta = np.zeros(self.X.shape[1] + self.fit_intercept)
        if n_iter:
            model = LogisticRegression(C=1 / self.lmbd, fit_intercept=self.fit_intercept, tol=1e-15, max_iter=n_iter)
            model.fit(self.X, self.y)
            self.beta = np.append(model.coef_, model.intercept_) if self.fit_intercept else model.coef_.ravel()

    def get_result(self):
        return {"beta": self.beta}
