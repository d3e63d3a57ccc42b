"""Norms on the device that is none: coefficients that arithmetic makes of them stay there, others are waited for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support import shim
from tests.support.libraries import Library, same_bits

PLAIN: dict[str, Callable[[float], Any]] = {
    "min": lambda norm: {"scale": min(1.0, 0.5 / norm)},
    "a branch": lambda norm: {"scale": 0.5 / norm if norm > 0.5 else 1.0},
    "a function of math": lambda norm: {"scale": 1 / math.sqrt(norm)},
    "a power": lambda norm: {"scale": norm**-0.25},
    "arithmetic": lambda norm: {"scale": 0.5 / (norm + 0.125)},
}
STAYS = {"arithmetic"}


def _chain(coefficients: Callable[[float], Any], engine: ao.EngineName | None) -> ao.chain:
    class Shortened(ao.Stage):
        reductions = {"norm": ao.Norm(lambda xp, p, x: x)}

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
            return c.scale * x

    Shortened.coefficients = staticmethod(lambda t, hyper: coefficients(hyper.norm))
    return ao.chain(Shortened(), ao.Momentum(lr=0.1), engine=engine)


@pytest.fixture(autouse=True)
def compiler(need: Callable[[str], Library]) -> None:
    need("cuda-shim")


@pytest.mark.parametrize("name", PLAIN)
def test_any_coefficients(name: str) -> None:
    """NumPy's bits; and the device is waited for only where Python has to see the norm."""
    machine = shim.install(shim.Machine())
    rng = np.random.default_rng(0)
    here = {"W": rng.normal(size=(30, 50)), "b": rng.normal(size=3)}
    there = {k: shim.asarray(a) for k, a in here.items()}
    ours, theirs = (_chain(PLAIN[name], engine) for engine in ("cuda", "portable"))
    for _ in range(5):
        g = {k: rng.normal(size=a.shape) for k, a in here.items()}
        ours.update(there, {k: shim.asarray(a) for k, a in g.items()})
        theirs.update(here, g)
    assert machine.counts["wait"] == (0 if name in STAYS else 5)
    assert all(same_bits(shim.tonumpy(there[k]), here[k]) for k in here)


def test_a_truth_is_a_static_option_there_too() -> None:
    shim.install(shim.Machine())

    class Rests(ao.Stage):
        reductions = {"norm": ao.Norm(lambda xp, p, x: x)}
        coefficients = staticmethod(lambda t, hyper: {"large": hyper.norm > 1.0})

        @staticmethod
        def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
            return 0.5 * x if c.large else x

    there = shim.asarray(np.zeros(4))
    optimizer = ao.chain(Rests(), ao.SGD(lr=1.0))
    optimizer.update(there, shim.asarray(np.full(4, 2.0)))
    optimizer.update(there, shim.asarray(np.full(4, 0.25)))
    assert shim.tonumpy(there).tolist() == [-1.25] * 4


@pytest.mark.parametrize("max_norm", [0.5, math.inf])
@pytest.mark.parametrize("g", [0.0, 0.25, 4.0, math.inf, math.nan])
def test_clipping_at_every_norm(g: float, max_norm: float) -> None:
    """What the docstring says of 0, of infinity and of NaN, on the host and there."""
    shim.install(shim.Machine())
    p = [np.ones(2), shim.asarray(np.ones(2))]
    for a in p:
        x = np.array([g, 0.0])
        ao.chain(ao.ClipGlobalNorm(max_norm), ao.SGD(lr=1.0)).update(a, x if type(a) is np.ndarray else shim.asarray(x))
    assert same_bits(shim.tonumpy(p[1]), p[0])
    if math.isinf(max_norm) or g in {0.0, 0.25}:
        assert p[0].tolist() == [1 - g, 1.0] or g != g
