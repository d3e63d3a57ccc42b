"""A network on a mesh of devices
==================================

Train a network of two layers on eight devices, of which each has an eighth of every batch and of the weights.

::

    python examples/mesh_of_devices.py
    python examples/mesh_of_devices.py --devices 1

JAX divides the work; the optimizer has nothing to be told. What it remembers of a weight lies in the same pieces as the
weight, so that eight devices together have one copy of it. The norm at which gradients are clipped is that of all
pieces. Parameters and state are donated: a step needs no memory for a second copy. On a machine without accelerators,
or with `JAX_PLATFORMS=cpu`, the devices are parts of the CPU. Needs `pip install jax`.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

import anyoptim as ao

Array = Any


def first_params(rng: np.random.Generator, sizes: Sequence[int]) -> dict[str, Array]:
    """Weights of the size that keeps what flows through of one size."""
    return {
        f"W{i}": rng.normal(size=(n, m), scale=n**-0.5).astype(np.float32)
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    }


def main(arguments: Sequence[str] | None = None) -> float:
    """Print where the weights and what is remembered of them lie; return the last loss."""
    parser = argparse.ArgumentParser(description="Train a network on a mesh of devices.")
    parser.add_argument(
        "--devices", type=int, default=8, choices=(1, 2, 4, 8, 16), help="among which 16 rows are divided"
    )
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(arguments)

    # JAX reads it when it is imported.
    os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count={options.devices}")
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    if len(jax.devices()) < options.devices:
        parser.error(
            f"there are {len(jax.devices())} devices; wanted {options.devices}, or JAX_PLATFORMS=cpu and no XLA_FLAGS"
        )
    mesh = jax.sharding.Mesh(np.array(jax.devices()[: options.devices]), ("d",))

    def divided(a: Array, *axes: str | None) -> Array:
        return jax.device_put(a, NamedSharding(mesh, PartitionSpec(*axes)))

    def loss(params: Any, x: Array, t: Array) -> Array:
        return jnp.mean((jnp.tanh(x @ params["W0"]) @ params["W1"] - t) ** 2)

    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.AdamW(lr=ao.schedules.Cosine(0.01, steps=options.steps)))

    def train(params: Any, state: Any, x: Array, t: Array) -> Any:
        value, grads = jax.value_and_grad(loss)(params, x, t)
        return *optimizer.step(params, grads, state), value

    train_jitted = jax.jit(train, donate_argnums=(0, 1))
    rng = np.random.default_rng(0)
    params = {k: divided(a, "d", None) for k, a in first_params(rng, (16, 64, 8)).items()}
    state, teacher = optimizer.init(params), first_params(rng, (16, 64, 8))
    for _ in range(options.steps):
        x = rng.normal(size=(64, 16)).astype(np.float32)
        t = np.tanh(x @ teacher["W0"]) @ teacher["W1"]
        params, state, value = train_jitted(params, state, divided(x, "d", None), divided(t, "d", None))

    pieces = {a.addressable_shards[0].data.shape for a in (params["W0"], state.slots[1]["m"]["W0"])}
    print(f"W0 and its slots lie in {options.devices} pieces, each of {', '.join(map(str, pieces))}: loss {value:.4f}")
    return float(value)


if __name__ == "__main__":
    main()
