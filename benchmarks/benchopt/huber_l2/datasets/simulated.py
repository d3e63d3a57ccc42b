"""Random features that are correlated, and what a linear model with noise makes of them, a tenth of it far off."""

import numpy as np
from benchopt import BaseDataset
from benchopt.datasets import make_correlated_data


class Dataset(BaseDataset):
    name = "Simulated"
    parameters = {"n_samples, n_features": [(2000, 200)], "rho": [0.6]}

    def get_data(self):
        X, y, _ = make_correlated_data(self.n_samples, self.n_features, rho=self.rho, random_state=0)
        wild = np.random.default_rng(0).random(len(y)) < 0.1
        return {"X": X, "y": np.where(wild, -10 * y, y)}
