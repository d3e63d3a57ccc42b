"""What XLA compiles of a clipped step on eight devices, as JSON: collectives, temporaries, and whether norms are right.

Run as `python -m tests.support.jax_collectives both`, for one cut or several of them, since a process has as many
devices as it had when JAX was imported.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import anyoptim as ao
from anyoptim._engines.jax import _plan as plan

P = PartitionSpec
CUTS = {"rows": P(("x", "y")), "columns": P(None, ("x", "y")), "both": P("x", "y"), "whole": P()}
"""How the axes of the mesh cut a matrix, beside which there always are one cut into rows and a whole vector."""

SHAPES = {"W": (128, 256), "V": (64, 32), "b": (24,)}

# How fast the machine code is says nothing here.
OPTIONS = {"xla_backend_optimization_level": 0}
COLLECTIVE = re.compile(
    r" = (.*?) ((?:ragged-)?all-(?:reduce|gather|to-all)|reduce-scatter|collective-\w+)(?:-start)?\("
)
BUFFER = re.compile(r"[a-z]+(\d*)\[([\d,]*)\]")


def found(compiled: Any) -> dict[str, Any]:
    """The collectives of a compiled function, each with its bytes, and the bytes of what it stores in between."""
    collectives = [(name, _bytes(kind)) for kind, name in COLLECTIVE.findall(compiled.as_text())]
    return {"collectives": collectives, "temporaries": compiled.memory_analysis().temp_size_in_bytes}


def _bytes(kind: str) -> int:
    sizes = ((int(bits or 8) // 8, shape) for bits, shape in BUFFER.findall(kind))
    return sum(size * math.prod(int(n) for n in shape.split(",") if n) for size, shape in sizes)


def optax_clip(g: Any) -> dict[str, Any]:
    """What optax's clip takes, which neither a step around it nor 64 bits make more."""
    clip = optax.clip_by_global_norm(1.0)
    return found(jax.jit(lambda g: clip.update(g, clip.init(g))[0]).lower(g).compile(OPTIONS))


def ours(form: str, p: Any, g: Any) -> tuple[dict[str, Any], Any]:
    """The same of this library, for a step, or for what `update` measures; and the parameters after the step."""
    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(1.0))
    if form == "jit":
        state = optimizer.init(p)
        compiled = jax.jit(optimizer.step).lower(p, g, state).compile(OPTIONS)
        return found(compiled), compiled(p, g, state)[0]
    seen: list[dict[str, Any]] = []
    measured: Any = plan._reduced

    def spied(*key: Any) -> Any:
        def call(*arguments: Any) -> Any:
            compiled = measured(*key).lower(*arguments).compile(OPTIONS)
            seen.append(found(compiled))
            return compiled(*arguments)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_reduced", spied)
        moved = optimizer.update(dict(p), g)
    (only,) = seen
    return only, moved


def arrays() -> tuple[dict[str, Any], dict[str, Any]]:
    """Gradients with exponents from -30 to 30, and what NumPy makes of them."""
    rng = np.random.default_rng(0)
    grads = {
        k: np.ldexp(rng.uniform(-1, 1, shape), rng.integers(-30, 30, shape)).astype("f") for k, shape in SHAPES.items()
    }
    params = {k: np.zeros_like(g) for k, g in grads.items()}
    ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(1.0)).update(params, grads)
    return grads, params


def cases(cuts: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Each kind of axes, with these cuts, in both forms; without x64, where the code is nearly the same, with one."""
    grads, wanted = arrays()
    theirs: dict[Any, Any] = {}
    for x64 in (True, False):
        for kind in (AxisType.Explicit, AxisType.Auto):
            mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))
            for cut in cuts if x64 else {"both"}.intersection(cuts):
                places = {"W": CUTS[cut], "V": CUTS["rows"], "b": CUTS["whole"]}
                g = {k: jax.device_put(a, NamedSharding(mesh, places[k])) for k, a in grads.items()}
                p = jax.tree.map(jax.numpy.zeros_like, g)
                if cut not in theirs:
                    theirs[cut] = optax_clip(g)
                for form in ("jit", "update"):
                    with jax.enable_x64(x64):
                        one, moved = ours(form, p, g)
                    error = max(float(np.max(np.abs(moved[k] / a - 1))) for k, a in wanted.items())
                    of = {"x64": x64, "kind": kind.name, "cut": cut, "form": form, "error": error}
                    yield {**of, "ours": one, "optax": theirs[cut]}


if __name__ == "__main__":
    print(json.dumps(list(cases(sys.argv[1:]))))
