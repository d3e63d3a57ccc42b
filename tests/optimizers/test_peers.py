"""The methods beside those of torch, optax and Keras, in float64, under options that are to make them the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import Library
from tests.support.peers import Keras, Optax, Torch

pytestmark = pytest.mark.usefixtures("quickly")

STEPS = 200
"""Some 5,000 roundings: equal to 1e-12."""

Ours = Callable[[], ao.Optimizer]

# With eps = 0 all conventions for Adam's eps are one; torch's momentum is ours while lr is constant.
TORCH: dict[str, tuple[Ours, Callable[[Any, Any], Any]]] = {
    "SGD": (lambda: ao.SGD(0.03), lambda optim, ps: optim.SGD(ps, lr=0.03)),
    "Momentum": (lambda: ao.Momentum(0.03, 0.8), lambda optim, ps: optim.SGD(ps, lr=0.03, momentum=0.8)),
    "Nesterov": (
        lambda: ao.Nesterov(0.03, 0.8),
        lambda optim, ps: optim.SGD(ps, lr=0.03, momentum=0.8, nesterov=True),
    ),
    "HeavyBall": (
        lambda: ao.HeavyBall(0.03, 0.8, 0.3),
        lambda optim, ps: optim.SGD(ps, lr=0.03, momentum=0.8, dampening=0.3),
    ),
    "HeavyBallNesterov": (
        lambda: ao.HeavyBallNesterov(0.03, 0.8),
        lambda optim, ps: optim.SGD(ps, lr=0.03, momentum=0.8, nesterov=True),
    ),
    "RMSProp": (
        lambda: ao.RMSProp(0.03, 0.8, 1e-3),
        lambda optim, ps: optim.RMSprop(ps, lr=0.03, alpha=0.8, eps=1e-3),
    ),
    "CenteredRMSProp": (
        lambda: ao.CenteredRMSProp(0.03, 0.8, 1e-3),
        lambda optim, ps: optim.RMSprop(ps, lr=0.03, alpha=0.8, eps=1e-3, centered=True),
    ),
    "AdaDelta": (
        lambda: ao.AdaDelta(0.5, 0.8, 1e-3),
        lambda optim, ps: optim.Adadelta(ps, lr=0.5, rho=0.8, eps=1e-3),
    ),
    "AdaGrad": (lambda: ao.AdaGrad(0.03, 1e-3), lambda optim, ps: optim.Adagrad(ps, lr=0.03, eps=1e-3)),
    "Adam": (
        lambda: ao.Adam(0.03, 0.8, 0.99, 0.0),
        lambda optim, ps: optim.Adam(ps, lr=0.03, betas=(0.8, 0.99), eps=0.0),
    ),
    "Adam, eps": (
        lambda: ao.Adam(0.03, 0.8, 0.99, 0.0, eps_corrected=1e-3),
        lambda optim, ps: optim.Adam(ps, lr=0.03, betas=(0.8, 0.99), eps=1e-3),
    ),
    "Adam, L2": (
        lambda: ao.chain(ao.WeightDecay(0.1), ao.Adam(0.03, 0.8, 0.99, 0.0, eps_corrected=1e-3)),
        lambda optim, ps: optim.Adam(ps, lr=0.03, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.1),
    ),
    "AdamW": (
        lambda: ao.AdamW(0.03, 0.8, 0.99, 0.0, 0.1, eps_corrected=1e-3),
        lambda optim, ps: optim.AdamW(ps, lr=0.03, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.1),
    ),
    "AMSGrad": (
        lambda: ao.AMSGrad(0.03, 0.8, 0.9, 0.0, eps_corrected=1e-3),
        lambda optim, ps: optim.Adam(ps, lr=0.03, betas=(0.8, 0.9), eps=1e-3, amsgrad=True),
    ),
    "Adamax": (
        lambda: ao.Adamax(0.03, 0.8, 0.9, 0.0, eps_max=1e-3),
        lambda optim, ps: optim.Adamax(ps, lr=0.03, betas=(0.8, 0.9), eps=1e-3),
    ),
    "NAdam": (
        lambda: ao.NAdam(0.03, 0.8, 0.99, 1e-3, momentum_decay=0.3),
        lambda optim, ps: optim.NAdam(ps, lr=0.03, betas=(0.8, 0.99), eps=1e-3, momentum_decay=0.3),
    ),
    "NAdam, its defaults": (lambda: ao.NAdam(2e-3, eps=1e-8), lambda optim, ps: optim.NAdam(ps)),
    "RAdam": (
        lambda: ao.RAdam(0.03, 0.8, 0.99, 1e-3),
        lambda optim, ps: optim.RAdam(ps, lr=0.03, betas=(0.8, 0.99), eps=1e-3),
    ),
    "RAdam, never rectified": (
        lambda: ao.RAdam(0.03, 0.8, 0.6, 1e-3),
        lambda optim, ps: optim.RAdam(ps, lr=0.03, betas=(0.8, 0.6), eps=1e-3),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_equals_torch(name: str, torch_in_float64: Any) -> None:
    """torch.optim, run beside ours on NumPy arrays."""
    make, peer_of = TORCH[name]
    rng = np.random.default_rng(2)
    params = {"w": rng.normal(size=(3, 4)), "b": np.asarray(rng.normal(size=()))}
    peer, optimizer = Torch(lambda ps: peer_of(torch_in_float64.optim, [*ps.values()]), params), make()
    for _ in range(STEPS):
        g = {k: np.asarray(rng.normal(size=a.shape)) for k, a in params.items()}
        peer.update(g)
        optimizer.update(params, g)
    for k, a in peer.params.items():
        np.testing.assert_allclose(params[k], a, rtol=1e-12, atol=1e-12)


def _yogi_from_0(optax: Any) -> Any:
    """Optax's, which starts m like v, with m at 0."""
    yogi = optax.scale_by_yogi(0.8, 0.99, eps=1e-3, initial_accumulator_value=0.1)

    def init(params: Any) -> Any:
        state = yogi.init(params)
        return state._replace(mu={k: 0 * a for k, a in state.mu.items()})

    return optax.chain(optax.GradientTransformation(init, yogi.update), optax.scale_by_learning_rate(0.03))


def _of_the_paper(t: Any) -> Any:
    """What undoes the corrections of AMSGrad's step."""
    return 0.03 * (1 - 0.8**t) / math.sqrt(1 - 0.9**t)


# Optax's AdaGrad puts eps inside the root, which is another equation. Its Adan has 1-b2 where the paper has what is b2
# here: 0.5 is both.
OPTAX: dict[str, tuple[Ours, Callable[[Any], Any]]] = {
    "SGD": (lambda: ao.SGD(0.03), lambda optax: optax.sgd(0.03)),
    "Momentum": (lambda: ao.Momentum(0.03, 0.8), lambda optax: optax.sgd(0.03, momentum=0.8)),
    "Nesterov": (lambda: ao.Nesterov(0.03, 0.8), lambda optax: optax.sgd(0.03, momentum=0.8, nesterov=True)),
    "RMSProp": (
        lambda: ao.RMSProp(0.03, 0.8, 0.0, eps_root=1e-3),
        lambda optax: optax.rmsprop(0.03, decay=0.8, eps=1e-3),
    ),
    "CenteredRMSProp": (
        lambda: ao.CenteredRMSProp(0.03, 0.8, 0.0, eps_root=1e-3),
        lambda optax: optax.rmsprop(0.03, decay=0.8, eps=1e-3, centered=True),
    ),
    "AdaDelta": (lambda: ao.AdaDelta(0.5, 0.8, 1e-3), lambda optax: optax.adadelta(0.5, rho=0.8, eps=1e-3)),
    "Adam": (lambda: ao.Adam(0.03, 0.8, 0.99, 0.0), lambda optax: optax.adam(0.03, b1=0.8, b2=0.99, eps=0.0)),
    "Adam, eps": (
        lambda: ao.Adam(0.03, 0.8, 0.99, 0.0, eps_corrected=1e-3, eps_root=1e-2),
        lambda optax: optax.adam(0.03, b1=0.8, b2=0.99, eps=1e-3, eps_root=1e-2),
    ),
    "AdamW": (
        lambda: ao.AdamW(0.03, 0.8, 0.99, 0.0, 0.1, eps_corrected=1e-3, eps_root=1e-2),
        lambda optax: optax.adamw(0.03, b1=0.8, b2=0.99, eps=1e-3, eps_root=1e-2, weight_decay=0.1),
    ),
    "CorrectedAMSGrad": (
        lambda: ao.CorrectedAMSGrad(0.03, 0.8, 0.9, 1e-3, eps_root=1e-2),
        lambda optax: optax.amsgrad(0.03, b1=0.8, b2=0.9, eps=1e-3, eps_root=1e-2),
    ),
    "AMSGrad, its paper's": (
        lambda: ao.AMSGrad(_of_the_paper, 0.8, 0.9, 1e-3),
        lambda optax: optax.chain(
            optax.scale_by_amsgrad(0.8, 0.9, 1e-3, bias_correction_mu=False, bias_correction_nu=False),
            optax.scale_by_learning_rate(0.03),
        ),
    ),
    "Adamax": (
        lambda: ao.Adamax(0.03, 0.8, 0.9, 0.0, eps_max=1e-3),
        lambda optax: optax.adamax(0.03, b1=0.8, b2=0.9, eps=1e-3),
    ),
    "NAdam": (
        lambda: ao.NAdam(0.03, 0.8, 0.99, 1e-3, warmup=0.0, eps_root=1e-2),
        lambda optax: optax.nadam(0.03, b1=0.8, b2=0.99, eps=1e-3, eps_root=1e-2),
    ),
    "RAdam": (
        lambda: ao.RAdam(0.03, 0.8, 0.99, 0.0, threshold=7.0, eps_corrected=1e-3, eps_root=1e-2),
        lambda optax: optax.radam(0.03, b1=0.8, b2=0.99, eps=1e-3, eps_root=1e-2, threshold=7.0),
    ),
    "AdaBelief": (
        lambda: ao.AdaBelief(0.03, 0.8, 0.99, 1e-3, 1e-4),
        lambda optax: optax.adabelief(0.03, b1=0.8, b2=0.99, eps=1e-3, eps_root=1e-4),
    ),
    "CorrectedYogi": (lambda: ao.CorrectedYogi(0.03, 0.8, 0.99, initial=0.1), _yogi_from_0),
    "Adan": (
        lambda: ao.chain(ao.Adan(0.03, 0.9, 0.5, 0.95, 1e-3, eps_root=1e-2), ao.WeightDecay(0.03 * 0.1)),
        lambda optax: optax.adan(0.03, b1=0.9, b2=0.5, b3=0.95, eps=1e-3, eps_root=1e-2, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_equals_optax(name: str, need: Callable[[str], Library]) -> None:
    """Optax under `jax.jit`, run beside ours on NumPy arrays."""
    jax_x64 = need("jax-x64")
    optax = pytest.importorskip("optax", reason="optax is not installed")

    make, peer_of = OPTAX[name]
    with jax_x64.context():
        rng = np.random.default_rng(2)
        ours = {"w": rng.normal(size=(3, 4))}
        peer, optimizer = Optax(peer_of(optax), ours), make()
        grads = [{"w": rng.normal(size=(3, 4))} for _ in range(STEPS)]
        peer.steps(grads)
        for g in grads:
            optimizer.update(ours, g)
        np.testing.assert_allclose(ours["w"], jax_x64.tonumpy(peer.params["w"]), rtol=1e-12, atol=1e-12)


# Keras's RMSprop and Adagrad have their eps inside the root.
KERAS: dict[str, tuple[Ours, Callable[[Any], Any]]] = {
    "SGD": (lambda: ao.SGD(0.03), lambda optimizers: optimizers.SGD(0.03)),
    "Momentum": (lambda: ao.Momentum(0.03, 0.8), lambda optimizers: optimizers.SGD(0.03, momentum=0.8)),
    "Nesterov": (
        lambda: ao.Nesterov(0.03, 0.8),
        lambda optimizers: optimizers.SGD(0.03, momentum=0.8, nesterov=True),
    ),
    "RMSProp": (
        lambda: ao.RMSProp(0.03, 0.8, 0.0, eps_root=1e-3),
        lambda optimizers: optimizers.RMSprop(0.03, rho=0.8, epsilon=1e-3),
    ),
    "RMSProp, momentum": (
        lambda: ao.chain(ao.RMSProp(0.03, 0.8, 0.0, eps_root=1e-3), ao.Trace(0.7)),
        lambda optimizers: optimizers.RMSprop(0.03, rho=0.8, epsilon=1e-3, momentum=0.7),
    ),
    "AdaDelta": (
        lambda: ao.AdaDelta(0.5, 0.8, 1e-3),
        lambda optimizers: optimizers.Adadelta(0.5, rho=0.8, epsilon=1e-3),
    ),
    "Adam": (lambda: ao.Adam(0.03, 0.8, 0.99, 1e-3), lambda optimizers: optimizers.Adam(0.03, 0.8, 0.99, 1e-3)),
    "AdamW": (
        lambda: ao.AdamW(0.03, 0.8, 0.99, 1e-3, 0.1),
        lambda optimizers: optimizers.AdamW(0.03, 0.1, 0.8, 0.99, 1e-3),
    ),
    "AMSGrad": (
        lambda: ao.AMSGrad(0.03, 0.8, 0.9, 1e-3),
        lambda optimizers: optimizers.Adam(0.03, 0.8, 0.9, 1e-3, amsgrad=True),
    ),
    "Adamax": (lambda: ao.Adamax(0.03, 0.8, 0.9, 1e-3), lambda optimizers: optimizers.Adamax(0.03, 0.8, 0.9, 1e-3)),
    "NAdam": (
        lambda: ao.NAdam(0.03, 0.8, 0.99, 1e-3, momentum_decay=1.0),
        lambda optimizers: optimizers.Nadam(0.03, 0.8, 0.99, 1e-3),
    ),
}


@pytest.fixture
def keras(
    need: Callable[[str], Library], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Any], Any]]:
    """Keras on JAX in float64; on NumPy it makes float32 of numbers."""
    jax_x64 = need("jax-x64")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))  # where it would write a file when it is imported
    with jax_x64.context():
        keras = pytest.importorskip("keras", reason="keras is not installed")
        if keras.config.backend() != "jax":
            pytest.skip(f"keras was imported before, for {keras.config.backend()}")
        before = keras.config.floatx()
        keras.config.set_floatx("float64")
        yield keras
        keras.config.set_floatx(before)


@pytest.mark.parametrize("name", KERAS)
def test_equals_keras(name: str, keras: Any) -> None:
    """Keras, run beside ours on NumPy arrays."""
    make, peer_of = KERAS[name]
    rng = np.random.default_rng(2)
    p = {"w": rng.normal(size=(3, 4))}
    peer, optimizer = Keras(lambda: peer_of(keras.optimizers), p), make()
    grads = [{"w": rng.normal(size=(3, 4))} for _ in range(STEPS)]
    peer.steps(grads)
    for g in grads:
        optimizer.update(p, g)
    np.testing.assert_allclose(p["w"], peer.params["w"], rtol=1e-12, atol=1e-12)
