"""What a step did and would do: its hyperparameters, and what becomes of each parameter."""

from anyoptim._diagnosis._diagnose import diagnosed
from anyoptim._diagnosis._hyperparameters import values_at
from anyoptim._diagnosis._table import Diagnosis, ParameterDiagnosis

__all__ = ["Diagnosis", "ParameterDiagnosis", "diagnosed", "values_at"]
