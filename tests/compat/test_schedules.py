"""The schedules of compat.optax and compat.keras beside those of optax and Keras, called alike, with counts from 0."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import Library
from tests.support.xla import quick

pytestmark = pytest.mark.usefixtures("quickly")

COUNTS = 300

# Optax divides integer counts in float32, whatever the parameters are: 6e-8 off, which powers multiply.
OPTAX: dict[str, list[tuple[dict[str, Any], float]]] = {
    "constant_schedule": [({"value": 0.3}, 0.0)],
    "linear_schedule": [
        ({"init_value": 0.1, "end_value": 0.9, "transition_steps": 70, "transition_begin": 30}, 1e-6),
        ({"init_value": 0.1, "end_value": 0.9, "transition_steps": 0}, 0.0),
    ],
    "polynomial_schedule": [
        ({"init_value": 0.7, "end_value": 0.1, "power": 2.5, "transition_steps": 70, "transition_begin": 30}, 1e-6),
        ({"init_value": 0.7, "end_value": 0.1, "power": 2, "transition_steps": 90, "transition_begin": -5}, 1e-6),
    ],
    "piecewise_constant_schedule": [
        ({"init_value": 0.7}, 1e-15),
        ({"init_value": 0.7, "boundaries_and_scales": {100: 0.1, 50: 3.0, 250: 0.0}}, 1e-15),
    ],
    "piecewise_interpolate_schedule": [
        ({"interpolate_type": kind, "init_value": 0.7, "boundaries_and_scales": {100: 0.1, 50: 3.0, 0: 2.0}}, 1e-6)
        for kind in ("linear", "cosine")
    ],
    "exponential_decay": [
        (
            {
                "init_value": 0.7,
                "transition_steps": 30,
                "decay_rate": rate,
                "transition_begin": 20,
                "staircase": stairs,
                "end_value": end,
            },
            1e-5,
        )
        for rate, stairs, end in ((0.5, False, None), (0.5, True, 0.01), (1.5, False, 2.0))
    ]
    + [({"init_value": 0.7, "transition_steps": 0, "decay_rate": 0.5}, 0.0)],
    "cosine_decay_schedule": [({"init_value": 0.7, "decay_steps": 200, "alpha": 0.1, "exponent": 1.5}, 1e-6)],
    "linear_onecycle_schedule": [({"transition_steps": 200, "peak_value": 0.7}, 1e-6)],
    "cosine_onecycle_schedule": [({"transition_steps": 200, "peak_value": 0.7, "pct_start": 0.2}, 1e-6)],
    "warmup_constant_schedule": [({"init_value": 0.1, "peak_value": 0.7, "warmup_steps": 50}, 1e-6)],
    "warmup_cosine_decay_schedule": [
        (
            {
                "init_value": 0.1,
                "peak_value": 0.7,
                "warmup_steps": 50,
                "decay_steps": 200,
                "end_value": 0.05,
                "exponent": 2.0,
            },
            1e-6,
        )
    ],
    "warmup_exponential_decay_schedule": [
        (
            {
                "init_value": 0.1,
                "peak_value": 0.7,
                "warmup_steps": 50,
                "transition_steps": 40,
                "decay_rate": 0.3,
                "transition_begin": 10,
                "staircase": True,
                "end_value": 0.01,
            },
            1e-5,
        )
    ],
    "sgdr_schedule": [
        (
            {
                "cosine_kwargs": [
                    {"init_value": 0.0, "peak_value": 0.7, "warmup_steps": 10, "decay_steps": 90},
                    {"init_value": 0.1, "peak_value": 0.5, "warmup_steps": 20, "decay_steps": 110, "end_value": 0.1},
                ]
            },
            1e-6,
        )
    ],
    "join_schedules": [({"schedules": [lambda n: 0.1 + 0.001 * n, lambda n: 1.0 / (1 + n)], "boundaries": [70]}, 1e-6)],
}
KERAS: dict[str, list[dict[str, Any]]] = {
    "ExponentialDecay": [
        {"initial_learning_rate": 0.7, "decay_steps": 30, "decay_rate": 0.5, "staircase": stairs}
        for stairs in (False, True)
    ],
    "InverseTimeDecay": [
        {"initial_learning_rate": 0.7, "decay_steps": 30, "decay_rate": 0.5, "staircase": stairs}
        for stairs in (False, True)
    ],
    "PiecewiseConstantDecay": [
        {"boundaries": [50, 100, 101], "values": [1.0, 0.5, 0.1, 0.7]},
        {"boundaries": [50], "values": [1.0, 0.5]},
    ],
    "PolynomialDecay": [
        {"initial_learning_rate": 0.7, "decay_steps": 90, "end_learning_rate": 0.1, "power": 2.0, "cycle": cycle}
        for cycle in (False, True)
    ],
    "CosineDecay": [
        {"initial_learning_rate": 0.7, "decay_steps": 200, "alpha": 0.1},
        {"initial_learning_rate": 0.1, "decay_steps": 150, "alpha": 0.1, "warmup_target": 0.7, "warmup_steps": 50},
    ],
    "CosineDecayRestarts": [
        {"initial_learning_rate": 0.7, "first_decay_steps": 40, "t_mul": 2.0, "m_mul": 0.5, "alpha": 0.1},
        {"initial_learning_rate": 0.7, "first_decay_steps": 40, "t_mul": 1.0, "m_mul": 0.9, "alpha": 0.1},
    ],
}


def test_all_have_a_row() -> None:
    """The tables have all that both modules export."""
    from anyoptim.compat.keras import schedules
    from anyoptim.compat.optax import _schedules

    assert {*OPTAX} == {*_schedules.__all__}
    assert {*KERAS} == {*schedules.__all__}


@pytest.mark.parametrize("name", OPTAX)
def test_optax(name: str, need: Callable[[str], Library]) -> None:
    """Signatures are optax's, and so are the values of 300 counts, relative to the largest; an array's are the same."""
    lib = need("jax-x64")
    optax = pytest.importorskip("optax", reason="optax is not installed")
    import jax

    ours, theirs = getattr(ao.compat.optax, name), getattr(optax, name)
    assert _shown(ours) == _shown(theirs)
    with lib.context():
        for options, bound in OPTAX[name]:
            expected = jax.vmap(theirs(**options))(jax.numpy.arange(COUNTS, dtype="int32"))
            values = ours(**options)(np.arange(COUNTS))
            _near(values, np.broadcast_to(expected, COUNTS), bound, options)
            assert values.tolist() == [ours(**options)(n) for n in range(COUNTS)]
            traced = quick(ours(**options))
            _near(
                [float(traced(n)) for n in range(0, COUNTS, 7)],
                [ours(**options)(n) for n in range(0, COUNTS, 7)],
                1e-14,
            )


@pytest.mark.parametrize("name", KERAS)
def test_keras(name: str, need: Callable[[str], Library], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures are Keras's, and so are the values in float64, also of an array of counts."""
    lib = need("jax-x64")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    keras = pytest.importorskip("keras", reason="keras is not installed")
    if keras.config.backend() != "jax":
        pytest.skip(f"keras was imported before, for {keras.config.backend()}")
    ours, theirs = getattr(ao.compat.keras.schedules, name), getattr(keras.optimizers.schedules, name)
    assert _shown(ours) == _shown(theirs)
    before = keras.config.floatx()
    with lib.context():
        keras.config.set_floatx("float64")
        try:
            for options in KERAS[name]:
                schedule, own = quick(theirs(**options)), ours(**options)
                counts = range(0, COUNTS, 1 if name == "PiecewiseConstantDecay" else 10)
                bound = 1e-6 if "Cosine" in name else 1e-14  # Keras has its cosines in float32
                values = own(np.array(counts))
                assert values.tolist() == [own(n) for n in counts]
                _near(values, [float(schedule(np.int32(n))) for n in counts], bound, options)
                assert pickle.loads(pickle.dumps(own)) == own  # noqa: S301 - it is our own
        finally:
            keras.config.set_floatx(before)


def _shown(of: Any) -> list[Any]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(of).parameters.values()]


def _near(ours: Any, theirs: Any, bound: float, what: Any = None) -> None:
    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    assert np.max(np.abs(a - b)) <= bound * np.max(np.abs(b)), what


def test_counts_and_steps() -> None:
    """A schedule here is asked for step t with t - 1 steps taken; with two updates a step, with 2*t - 1."""
    seen: list[int] = []

    def schedule(n: int) -> float:
        seen.append(n)
        return 0.5

    p = np.ones(2)
    optimizer = ao.compat.optax.sgd(schedule)
    for _ in range(3):
        optimizer.update(p, p.copy())
    assert [*dict.fromkeys(seen)] == [0, 1, 2]
    decay = ao.compat.keras.schedules.PolynomialDecay(1.0, 4, 0.0)
    sgd = ao.compat.keras.SGD(decay, gradient_accumulation_steps=2)
    q = np.zeros(1)
    for _ in range(4):
        sgd.update(q, np.ones(1))
    assert q[0] == -(0.75 + 0.25)
    rates = iter([0.5, 0.25])
    now = partial(next, rates)
    called = ao.compat.keras.SGD(now)
    r = np.zeros(1)
    called.update(r, np.ones(1))
    assert r[0] == -0.5


def test_schedules_that_count_from_0_are_refused_elsewhere() -> None:
    """They would be a step late, in silence: as attributes, in groups, within schedules that count from 1."""
    late = ao.compat.optax.linear_schedule(1.0, 0.0, 4)
    optimizer = ao.compat.optax.sgd(late)
    w = {"w": np.zeros(1)}
    optimizer.update(w, {"w": np.ones(1)})
    assert w["w"].tolist() == [-1.0]
    for wrong in (
        lambda: ao.SGD(lr=late),
        lambda: setattr(optimizer, "lr", late),
        lambda: ao.groups({"w": {"lr": late}}),
        lambda: ao.schedules.warmup(5, late),
    ):
        with pytest.raises(TypeError, match="counts from 0"):
            wrong()
