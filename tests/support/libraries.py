"""The table of array libraries that tests run over, and the methods, discovered."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import anyoptim as ao
from anyoptim import _engines
from anyoptim.testing._libraries import (
    COMPLEX,
    HALF,
    REAL,
    ArrayLibrary,
    MissingError,
    dtypes,
    installed,
    load_library,
    numpy_dtype,
    required,
)
from anyoptim.testing._libraries import LOADERS as PUBLIC

__all__ = ["COMPLEX", "HALF", "REAL", "MissingError", "dtypes", "numpy_dtype"]


@dataclass(frozen=True)
class Library(ArrayLibrary):
    """One row: a library that anybody's tests may run over, and what these tests know of it."""

    exact: bool = True
    """Whether its arithmetic is NumPy's to the last bit."""
    reached: tuple[str, ...] = ()
    """The dtypes whose arrays NumPy reads and writes where they lie, so that an update has NumPy's bits anyway."""

    def steps(self, n: int) -> int:
        """The number of steps to take where n would be good, and a first and a later one will do."""
        return min(n, 2) if self.slow else n


FACTS: dict[str, dict[str, Any]] = {
    # Its float32 sqrt comes from a vector mathematics library that is 1 ulp off for about a fifth of inputs.
    "torch": {"exact": False, "reached": ("float16", *REAL, *COMPLEX)},
    "torch-cuda": {"exact": False},
    # XLA flushes subnormals to zero on the CPU.
    "jax": {"exact": False},
    "jax-x64": {"exact": False},
    # CuPy compiles its elementwise kernels to flush float32 subnormals.
    "cupy": {"exact": False},
}
"""What these tests know of the public rows."""


def _shim() -> Library:
    from tests.support import shim

    if shim.missing():
        raise MissingError(f"kernels can't be run on the host: {shim.missing()}")
    shim.install(shim.Machine())
    return Library("cuda-shim", shim.asarray, shim.tonumpy)


LOADERS: dict[str, Callable[[], ArrayLibrary]] = {**PUBLIC, "cuda-shim": _shim}

OWN = {"jax-x64": ("float64", "complex128")}
"""The dtypes that a row has beyond the row it extends: its other cases run only where all products do."""


@functools.cache
def absent(name: str) -> bool:
    """Whether a library needs a device, or its package is not installed: found out without importing it."""
    if name == "cuda-shim":
        return shutil.which("g++") is None
    return name in {"cupy", "torch-cuda"} or not installed(name)


REQUIRABLE = {*LOADERS, "cupy-host", "docs", "mpi"}
"""The rows; CuPy without a device, for tests that need none; what the site is built with; mpi4py with an MPI."""

REQUIRED = required()


def load(name: str) -> Library:
    """The row, or MissingError with the reason."""
    row = load_library(name) if name in PUBLIC else LOADERS[name]()
    return row if isinstance(row, Library) else Library(**vars(row), **FACTS.get(name, {}))


ENGINES: tuple[Any, ...] = tuple(name for name in _engines.ENGINES if name not in {"cuda", "jax"})
"""The engines for NumPy's arrays; those for other libraries are tested with these."""

DISCOVERED: dict[str, type[ao.Optimizer]] = {
    name: value
    for name, value in vars(ao).items()
    if isinstance(value, type)
    and issubclass(value, ao.Optimizer)
    and value not in {ao.Optimizer, ao.chain, ao.partition}
}

WHOLE = {name: method for name, method in DISCOVERED.items() if method.array_rule}
"""The methods of whole arrays, whose table is in tests/optimizers/test_whole.py."""

COMPOSED = {
    name: method
    for name, method in DISCOVERED.items()
    if method.stages is not ao.Optimizer.stages or method.reductions or method.scalars
}
"""The methods that have reductions or keep scalars, which tests/support/chains.py has among the chains."""

METHODS: dict[str, type[Any]] = {name: method for name, method in DISCOVERED.items() if name not in {*WHOLE, *COMPOSED}}
"""The methods whose elements do not depend on each other."""


def allowed(stage: Any, name: str, value: float) -> float:
    """The value, or 1 more where that is too small for this hyperparameter of a stage or its class."""
    return value if stage.hyperparameters[name].holds(value) else 1 + value


PAIRS = [("numpy", name) for name in METHODS] + [
    (lib, name) for lib in LOADERS if lib != "numpy" for name in ("SGD", "Adam")
]
"""Pairs of `lib` and `method`, for tests of what all methods do alike: each with NumPy, and two with each library."""


def same_bits(a: Any, b: Any) -> bool:
    """Whether two NumPy arrays are equal to the last bit: signed zeros told apart, NaN equal to NaN."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    with np.errstate(invalid="ignore"):  # a signalling NaN
        nan, other = a != a, b != b
    return bool(np.array_equal(nan, other) and a[~nan].tobytes() == b[~nan].tobytes())
