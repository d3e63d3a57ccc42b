"""States of JAX arrays: counts and numbers of one dtype, so that a state comes out of `step` as it went in.

`jax.lax.scan` wants this of what it carries, and `jax.jit` traces anew what is of another dtype. Python numbers have
none to JAX. NumPy's have, and are numbers of the host all the same: nothing waits for a device, and none is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anyoptim._arrays import library, named, traced
from anyoptim._arrays._checks import Parameter
from anyoptim._core._state import FlatState, LiveState

__all__ = ["begun", "carried"]


def carried(flat: FlatState, of: Sequence[Parameter | None] | LiveState, before: FlatState | None = None) -> FlatState:
    """The state of some parameters, those of JAX's among them or not.

    If so, counts are int64 and numbers float64, half as wide to JAX without x64; where they are traced they
    have the dtype that they had before.
    """
    names = (
        (sign[0] for sign in of.signature if sign) if isinstance(of, LiveState) else (p.library.name for p in of if p)
    )
    if not any(named(name).states_need_dtypes for name in names):
        return flat
    olds: Sequence[Mapping[str, Any]] = flat.scalars if before is None else before.scalars
    scalars = tuple(
        {name: _number(n, old[name]) for name, n in new.items()} for new, old in zip(flat.scalars, olds, strict=True)
    )
    t, pending = ([None if n is None else _count(n) for n in of] for of in (flat.t, flat.pending))
    return FlatState(_count(flat.step), t, flat.slots, scalars, pending)


def begun(flat: FlatState, ps: Sequence[Parameter | None]) -> FlatState:
    """A first state in such a form: where parameters are bound to devices, its counts and numbers are on all of these.

    There they will be after a step, and `jax.jit` compiles anew for what comes from elsewhere.
    """
    flat = carried(flat, ps)
    places = ((p.library, p.library.replicated_sharding(p.array)) for p in ps if p and not traced(p.array))
    found = next(((of, place) for of, place in places if place is not None), None)
    if found is None:
        return flat
    of, place = found
    step, t, scalars, pending = of.device_put((flat.step, flat.t, flat.scalars, flat.pending), place)
    return FlatState(step, t, flat.slots, scalars, pending)


def _count(n: Any) -> Any:
    return np.int64(n) if isinstance(n, int) else n


def _number(n: Any, old: Any) -> Any:
    if traced(old):
        return library(old).xp.asarray(n, dtype=old.dtype)
    if traced(n):
        return library(n).xp.asarray(n, dtype=library(n).widest_float())
    return np.float64(n) if isinstance(n, int | float) else n
