"""One of two JAX processes with two devices each: updates, norms and checkpoints of arrays that both share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import anyoptim as ao
from tests.support import processes, xla
from tests.support.chains import CHAINS, Asking

P = PartitionSpec
MADE: dict[str, Callable[[], ao.Optimizer]] = {
    "clip": lambda: ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(lr=0.1), ao.EMA(0.9)),
    "LAMB": lambda: ao.LAMB(lr=0.1),
    "ask": lambda: ao.chain(Asking(), ao.SGD(lr=0.1)),
    "gates": lambda: ao.chain(ao.Accumulate(2), ao.LossScale(initial=2.0), ao.SkipNonFinite(), ao.Momentum(lr=0.1)),
    "metrics": lambda: ao.chain(ao.Metrics(), ao.SGD(lr=0.1)),
}
SHAPES = {"W": (8, 12), "V": (4, 8), "b": (8,), "s": ()}
SPECS = {"W": P(None, "x"), "V": P("x", "y"), "b": P(("x", "y")), "s": P()}


def put(mesh: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    return {
        k: jax.make_array_from_callback(a.shape, NamedSharding(mesh, SPECS[k]), lambda i, a=a: a[i])
        for k, a in arrays.items()
    }


def compare(mesh: Any, found: dict[str, Any], whole: dict[str, Any]) -> None:
    for k, a in found.items():
        assert a.sharding.is_equivalent_to(NamedSharding(mesh, SPECS[k]), a.ndim), k
        for shard in a.addressable_shards:
            np.testing.assert_allclose(shard.data, whole[k][shard.index], rtol=2e-5, atol=2e-5, err_msg=k)


def check(mesh: Any, name: str, folder: Path) -> None:
    """Each process ends with NumPy's numbers in its parts, and goes on from a checkpoint as it would have."""

    def draw() -> dict[str, Any]:
        return {k: rng.normal(size=shape).astype(np.float32) for k, shape in SHAPES.items()}

    rng = np.random.default_rng(1)
    first, grads = draw(), [draw() for _ in range(4)]
    if name == "gates":
        grads[3]["W"][7, 11] = np.nan  # the last process has it
    whole, alone = processes.alone(MADE[name](), first, grads)

    optimizer, params = MADE[name](), put(mesh, first)
    for g in grads:
        optimizer.update(params, put(mesh, g))
    compare(mesh, params, whole)
    assert optimizer.state is not None
    for slots in optimizer.state.slots if isinstance(optimizer.state.slots, tuple) else (optimizer.state.slots,):
        for of in slots.values():
            assert all(of[k].sharding.is_equivalent_to(params[k].sharding, params[k].ndim) for k in of)
    processes.reports_equal(optimizer, alone)
    if name in {"clip", "gates"}:
        for step in (jax.jit(optimizer.step), *([optimizer.step] if name == "clip" else [])):
            p, state = put(mesh, first), optimizer.init(put(mesh, first))
            for g in grads:
                p, state = step(p, put(mesh, g), state)
            compare(mesh, p, whole)
    path = folder / f"{name}.safetensors"
    ao.save(path, params=params, optimizer=optimizer.state_dict(state) if name == "clip" else optimizer)
    saved = ao.load(path, like=params)
    assert saved.optimizer is not None
    compare(mesh, saved.params, whole)
    other = MADE[name]()
    other.load_state_dict(saved.optimizer, saved.params)
    for g in grads[:2]:
        optimizer.update(params, put(mesh, g))
        other.update(saved.params, put(mesh, g))
    for k, a in params.items():
        for ours, theirs in zip(a.addressable_shards, saved.params[k].addressable_shards, strict=True):
            np.testing.assert_allclose(ours.data, theirs.data, rtol=1e-5 if name == "clip" else 0, err_msg=k)


def check_chain(mesh: Any, name: str) -> None:
    """Each process ends with NumPy's numbers in its parts, whatever the stages."""
    rng = np.random.default_rng(2)
    first, *grads = ({k: rng.normal(size=shape).astype(np.float32) for k, shape in SHAPES.items()} for _ in range(4))
    whole, _ = processes.alone(CHAINS[name](None), first, grads)
    optimizer, params = CHAINS[name](None), put(mesh, first)
    for g in grads:
        optimizer.update(params, put(mesh, g))
    compare(mesh, params, whole)


def main(number: int, port: str, folder: Path) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
    with xla.quickly():
        for kind in (AxisType.Explicit, AxisType.Auto):
            mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(kind, kind))
            for name in MADE if kind is AxisType.Explicit else ("metrics",):
                check(mesh, name, folder)
        for name in CHAINS:
            check_chain(mesh, name)
        x = jax.make_array_from_callback((4,), NamedSharding(mesh, P("x")), lambda i: np.ones(4, np.float32)[i])
        # A file that one can't write is one that both have not written.
        with pytest.raises(OSError, match="no folder" if number == 0 else "not written by the first of the processes"):
            ao.save(folder / "none" / "x.safetensors", params={"x": x})
        # What is no other's is each one's own to save.
        ao.save(folder / f"own{number}.safetensors", params={"x": np.full(2, float(number))})
        assert ao.load(folder / f"own{number}.safetensors").params["x"].tolist() == [number] * 2
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
