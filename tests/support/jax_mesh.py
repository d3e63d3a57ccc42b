"""Every method and chain under `jax.jit` on a mesh of eight devices, beside the same on one device, as JSON.

Run as `python -m tests.support.jax_mesh`, since a process has as many devices as it had when JAX was imported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_ENABLE_X64"] = "1"

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import anyoptim as ao
from tests.support.chains import CHAINS
from tests.support.libraries import COMPOSED, METHODS, same_bits
from tests.support.xla import quick

P = PartitionSpec
SHAPES = {"W": (8, 12), "V": (6, 8), "T": (2, 4, 3), "b": (5,)}
PLACES = {"W": P("x", "y"), "V": P(None, ("x", "y")), "T": P("y", "x"), "b": P()}
MADE: dict[str, Callable[[], ao.Optimizer]] = {
    # Of the one that is left out the rule branches on the count of steps, which `jax.jit` does not know.
    **{name: lambda of=of: of(None) for name, of in CHAINS.items() if name != "two slots of one name"},  # type: ignore[misc]
    **METHODS,
    **COMPOSED,
}


def drawn(rng: np.random.Generator) -> dict[str, Any]:
    """Elements of very different sizes, so that norms of parts begin with other digits."""
    return {k: (rng.normal(size=s) * np.exp(3 * rng.normal(size=s))).astype(np.float32) for k, s in SHAPES.items()}


def case(name: str, kind: AxisType) -> dict[str, Any]:
    """Which parameters have other bits than on one device, which arrays lie elsewhere, and which were not donated.

    Numbers, arrays of no axis, may be kept: they take no memory.
    """
    mesh, rng = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind)), np.random.default_rng(1)
    first, grads = drawn(rng), [drawn(rng) for _ in range(3)]

    def put(arrays: dict[str, Any], cut: bool) -> dict[str, Any]:
        one = jax.devices()[0]
        return {k: jax.device_put(a, NamedSharding(mesh, PLACES[k]) if cut else one) for k, a in arrays.items()}

    ended: list[Any] = []
    kept: list[str] = []
    for cut in (True, False):
        optimizer, params = MADE[name](), put(first, cut)
        state = optimizer.init(params)
        jitted = quick(optimizer.step, donate_argnums=(0, 2))
        for g in grads:
            before = jax.tree.leaves_with_path((params, state))
            params, state = jitted(params, put(g, cut), state)
            kept += [jax.tree_util.keystr(path) for path, a in before if cut and a.ndim and not a.is_deleted()]
        ended.append(params)
        if cut:
            parts = state.slots if isinstance(state.slots, tuple) else (state.slots,)
            slots = [(f"{slot} of {k}", k, a) for part in parts for slot, of in part.items() for k, a in of.items()]
    mine, whole = ended
    moved = [
        where
        for where, k, a in [*((k, k, a) for k, a in mine.items()), *slots]
        if a.shape == SHAPES[k] and not a.sharding.is_equivalent_to(NamedSharding(mesh, PLACES[k]), a.ndim)
    ]
    other = [k for k in SHAPES if not same_bits(np.asarray(mine[k]), np.asarray(whole[k]))]
    still = [k for k in SHAPES if same_bits(np.asarray(mine[k]), first[k])]
    return {"name": name, "other bits": other, "lie elsewhere": moved, "not donated": kept, "did not move": still}


if __name__ == "__main__":
    print(json.dumps([case(name, (AxisType.Explicit, AxisType.Auto)[i % 2]) for i, name in enumerate(MADE)]))
