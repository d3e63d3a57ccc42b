"""Random features that are correlated, and what a linear model with noise makes of them."""

from benchopt import BaseDataset
from benchopt.datasets import make_correlated_data


class Dataset(BaseDataset):
    name = "Simulated"
    parameters = {"n_samples, n_features": [(2000, 500)], "rho": [0.9]}

    def get_data(self):
        X, y, _ = make_correlated_data(self.n_samples, self.n_features, rho=self.rho, random_state=0)
        return {"X": X, "y": y}
