"""States of JAX arrays: counts and scalars of one dtype, so that a state comes out of `step` as it went in.

`jax.lax.scan` wants this of what it carries, and `jax.jit` traces anew what is of another dtype. JAX gives Python's
numbers no lasting dtype. NumPy's scalars have one, and are on the host all the same: nothing waits for a device, and
nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from anyoptim._arrays import library, named, traced
from anyoptim._arrays._checks import Parameter
from anyoptim._stage._state import FlatState

__all__ = ["carried", "carried_first"]


def carried(flat: FlatState, libraries: Iterable[str], before: FlatState | None = None) -> FlatState:
    """The state in the form that JAX can carry, if any parameter is of JAX; otherwise as it is.

    Counts are then int64 and scalars float64, half as wide without x64; where they are traced, they have the dtype
    that they had before. `libraries` are the names of the libraries of the parameters.
    """
    if not any(named(name).states_need_dtypes for name in {*libraries}):
        return flat
    olds: Sequence[Mapping[str, Any]] = flat.scalars if before is None else before.scalars
    scalars = tuple(
        {name: _scalar(n, old[name]) for name, n in new.items()} for new, old in zip(flat.scalars, olds, strict=True)
    )
    t, pending = ([None if n is None else _count(n) for n in counts] for counts in (flat.t, flat.pending))
    return FlatState(_count(flat.step), t, flat.slots, scalars, pending)


def carried_first(flat: FlatState, ps: Sequence[Parameter | None]) -> FlatState:
    """A first state in that form; where parameters are bound to devices, its counts and scalars lie on all of these.

    They will lie there after a step, and `jax.jit` compiles anew for what comes from elsewhere.
    """
    flat = carried(flat, [p.library.name for p in ps if p])
    places = ((p.library, p.library.replicated_sharding(p.array)) for p in ps if p and not traced(p.array))
    bound = next(((lib, place) for lib, place in places if place is not None), None)
    if bound is None:
        return flat
    lib, place = bound
    step, t, scalars, pending = lib.device_put((flat.step, flat.t, flat.scalars, flat.pending), place)
    return FlatState(step, t, flat.slots, scalars, pending)


def _count(n: Any) -> Any:
    return np.int64(n) if isinstance(n, int) else n


def _scalar(n: Any, old: Any) -> Any:
    if traced(old):
        return library(old).xp.asarray(n, dtype=old.dtype)
    if traced(n):
        return library(n).xp.asarray(n, dtype=library(n).widest_float())
    return np.float64(n) if isinstance(n, int | float) else n
