"""Random features that are correlated, and what sides of a plane with noise they are on."""

import numpy as np
from benchopt import BaseDataset
from benchopt.datasets import make_correlated_data


class Dataset(BaseDataset):
    name = "Simulated"
    parameters = {"n_samples, n_features": [(2000, 500)], "rho": [0.6]}

    def get_data(self):
        X, y, _ = make_correlated_data(self.n_samples, self.n_features, rho=self.rho, random_state=0)
        return {"X": X, "y": np.where(y > 0, 1.0, -1.0)}
