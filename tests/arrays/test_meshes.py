"""JAX arrays that lie on several devices: meshes of both kinds of axes, and two processes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support import processes
from tests.support.libraries import COMPOSED, METHODS, Library
from tests.support.xla import quick

pytestmark = pytest.mark.usefixtures("quickly")

MADE: dict[str, Callable[[], ao.Optimizer]] = {
    "Adam": lambda: ao.Adam(lr=0.1),
    "clip, Adam, EMA": lambda: ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(lr=0.1), ao.EMA(0.9)),
    "LAMB": lambda: ao.LAMB(lr=0.1),
    "gates": lambda: ao.chain(ao.Accumulate(2), ao.SkipNonFinite(), ao.Momentum(lr=0.1)),
    "metrics": lambda: ao.chain(ao.Metrics(), ao.SGD(lr=0.1)),
    "Adafactor": lambda: ao.Adafactor(lr=0.1),
    "Prodigy": ao.Prodigy,
    "Muon": lambda: ao.Muon(lr=0.1),
    "Shampoo": lambda: ao.Shampoo(lr=0.1),
}
MATRICES = {"Adafactor", "Muon", "Shampoo"}
SHAPES: dict[str, tuple[int, ...]] = {"rows": (8, 6), "columns": (3, 4, 8), "whole": (5, 3)}
KINDS = ["Explicit", "Auto"]


def _placed(kind: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function that puts arrays on a mesh of such axes: cut along the first axis, along the last one, and whole."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((2,), ("d",), axis_types=(getattr(AxisType, kind),))

    def place(k: str, a: Any) -> Any:
        axes = {"rows": ("d",), "columns": (*[None] * (a.ndim - 1), "d"), "whole": ()}[k]
        return jax.device_put(a.copy(), NamedSharding(mesh, PartitionSpec(*axes)))

    return lambda arrays: {k: place(k, a) for k, a in arrays.items()}


# Muon and Shampoo one operation after the other are dozens of programs, for which two cores may lack threads.
@pytest.mark.omit("too many programs", lambda name, form, **_: name in {"Muon", "Shampoo"} and form != "jit")
@pytest.mark.omit("the operations of update", lambda name, form, **_: name != "Adam" and form == "step")
@pytest.mark.omit("are seen by update", lambda name, form, **_: name == "metrics" and form != "update")
@pytest.mark.covering(1)  # kinds of axes and forms meet in Adam's cases, which all run among the products
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["jit", "update", "step"])
@pytest.mark.parametrize("name", MADE)
def test_steps_on_a_mesh(name: str, kind: str, form: str, need: Callable[[str], Library]) -> None:
    """Norms are those of all shards, to round-off; parameters and slots keep their sharding."""
    need("jax")

    rng, put = np.random.default_rng(2), _placed(kind)
    ours, theirs = MADE[name](), MADE[name]()

    def draw() -> dict[str, Any]:
        return {k: rng.normal(size=shape).astype(np.float32) for k, shape in SHAPES.items()}

    params = draw()
    if name in MATRICES:
        params["columns"] = params["columns"][0]
    p = put(params)
    step, state = (quick(ours.step) if form == "jit" else ours.step), ours.init(p)
    for i in range(4):
        g = {k: a.reshape(-1)[: params[k].size].reshape(params[k].shape) for k, a in draw().items()}
        if i == 2 and name == "gates":
            g["columns"][0, 0, 7] = np.nan
        theirs.update(params, g)
        if form == "update":
            ours.update(p, put(g))
            assert ours.state is not None
            state = ours.state
        else:
            p, state = step(p, put(g), state)
    where = put(params)
    for k, a in params.items():
        np.testing.assert_allclose(p[k], a, rtol=2e-5, atol=2e-5)
        assert p[k].sharding.is_equivalent_to(where[k].sharding, a.ndim), k
    for slots in state.slots if isinstance(state.slots, tuple) else (state.slots,):
        for of in slots.values():
            for k, s in of.items():
                assert s.shape != p[k].shape or s.sharding.is_equivalent_to(where[k].sharding, s.ndim), k
    if form == "update":
        for k, metric in theirs.last_metrics.get("gradient", {}).items():
            np.testing.assert_allclose(ours.last_metrics["gradient"][k], metric, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_beside_parameters_on_a_mesh(kind: str, need: Callable[[str], Library]) -> None:
    """Cut as their parameters are, or whole on one device; NumPy's values, and parameters stay cut."""
    lib = need("jax")
    rng, put = np.random.default_rng(2), _placed(kind)
    first, rates, g = ({k: rng.random(s).astype(np.float32) for k, s in SHAPES.items()} for _ in range(3))
    masks = {k: a > 0.3 for k, a in rates.items()}

    def steps(params: Any, rates: Any, masks: Any, g: Any) -> Any:
        optimizer = ao.chain(ao.ClipGlobalNorm(0.5), ao.Momentum(lr=rates), ao.Support(masks))
        for _ in range(3):
            optimizer.update(params, g)
        return params

    expected = steps({k: a.copy() for k, a in first.items()}, rates, masks, g)
    for there in (put, lambda arrays: {k: lib.asarray(a) for k, a in arrays.items()}):
        placed = put(first)
        found = steps(put(first), there(rates), there(masks), put(g))
        assert all(found[k].sharding == placed[k].sharding for k in found)
        for k, a in lib.values(found).items():
            np.testing.assert_allclose(a, expected[k], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_norm_of_many(kind: str, need: Callable[[str], Library]) -> None:
    """The norm is as near to the right one as a pairwise float32 sum of so many elements can be."""
    need("jax")
    import jax

    put = _placed(kind)
    x = {"rows": np.full((1 << 20, 2), 0.1, np.float32)}
    wanted = math.sqrt(x["rows"].size) * float(np.float32(0.1))
    optimizer = ao.chain(ao.Metrics(), ao.SGD())
    optimizer.update(put(x), put(x))
    assert optimizer.last_metrics["gradient"]["rows"].norm == pytest.approx(wanted, rel=1e-6)
    clipped = ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(lr=1.0))
    p = put({"rows": x["rows"] * 0})
    moved, _ = jax.jit(clipped.step)(p, put(x), clipped.init(p))
    np.testing.assert_allclose(moved["rows"], -0.1 / wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_on_a_mesh(kind: str, need: Callable[[str], Library]) -> None:
    """A mask has the same elements however the input is sharded, and its sharding."""
    need("jax")
    import jax

    rng, put = np.random.default_rng(2), _placed(kind)
    arrays = {k: rng.normal(size=shape).astype(np.float32) for k, shape in SHAPES.items()}
    for k, x in put({k: arrays[k] for k in ("rows", "columns")}).items():
        layer, twin = ao.Dropout(0.5, seed=1), ao.Dropout(0.5, seed=1)
        for found, wanted in (
            (layer.forward(x, True), twin.forward(arrays[k], True)),
            (layer.backward(x), twin.backward(arrays[k])),
            (layer.forward(x, False), twin.forward(arrays[k], False)),
            (jax.jit(lambda x: ao.dropout(x, 0.5, 1))(x), ao.dropout(arrays[k], 0.5, 1)),
        ):
            assert np.asarray(found).tolist() == wanted.tolist()
            assert found.sharding.is_equivalent_to(x.sharding, x.ndim)


CONTRACTED = {"HeavyBallNesterov"}
"""Of two products that are added XLA rounds one and not the other: which one depends on the shape of a part."""


@pytest.mark.product  # a process with eight devices, in which all methods are compiled
def test_every_method_on_eight_devices(need: Callable[[str], Library]) -> None:
    """Under `jax.jit` with x64 the bits of one device; slots lie where their parameters do, and all are donated."""
    need("jax")
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-m", "tests.support.jax_mesh"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    cases = {case.pop("name"): case for case in json.loads(done.stdout)}
    assert {*METHODS, *COMPOSED} <= {*cases}
    for name, case in cases.items():
        assert not case["did not move"], name
        assert case["lie elsewhere"] == case["not donated"] == [], (name, case)
        assert name in CONTRACTED or not case["other bits"], (name, case)


@pytest.mark.product  # two processes, each of which starts JAX or torch and compiles
def test_two_processes(tmp_path: Path, need: Callable[[str], Library]) -> None:
    """Two processes with parts of the same arrays run every chain, gates and metrics; the first writes checkpoints."""
    need("jax")
    processes.run("jax_processes", tmp_path)
