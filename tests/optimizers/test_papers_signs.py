"""The methods and stages of papers_signs.py compute what their papers say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.reference import papers_signs
from tests.support.libraries import METHODS

pytestmark = [pytest.mark.telling, pytest.mark.usefixtures("quickly")]

STEPS = 200
CLOSE = 1e-12

HYPER: dict[str, list[dict[str, Any]]] = {
    "AdaGrad": [
        {"lr": 0.03, "eps": 1e-3, "initial": 0.0, "eps_root": 0.0, "lr_decay": 0.0},
        {"lr": 0.03, "eps": 0.0, "initial": 0.1, "eps_root": 1e-2, "lr_decay": 0.05},
    ],
    "ASGD": [
        {"lr": 0.1, "lambd": 0.02, "alpha": 0.75, "t0": 150},
        {"lr": 0.1, "lambd": 1e-4, "alpha": 0.75, "t0": 10**6},
        {"lr": 0.3, "lambd": 0.0, "alpha": 0.5, "t0": 0},
    ],
    "Lion": [
        {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0},
        {"lr": 0.03, "beta1": 0.5, "beta2": 0.8, "weight_decay": 0.3},
    ],
    "Rprop": [
        {"lr": 1.0, "eta_minus": 0.5, "eta_plus": 1.2, "step_min": 1e-6, "step_max": 50.0, "initial": 0.1},
        {"lr": 0.5, "eta_minus": 0.25, "eta_plus": 3.0, "step_min": 0.05, "step_max": 0.5, "initial": 0.2},
    ],
    "Signum": [{"lr": 0.01, "momentum": 0.9}, {"lr": 0.03, "momentum": 0.0}],
}


def _start() -> tuple[dict[str, Any], dict[str, Any], np.random.Generator]:
    rng = np.random.default_rng(5)
    ours = {"W": rng.normal(size=(3, 5)), "b": rng.normal(size=7), "s": np.asarray(rng.normal())}
    return ours, {k: a.copy() for k, a in ours.items()}, rng


def _close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for key, a in ours.items():
        np.testing.assert_allclose(a, theirs[key], rtol=CLOSE, atol=CLOSE * np.abs(theirs[key]).max())


def test_each_has_its_hyperparameters() -> None:
    assert {*HYPER} == {*papers_signs.METHODS}, "wanted HYPER of this module for each"


@pytest.mark.parametrize(("name", "k"), [(name, k) for name, of in HYPER.items() for k in range(len(of))])
def test_methods(name: str, k: int) -> None:
    """200 steps with gradients of many sizes, some 0, that turn now and then: equal to 1e-12 of the largest element."""
    hyper = HYPER[name][k]
    ours, theirs, rng = _start()
    optimizer, transcription = METHODS[name](**hyper), papers_signs.METHODS[name](**hyper)
    assert {*hyper} >= {*METHODS[name].hyperparameters}
    towards = {key: rng.normal(size=a.shape) for key, a in ours.items()}
    for t in range(STEPS):
        scale = 10.0 ** rng.integers(-3, 1)
        g = {key: scale * np.asarray(a + rng.normal(size=a.shape)) for key, a in towards.items()}
        g["b"][t % 7] = 0.0
        optimizer.update(ours, g)
        transcription.update(theirs, {key: a.copy() for key, a in g.items()})
        _close(ours, theirs)
        if name == "ASGD":
            assert optimizer.state is not None
            _close(optimizer.state.slots["average"], transcription.average)


STAGES: dict[str, tuple[Callable[[], ao.Optimizer], dict[str, Any], str]] = {
    "SWA": (lambda: ao.chain(ao.SGD(0.1), ao.SWA(0, every=7)), {"every": 7}, "average"),
    "Lookahead": (lambda: ao.chain(ao.SGD(0.1), ao.Lookahead(6, 0.3)), {"every": 6, "share": 0.3}, "slow"),
    "Projected": (lambda: ao.chain(ao.SGD(0.1), ao.Box(-0.5, 0.75)), {"lo": -0.5, "hi": 0.75}, ""),
}


@pytest.mark.parametrize("name", papers_signs.STAGES)
def test_stages(name: str) -> None:
    """200 steps of gradient descent, down a bowl and with noise; the slots at each step, too."""
    make, hyper, slot = STAGES[name]
    ours, theirs, rng = _start()
    optimizer, transcription = make(), papers_signs.STAGES[name](lr=0.1, **hyper)
    for _ in range(STEPS):
        noise = {key: rng.normal(size=a.shape) for key, a in ours.items()}
        optimizer.update(ours, {key: a + noise[key] for key, a in ours.items()})
        transcription.update(theirs, {key: a + noise[key] for key, a in theirs.items()})
        _close(ours, theirs)
        if slot:
            assert optimizer.state is not None
            _close(optimizer.state.slots[1][slot], getattr(transcription, slot))
