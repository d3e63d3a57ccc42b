"""Counts of steps where they have 32 bits: they stay at the last number, and all goes on as there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import DISCOVERED, Library
from tests.support.xla import quick

pytestmark = pytest.mark.usefixtures("quickly")

LAST = 2**31 - 1
optax, keras = ao.compat.optax, ao.compat.keras

STAGES: dict[str, Callable[[], ao.Optimizer]] = {
    "gates, clip, averages": lambda: ao.chain(
        ao.LossScale(interval=3), ao.SkipNonFinite(), ao.ClipGlobalNorm(1.0), ao.Adam(), ao.EMA(0.9), ao.SWA(5)
    ),
    "Lookahead": lambda: ao.chain(ao.SGD(), ao.Lookahead(5)),
    "Accumulate": lambda: ao.chain(ao.Accumulate(lambda t: 2 * (t > 0)), ao.Adam()),
    "groups": lambda: ao.chain(ao.AdamW(), ao.groups({"w": {"lr": ao.schedules.Linear(0.1, 50, 0.05)}, ...: {}})),
    "optax's Nesterov": lambda: optax.adabelief(0.1, nesterov=True),
    "optax's muon": lambda: optax.contrib.muon(0.1),
    "optax's MultiSteps": lambda: optax.MultiSteps(optax.adamw(optax.cosine_decay_schedule(0.1, 50, 0.5)), 2),
    "Keras's schedule with accumulation": lambda: keras.SGD(
        keras.schedules.ExponentialDecay(0.1, 100, 0.5, True), gradient_accumulation_steps=4
    ),
}
MADE: dict[str, Callable[[], ao.Optimizer]] = {**DISCOVERED, **STAGES}


def _moved_on(state: Any, n: int) -> Any:
    """The state with other counts: of the dtype that JAX makes of a host's."""
    import jax

    return state._replace(step=np.int64(n), t=jax.tree.map(lambda _: np.int64(n), state.t))


TELLING = {"Adam", "ASGD", "NAdam", "RAdam", "Adan", "Adafactor", "SGLD", "ScheduleFreeAdamW", "Prodigy"}
"""Methods whose coefficients, numbers or bounds are of the count in one way each; others have theirs."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in TELLING or name in STAGES else pytest.mark.product) for name in MADE],
)
def test_counts_stay_at_the_last(name: str, need: Callable[[str], Library]) -> None:
    """Steps before, at and after it are finite and what they are at it; so is one from a count of the host beyond."""
    lib = need("jax")
    import jax

    optimizer = MADE[name]()
    rng = np.random.default_rng(3)
    shapes: dict[str, tuple[int, ...]] = {"w": (3, 2), **({"b": (2,)} if name == "optax's muon" else {})}
    p, g = ({k: lib.array(rng.normal(size=shape)) for k, shape in shapes.items()} for _ in range(2))
    step = quick(optimizer.step)
    first = step(p, g, optimizer.init(p))  # what is kept beside counts is that of a run
    at_last = step(first[0], g, _moved_on(first[1], LAST - 1))
    for begin in (LAST - 3, 2**31, 2**32 - 1):
        q, state = first[0], _moved_on(first[1], begin)
        for _ in range(6):
            q, state = step(q, g, state)
            assert all(bool(np.isfinite(a).all()) for a in jax.tree.leaves((q, state)))
        assert min(map(int, jax.tree.leaves((state.step, state.t)))) >= LAST - 3
        if begin >= 2**31:
            q, _ = step(first[0], g, _moved_on(first[1], begin))
            if name not in {"SGLD"}:  # whose noise is that of the count
                for k, a in q.items():
                    np.testing.assert_allclose(a, at_last[0][k], rtol=1e-6, atol=1e-6)


SCHEDULES: dict[str, tuple[Callable[[], ao.Optimizer], float]] = {
    "warmup_cosine": (lambda: ao.SGD(lr=ao.schedules.warmup_cosine(0.1, 500, 10, end=0.01)), 0.01),
    "join": (lambda: ao.SGD(lr=ao.schedules.join([0.1, ao.schedules.Linear(0.1, 9, 0.02)], [7])), 0.02),
    "StepDecay": (lambda: ao.SGD(lr=ao.schedules.StepDecay(0.1, 2**30, 0.5)), 0.05),
    "optax's": (lambda: optax.sgd(optax.linear_schedule(0.1, 0.03, 9)), 0.03),
    "Keras's": (lambda: keras.SGD(keras.schedules.CosineDecay(0.1, 9, 0.4)), 0.04),
    "Keras's, in cycles": (
        lambda: keras.SGD(keras.schedules.PolynomialDecay(0.1, 2**30, 0.05, cycle=True)),
        0.05 + 0.05 * 2.0**-30,
    ),
    "Keras's, by updates": (
        lambda: keras.SGD(
            keras.schedules.ExponentialDecay(0.1, 2**30 + 2**12, 0.5, True), gradient_accumulation_steps=4
        ),
        0.05,
    ),
}
"""And the rate at the last count."""


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_do_not_begin_again(name: str, need: Callable[[str], Library]) -> None:
    """Also where a schedule counts several updates for each step, which pass the last count four times as early."""
    lib = need("jax")

    make, rate = SCHEDULES[name]
    optimizer = make()
    p, g = {"w": lib.array([0.0])}, {"w": lib.array([1.0])}
    step, state = quick(optimizer.step), _moved_on(optimizer.init(p), LAST - 2)
    for _ in range(12):
        q, state = step(p, g, state)
        assert float(q["w"][0]) == 0 or float(q["w"][0]) == pytest.approx(-rate, rel=1e-6)
    assert int(state.step) >= LAST - 1


def test_noise_differs_from_step_to_step(need: Callable[[str], Library]) -> None:
    """The count names the draw, exactly, also where float32 would round it: as on the host."""
    lib = need("jax")

    optimizer = ao.SGLD(lr=0.5, seed=3)
    p, g = {"w": lib.array(np.zeros(4))}, {"w": lib.array(np.zeros(4))}
    step, seen = quick(optimizer.step), set()
    for n in (2**24 - 1, 2**24, 2**24 + 1, 2**24 + 2, 2**31 - 3, 2**31 - 2):
        q, _ = step(p, g, _moved_on(optimizer.init(p), n))
        host, _ = optimizer.step(p, g, _moved_on(optimizer.init(p), n))
        np.testing.assert_allclose(q["w"], host["w"], rtol=1e-5)
        seen.add(tuple(np.asarray(q["w"]).tolist()))
    assert len(seen) == 6
