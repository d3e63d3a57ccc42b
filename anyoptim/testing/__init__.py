"""Tools for tests: of gradients and adjoints written by hand, and of code that takes arrays of any library."""

from anyoptim.testing._check_adjoint import AdjointCheck, AdjointReport, check_adjoint
from anyoptim.testing._check_grad import assert_grad, check_grad
from anyoptim.testing._libraries import LIBRARIES, ArrayLibrary, MissingError, load_library, need_library
from anyoptim.testing._report import ElementCheck, GradReport, ParameterCheck

__all__ = [
    "LIBRARIES",
    "AdjointCheck",
    "AdjointReport",
    "ArrayLibrary",
    "ElementCheck",
    "GradReport",
    "MissingError",
    "ParameterCheck",
    "assert_grad",
    "check_adjoint",
    "check_grad",
    "load_library",
    "need_library",
]
