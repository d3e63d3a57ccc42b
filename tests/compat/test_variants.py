"""The methods that compat adds, on the host's engines, under `jax.jit`, in CUDA source, pickles and checkpoints."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import Library, same_bits
from tests.support.xla import quick

pytestmark = pytest.mark.usefixtures("quickly")

optax, keras = ao.compat.optax, ao.compat.keras
MASK = {"w": True, "b": False}

VARIANTS: dict[str, Callable[[], ao.Optimizer]] = {
    "Sign": lambda: optax.sign_sgd(0.1),
    "OptaxAdaGrad": lambda: optax.adagrad(0.1, 0.0, 0.0),
    "OptaxAdan": lambda: optax.adan(0.1),
    "NesterovAdaBelief": lambda: optax.adabelief(0.1, nesterov=True),
    "NesterovRAdam": lambda: optax.radam(0.1, b2=0.9, nesterov=True),
    "OptaxYogi": lambda: optax.yogi(0.1),
    "OptaxRMSProp": lambda: optax.rmsprop(0.1, initial_scale=0.5, momentum=0.9),
    "CorrectedRMSProp": lambda: optax.rmsprop(0.1, bias_correction=True, momentum=0.9, nesterov=True),
    "OptaxCenteredRMSProp": lambda: optax.rmsprop(0.1, eps=0.1, initial_scale=0.5, centered=True),
    "CorrectedCenteredRMSProp": lambda: optax.rmsprop(0.1, eps=0.1, bias_correction=True, centered=True),
    "OptaxRprop": lambda: optax.rprop(0.1),
    "MaskedTrustRatio": lambda: optax.lars(0.1, 0.1, MASK, trust_ratio_mask=MASK, nesterov=True),
    "OptaxScheduleFreeSGD": lambda: optax.contrib.schedule_free_sgd(0.1, warmup_steps=3, weight_decay=0.1),
    "OptaxScheduleFreeAdamW": lambda: optax.contrib.schedule_free_adamw(0.1, warmup_steps=3, weight_decay=0.1),
    "AMSGrad, corrected by schedules": lambda: optax.amsgrad(0.1, bias_correction_mu=False, bias_correction_nu=False),
    "SumAccumulate": lambda: optax.MultiSteps(optax.adamw(0.1, mask=MASK), 2, use_grad_mean=False),
    "Mean": lambda: optax.chain(optax.ema(0.5), optax.clip_by_block_rms(0.5), optax.scale_by_learning_rate(0.1)),
    "KerasEMA": lambda: keras.Lamb(0.1, weight_decay=0.1, use_ema=True, ema_momentum=0.5),
    "KerasOverwritingEMA": lambda: keras.SGD(
        keras.schedules.CosineDecay(0.1, 9), 0.9, use_ema=True, ema_overwrite_frequency=3
    ),
    "KerasScheduleFreeAdamW": lambda: keras.ScheduleFreeAdamW(0.1, warmup_steps=3, weight_decay=0.1),
}
WHOLE: dict[str, Callable[[], ao.Optimizer]] = {
    "FactoredRMS": lambda: optax.adafactor(0.1, 2, momentum=0.5, weight_decay_rate=0.01),
    "OptaxNesterovMuon": lambda: optax.contrib.muon(0.1, ns_coeffs="dion"),
    "OptaxAdaptiveNesterovMuon": lambda: optax.contrib.muon(0.1, adaptive=True, consistent_rms=0.2),
    "unitwise": lambda: optax.chain(optax.adaptive_grad_clip(0.1), optax.adam(0.1)),
    "KerasAdafactor": lambda: keras.Adafactor(0.1, weight_decay=0.1),
    "KerasNesterovMuon": lambda: keras.Muon(0.1, gradient_accumulation_steps=2),
}


def _drawn(rng: np.random.Generator, dtype: str = "float64") -> dict[str, Any]:
    return {"w": rng.normal(size=(4, 3)).astype(dtype), "b": rng.normal(size=5).astype(dtype)}


def _run(make: Callable[[], ao.Optimizer], engine: ao.EngineName | None, dtype: str) -> dict[str, Any]:
    rng, optimizer = np.random.default_rng(5), make()
    optimizer.engine = engine
    params = _drawn(rng, dtype)
    for _ in range(8):
        optimizer.update(params, _drawn(rng, dtype))
    return params


SOME = [*VARIANTS][::8]
"""The others are compiled among the products."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SOME else pytest.mark.product) for name in VARIANTS]
)
def test_engines_have_the_same_bits(name: str) -> None:
    """Eight steps of float32 have the same bits by `portable`, `blocked` and `compiled`."""
    reference = _run(VARIANTS[name], "portable", "float32")
    for engine in ("blocked", "compiled"):
        if engine == "compiled":
            pytest.importorskip("numba", reason="numba is not installed")
        found = _run(VARIANTS[name], engine, "float32")
        assert all(same_bits(a, reference[k]) for k, a in found.items()), engine


@pytest.mark.parametrize("name", VARIANTS)
def test_cuda_source(name: str) -> None:
    """Each has CUDA source, which calls no function that rounds otherwise on a device."""
    source = VARIANTS[name]().kernel_source("cuda")
    assert "__global__" in source
    assert not re.findall(r"\b(?:pow|exp|fma)f?\(", source)


@pytest.mark.parametrize(
    "name", [*WHOLE, *(pytest.param(name, marks=() if name in SOME else pytest.mark.product) for name in VARIANTS)]
)
def test_under_jit(name: str, need: Callable[[str], Library]) -> None:
    """The pure form, compiled once, with the count of steps traced: NumPy's parameters to round-off."""
    lib = need("jax-x64")
    make = {**VARIANTS, **WHOLE}[name]
    with lib.context():
        rng, optimizer = np.random.default_rng(5), make()
        params = {k: lib.asarray(a) for k, a in _drawn(rng).items()}
        state, traces = optimizer.init(params), []

        def counted(params: Any, grads: Any, state: Any) -> Any:
            traces.append(1)
            return optimizer.step(params, grads, state)

        step = quick(counted)
        for _ in range(8):
            params, state = step(params, {k: lib.asarray(a) for k, a in _drawn(rng).items()}, state)
        assert len(traces) <= 2  # of the first state, whose counts are Python's
        for k, a in _run(make, None, "float64").items():
            np.testing.assert_allclose(lib.tonumpy(params[k]), a, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [*VARIANTS, *WHOLE])
def test_pickles_and_checkpoints(name: str, tmp_path: Path) -> None:
    """A copy, and one that a file restored, go on with the same bits."""
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    make = {**VARIANTS, **WHOLE}[name]
    rng, optimizer = np.random.default_rng(5), make()
    params = _drawn(rng)
    for _ in range(3):
        optimizer.update(params, _drawn(rng))
    ao.save(tmp_path / "state", params=params, optimizer=optimizer)
    copied, with_copy = pickle.loads(pickle.dumps(optimizer)), {k: a.copy() for k, a in params.items()}  # noqa: S301 - it is our own
    loaded = ao.load(tmp_path / "state", like=params)
    restored, again = make(), loaded.params
    assert loaded.optimizer is not None
    restored.load_state_dict(loaded.optimizer, again)
    for _ in range(3):
        grads = _drawn(rng)
        for one, p in ((optimizer, params), (copied, with_copy), (restored, again)):
            one.update(p, grads)
    for k, a in params.items():
        assert same_bits(a, with_copy[k]), k
        assert same_bits(a, again[k]), k
