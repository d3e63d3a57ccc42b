"""Array libraries: the only place that tells them apart.

`Library` says what anyoptim asks of an array library; a subclass overrides what its library does in its own way.
Nothing is imported here but NumPy: a library, and array-api-compat, is met when one of its arrays arrives.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from anyoptim._arrays._cupy import CuPy
from anyoptim._arrays._dask import Dask
from anyoptim._arrays._jax import JAX
from anyoptim._arrays._library import COMPUTE, Array, Fingerprint, Library, host_memory, name_of
from anyoptim._arrays._numpy import NumPy
from anyoptim._arrays._torch import Torch, is_dtensor, uncompiled

__all__ = [
    "COMPUTE",
    "Array",
    "Fingerprint",
    "Library",
    "host_memory",
    "is_scalar",
    "library",
    "traced",
    "tracing",
    "uncompiled",
]

_KINDS: dict[str, type[Library]] = {"numpy": NumPy, "cupy": CuPy, "torch": Torch, "jax": JAX, "dask": Dask}


@functools.cache
def _named(xp: Any, dtensor: bool) -> Library:
    if dtensor:
        from anyoptim._arrays._dtensor import DTensors  # noqa: PLC0415 - for those who have them

        return DTensors(xp)
    return _KINDS.get(name_of(xp), Library)(xp)


_NUMBERS = int | float | complex | np.generic

_BY_TYPE: dict[type, Library] = {}


def library(x: Any) -> Library:
    """The library of `x`, an array or a Python number. Raises TypeError for anything else."""
    found = _BY_TYPE.get(type(x))
    if found is None:
        # NumPy's own namespace is complete; its wrapper imports all of NumPy, from f2py to the tests' tools.
        if isinstance(x, np.ndarray | _NUMBERS):
            xp: Any = np
        else:
            import array_api_compat  # noqa: PLC0415 - for those who have other arrays

            xp = array_api_compat.array_namespace(x)
        found = _BY_TYPE[type(x)] = _named(xp, is_dtensor(x))
    return found


def traced(x: Any) -> bool:
    """Whether `x` is an array whose values are not known yet."""
    try:
        return library(x).traced(x)
    except TypeError:
        return False


def tracing(name: str) -> bool:
    """Whether the library of this name has arrays that may stand for values that are not known yet."""
    return _KINDS.get(name, Library).tracing


def is_scalar(x: Any) -> bool:
    """Whether `x` is a number of the host that belongs to no library: a Python number or a NumPy scalar."""
    return isinstance(x, _NUMBERS)
