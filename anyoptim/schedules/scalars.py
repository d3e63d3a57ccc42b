"""Functions of numbers that may have no value yet, for coefficients, scalars and schedules.

In a step under `jax.jit` the count t, what a schedule makes of it and norms are traced, and in a recorded CUDA graph
only the device knows them: Python's `if`, `min` and `float`, the functions of `math` and those of NumPy then have
nothing to look at. These functions take a number, a traced array of no dimensions or what a device knows; of Python's
numbers they make Python's, in float64.
"""

from anyoptim._trace._scalars import (
    cos,
    exp,
    expm1,
    log,
    maximum,
    minimum,
    one_minus_power,
    power,
    remainder,
    sqrt,
    where,
)

__all__ = [
    "cos",
    "exp",
    "expm1",
    "log",
    "maximum",
    "minimum",
    "one_minus_power",
    "power",
    "remainder",
    "sqrt",
    "where",
]
