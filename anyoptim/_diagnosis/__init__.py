"""What a step would do to each parameter, and what its arithmetic would lose."""

from anyoptim._diagnosis._diagnose import diagnosed
from anyoptim._diagnosis._table import Diagnosis, ParameterDiagnosis

__all__ = ["Diagnosis", "ParameterDiagnosis", "diagnosed"]
