"""Array libraries: the only place that tells them apart.

`Library` says what anyoptim asks of an array library; a subclass overrides what its library does in its own way.
Nothing is imported here but NumPy: a library, and array-api-compat, is met when one of its arrays arrives.
"""

from __future__ import annotations

import functools
from typing import Any

from anyoptim._arrays._cupy import CuPy
from anyoptim._arrays._dask import Dask
from anyoptim._arrays._dtensor import DTensors
from anyoptim._arrays._jax import JAX
from anyoptim._arrays._library import COMPUTE, Array, Fingerprint, Library, host_address, host_memory, slot_dtype
from anyoptim._arrays._mlx import MLX
from anyoptim._arrays._numpy import NumPy, is_scalar
from anyoptim._arrays._torch import Torch, uncompiled

__all__ = [
    "COMPUTE",
    "Array",
    "Fingerprint",
    "Library",
    "host_address",
    "host_memory",
    "is_scalar",
    "library",
    "named",
    "register",
    "slot_dtype",
    "traced",
    "uncompiled",
]

_LIBRARIES = [NumPy, DTensors, Torch, CuPy, JAX, Dask, MLX, Library]
"""In the order in which they are asked whether an array is theirs; the last one takes what the standard describes."""

_BY_TYPE: dict[type, Library] = {}
"""The library of each type of array that was met."""


def register(kind: type[Library]) -> None:
    """Add a library to the table, to be asked before the others."""
    if kind not in _LIBRARIES:
        _LIBRARIES.insert(0, kind)
        _BY_TYPE.clear()


def library(x: Any) -> Library:
    """The library of `x`, an array or a Python number. Raises TypeError for anything else."""
    known = _BY_TYPE.get(type(x))
    if known is None:
        kind, xp = next((kind, xp) for kind in _LIBRARIES if (xp := kind.namespace(x)) is not None)
        known = _BY_TYPE[type(x)] = _instance(kind, xp)
    return known


@functools.cache
def _instance(kind: type[Library], xp: Any) -> Library:
    return kind(xp)


def named(name: str) -> type[Library]:
    """The library of this name; for one that is not known by name, what the Array API standard says of all."""
    return next((kind for kind in _LIBRARIES if kind.name == name), Library)


def traced(x: Any) -> bool:
    """Whether `x` is an array whose values are not known yet."""
    try:
        return library(x).traced(x)
    except TypeError:
        return False
