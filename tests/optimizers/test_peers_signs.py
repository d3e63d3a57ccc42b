"""Beside torch.optim and optax, run for real: methods that go by signs, averages, AdaGrad's options, and stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.chains import problem
from tests.support.libraries import Library
from tests.support.peers import Optax, Torch
from tests.support.xla import loop

STEPS = 200

TORCH: dict[str, tuple[Callable[[Any, Any], Any], Callable[[], ao.Optimizer]]] = {
    "Rprop": (lambda o, ps: o.Rprop(ps, lr=0.03), lambda: ao.Rprop(initial=0.03)),
    "Rprop, other factors": (
        lambda o, ps: o.Rprop(ps, lr=0.2, etas=(0.25, 3.0), step_sizes=(0.05, 0.5)),
        lambda: ao.Rprop(1.0, 0.25, 3.0, 0.05, 0.5, initial=0.2),
    ),
    "Rprop, maximize": (
        lambda o, ps: o.Rprop(ps, lr=0.03, maximize=True),
        lambda: ao.chain(ao.Maximize(), ao.Rprop(initial=0.03)),
    ),
    "ASGD": (lambda o, ps: o.ASGD(ps, lr=0.03), lambda: ao.ASGD(lr=0.03)),
    "ASGD, averaging": (
        lambda o, ps: o.ASGD(ps, lr=0.3, lambd=0.1, alpha=0.6, t0=20.0),
        lambda: ao.ASGD(lr=0.3, lambd=0.1, alpha=0.6, t0=20.0),
    ),
    "ASGD, with L2": (
        lambda o, ps: o.ASGD(ps, lr=0.03, weight_decay=0.1, t0=100.0),
        lambda: ao.chain(ao.WeightDecay(0.1), ao.ASGD(lr=0.03, t0=100.0)),
    ),
    "AdaGrad, initial": (
        lambda o, ps: o.Adagrad(ps, lr=0.03, eps=1e-10, initial_accumulator_value=0.3),
        lambda: ao.AdaGrad(lr=0.03, eps=1e-10, initial=0.3),
    ),
    "AdaGrad, decays": (
        lambda o, ps: o.Adagrad(ps, lr=0.3, lr_decay=0.05, weight_decay=0.1, eps=1e-3),
        lambda: ao.chain(ao.WeightDecay(0.1), ao.AdaGrad(lr=0.3, lr_decay=0.05, eps=1e-3)),
    ),
    "SGD, maximize": (
        lambda o, ps: o.SGD(ps, lr=0.03, momentum=0.8, maximize=True),
        lambda: ao.chain(ao.Maximize(), ao.HeavyBall(lr=0.03, momentum=0.8)),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_torch(name: str, torch_in_float64: Any) -> None:
    """200 steps in float64: equal to 1e-12, some 5,000 roundings; ASGD's average, too."""
    theirs, ours = TORCH[name]
    peer, optimizer = _beside_torch(lambda ps: theirs(torch_in_float64.optim, ps.values()), ours())
    if "ASGD" in name:
        assert optimizer.state is not None
        slots: Any = optimizer.state.slots
        for k, average in (slots[-1] if isinstance(slots, tuple) else slots)["average"].items():
            theirs_of = peer.optimizer.state[peer.parameters[k]]["ax"].numpy()
            np.testing.assert_allclose(average, theirs_of, rtol=1e-12, atol=1e-12)


def _beside_torch(
    theirs: Callable[[dict[str, Any]], Any], optimizer: ao.Optimizer, dtype: str = "float64", steps: int = STEPS
) -> tuple[Torch, ao.Optimizer]:
    """Both, after so many steps, which have taken the parameters to the same place."""
    params, grads = problem(dtype, steps=steps)
    peer = Torch(theirs, params)
    for g in grads:
        peer.update(g)
        optimizer.update(params, g)
    for k, a in peer.params.items():
        np.testing.assert_allclose(params[k], a, rtol=1e-12, atol=1e-12)
    return peer, optimizer


@pytest.mark.parametrize("options", [{}, {"t0": 10.0, "lr": 0.1, "lambd": 0.5}])
def test_torch_rprop_and_asgd_of_complex_parameters(options: dict[str, Any], torch_in_float64: Any) -> None:
    """Two reals here and there."""
    optim = torch_in_float64.optim
    peer = (lambda ps: optim.ASGD(ps.values(), **options)) if options else (lambda ps: optim.Rprop(ps.values()))
    _beside_torch(peer, ao.ASGD(**options) if options else ao.Rprop(), "complex128", 50)


@pytest.mark.parametrize(("start", "every"), [(1, 1), (40, 1), (17, 5), (200, 1), (201, 3)])
def test_torch_swa(start: int, every: int, torch_in_float64: Any) -> None:
    """AveragedModel, given the model at the same steps: its mean; before the first of them, the parameters."""
    torch = torch_in_float64
    params, grads = problem(steps=STEPS)
    model = torch.nn.ParameterDict({k: torch.nn.Parameter(torch.tensor(a)) for k, a in params.items()})
    averaged = torch.optim.swa_utils.AveragedModel(model)
    peer, optimizer = torch.optim.SGD(model.parameters(), lr=0.1), ao.chain(ao.SGD(0.1), ao.SWA(start, every))
    for t, g in enumerate(grads, 1):
        for k, p in model.items():
            p.grad = torch.tensor(g[k])
        peer.step()
        if t >= start and (t - start) % every == 0:
            averaged.update_parameters(model)
        optimizer.update(params, g)
        assert optimizer.state is not None
        seen = averaged.module if t >= start else model
        for k, a in optimizer.state.slots[1]["average"].items():
            np.testing.assert_allclose(a, seen[k].detach().numpy(), rtol=1e-12, atol=1e-12)


def test_torch_ema(torch_in_float64: Any) -> None:
    """AveragedModel with an exponential mean starts as the model is when it is first told: before the first step."""
    torch = torch_in_float64
    params, grads = problem(steps=STEPS)
    model = torch.nn.ParameterDict({k: torch.nn.Parameter(torch.tensor(a)) for k, a in params.items()})
    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    averaged.update_parameters(model)
    peer, optimizer = torch.optim.SGD(model.parameters(), lr=0.1), ao.chain(ao.SGD(0.1), ao.EMA(0.9))
    for g in grads:
        for k, p in model.items():
            p.grad = torch.tensor(g[k])
        peer.step()
        averaged.update_parameters(model)
        optimizer.update(params, g)
    assert optimizer.state is not None
    for k, a in optimizer.state.slots[1]["average"].items():
        np.testing.assert_allclose(a, averaged.module[k].detach().numpy(), rtol=1e-12, atol=1e-12)


OPTAX: dict[str, tuple[Callable[[Any], Any], Callable[[], ao.Optimizer]]] = {
    "lion": (lambda o: o.lion(0.03, weight_decay=0.0), lambda: ao.Lion(lr=0.03)),
    "lion, with decay": (
        lambda o: o.lion(0.03, b1=0.5, b2=0.8, weight_decay=0.3),
        lambda: ao.Lion(lr=0.03, beta1=0.5, beta2=0.8, weight_decay=0.3),
    ),
    "sign_sgd": (lambda o: o.sign_sgd(0.03), lambda: ao.Signum(lr=0.03, momentum=0.0)),
    "signum": (lambda o: o.signum(0.03, beta=0.8), lambda: ao.Signum(lr=0.03, momentum=0.8)),
    "adagrad": (lambda o: o.adagrad(0.03), lambda: ao.AdaGrad(0.03, 0.0, initial=0.1, eps_root=1e-7)),
    "adagrad from 0": (
        lambda o: o.adagrad(0.03, initial_accumulator_value=0.0, eps=1e-3),
        lambda: ao.AdaGrad(0.03, 0.0, eps_root=1e-3),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_optax(name: str, need: Callable[[str], Library]) -> None:
    """200 steps in float64, as above."""
    optax = pytest.importorskip("optax", reason="optax is not installed")
    lib = need("jax-x64")
    theirs, ours = OPTAX[name]
    params, grads = problem(steps=STEPS)
    with lib.context():
        peer = Optax(theirs(optax), params)
        peer.steps(grads)
    optimizer = ours()
    for g in grads:
        optimizer.update(params, g)
    for k, a in params.items():
        np.testing.assert_allclose(a, peer.params[k], rtol=1e-12, atol=1e-12)


def test_optax_rprop(need: Callable[[str], Library]) -> None:
    """What it keeps as the step and its length is ours; what it gives is late (google-deepmind/optax#1725)."""
    optax = pytest.importorskip("optax", reason="optax is not installed")
    lib = need("jax-x64")
    params, grads = problem(steps=STEPS)
    optimizer = ao.Rprop(1.0, 0.25, 3.0, 0.05, 0.5, initial=0.2)
    transform = optax.rprop(0.2, eta_minus=0.25, eta_plus=3.0, min_step_size=0.05, max_step_size=0.5)

    def step(carry: Any, grads: Any) -> Any:
        their, state = carry
        _, state = transform.update(grads, state, their)
        return {k: p - state[0].prev_updates[k] for k, p in their.items()}, state

    with lib.context():
        start = {k: lib.asarray(a) for k, a in params.items()}
        one = loop(step)
        carry = start, transform.init(start)
        for g in grads:
            carry = one(carry, [g])
            optimizer.update(params, g)
            assert optimizer.state is not None
            for k, a in optimizer.state.slots["s"].items():
                np.testing.assert_allclose(a, carry[1][0].step_sizes[k], rtol=1e-12)
    for k, a in params.items():
        np.testing.assert_allclose(a, carry[0][k], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("every", "share"), [(5, 0.5), (1, 0.25), (7, 1.0), (3, 0.0)])
def test_optax_lookahead(every: int, share: float, need: Callable[[str], Library]) -> None:
    """Fast and slow parameters, over Adam, whose state goes on there, too."""
    optax = pytest.importorskip("optax", reason="optax is not installed")
    lib = need("jax-x64")
    params, grads = problem(steps=STEPS)
    with lib.context():
        start = optax.LookaheadParams.init_synced({k: lib.asarray(a) for k, a in params.items()})
        peer = Optax(optax.lookahead(optax.adam(0.1, eps=0.0), every, share), start)
        peer.steps(grads)
    optimizer = ao.chain(ao.Adam(0.1, eps=0.0), ao.Lookahead(every, share))
    for g in grads:
        optimizer.update(params, g)
    assert optimizer.state is not None
    for k, a in params.items():
        np.testing.assert_allclose(a, peer.params.fast[k], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(optimizer.state.slots[1]["slow"][k], peer.params.slow[k], rtol=1e-12, atol=1e-12)


def test_optax_projections(need: Callable[[str], Library]) -> None:
    """What optax projects after each step."""
    optax = pytest.importorskip("optax", reason="optax is not installed")
    lib = need("jax-x64")
    pairs: list[tuple[Callable[[Any], Any], Callable[[], ao.ParameterStage]]] = [
        (
            lambda p: optax.projections.projection_box(p, *(dict.fromkeys(p, b) for b in (-0.5, 0.75))),
            lambda: ao.Box(-0.5, 0.75),
        ),
        (optax.projections.projection_non_negative, ao.NonNegative),
    ]
    for theirs, ours in pairs:
        params, grads = problem(steps=STEPS)
        optimizer = ao.chain(ao.SGD(0.1), ours())
        with lib.context():
            start = {k: lib.asarray(a) for k, a in params.items()}
            their = loop(lambda p, g, theirs=theirs: theirs({k: a - 0.1 * g[k] for k, a in p.items()}))(start, grads)  # type: ignore[misc]
        for g in grads:
            optimizer.update(params, g)
        for k, a in params.items():
            np.testing.assert_allclose(a, their[k], rtol=1e-12, atol=1e-12)
