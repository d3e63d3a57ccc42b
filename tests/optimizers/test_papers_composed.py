"""Methods that measure, keep numbers or see whole arrays: beside their papers, and beside other libraries."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anyoptim as ao
from anyoptim import random
from tests.reference import papers_composed as papers
from tests.support.libraries import COMPOSED, WHOLE, Library, same_bits
from tests.support.peers import Optax

pytestmark = [pytest.mark.telling, pytest.mark.usefixtures("quickly")]

STEPS = 100
BOTH: dict[str, Any] = {**COMPOSED, **WHOLE}
MATRICES = {"Muon", "Shampoo"}
"""Whose parameters have two axes or more, and no empty ones."""

UNIT = st.floats(0, 0.999)
RATE = st.floats(0, 1)
EPS = st.floats(1e-10, 1e-3)
# Not above: a parameter that grows by more than it is at each step soon is beyond comparison.
DECAY = st.floats(0, 0.1)
VALUES: dict[str, dict[str, Any]] = {
    "LARS": {"lr": RATE, "momentum": UNIT, "weight_decay": DECAY, "trust": st.floats(0, 0.1), "eps": EPS},
    "LAMB": {"lr": st.floats(0, 0.1), "beta1": UNIT, "beta2": UNIT, "eps": EPS, "weight_decay": DECAY}
    | {"upper": st.just(math.inf) | st.floats(0.1, 10)},
    "ScheduleFreeSGD": {"lr": RATE, "beta": st.floats(0.25, 1), "weight_decay": DECAY},
    "ScheduleFreeAdamW": {"lr": RATE, "beta": st.floats(0.25, 1), "beta2": UNIT, "eps": EPS, "weight_decay": DECAY},
    "Prodigy": {"lr": st.floats(0.01, 1), "beta1": UNIT, "beta2": st.floats(0.01, 0.999), "eps": EPS}
    | {"weight_decay": DECAY, "d0": st.floats(1e-6, 1e-1), "growth": st.floats(0.5, 2)},
    "Adafactor": {"lr": RATE, "decay": st.floats(0, 1), "eps": st.sampled_from([1e-30, 1e-3])}
    | {"floor": st.floats(0, 0.1), "clip": st.just(math.inf) | st.floats(0.1, 10)}
    | {"least": st.just(0.0) | st.floats(1e-9, 2), "weight_decay": DECAY},
    "Muon": {"lr": RATE, "momentum": UNIT, "weight_decay": DECAY, "steps": st.integers(1, 6), "eps": EPS}
    | {"least": st.just(0.0) | st.floats(1e-3, 10), "ahead": st.floats(0, 1), "rms": st.just(0.0) | st.floats(0.01, 1)}
    # Not far from the paper's: others can make singular values grow without end.
    | {"a": st.floats(3.4, 3.45), "b": st.floats(-4.8, -4.75), "c": st.floats(2.0, 2.04)},
    "Shampoo": {"lr": RATE, "eps": st.floats(1e-3, 1)},
    "SGLD": {"lr": RATE, "temperature": st.floats(0, 2)},
}
"""What to draw. Some hyperparameters have values of which no method makes any sense."""

# Round-off in what is compared, relative to the largest value on the way: some 2,500 roundings of 1e-16 that add up.
RTOL = dict.fromkeys(BOTH, 1e-12) | {
    # d is multiplied by what it caused, at each step, so that its roundings are too: 100 steps of them.
    "Prodigy": 1e-10,
    # Each application of the polynomial multiplies small singular values, with their roundings, by 3.4: six by 1700.
    "Muon": 1e-10,
    # Eigenvalues are known to 1e-16 of the largest: that of the first gradients is some 100, the smallest is eps.
    "Shampoo": 1e-10,
}


def _noise(seed: int, shapes: Any) -> Callable[[str, int], Any]:
    """The numbers of SGLD: of the seed, the path and the step."""

    def drawn(key: str, t: int) -> Any:
        return random.normal(shapes[key], (seed << 32) + zlib.crc32(key.encode()), t, like=np.zeros(1))

    return drawn


def test_each_has_its_hyperparameters() -> None:
    assert set(papers.METHODS) == set(VALUES), "wanted VALUES of this module for each"


@settings(max_examples=5)
@given(data=st.data())
@pytest.mark.parametrize("name", papers.METHODS)
def test_equals_the_paper(name: str, data: st.DataObject) -> None:
    """100 steps with random shapes, hyperparameters and gradients, of which some are zeros and others huge."""
    hyper = {key: data.draw(values, label=key) for key, values in VALUES[name].items()}
    sides = st.lists(st.integers(1, 5), min_size=2 if name in MATRICES else 0, max_size=3).map(tuple)
    shapes = {str(i): s for i, s in enumerate(data.draw(st.lists(sides, min_size=1, max_size=3), label="shapes"))}
    seed = data.draw(st.integers(0, 2**32 - 1), label="seed")
    rng = np.random.default_rng(seed)
    ours = {key: np.asarray(rng.normal(size=shape)) for key, shape in shapes.items()}
    theirs = {key: p.copy() for key, p in ours.items()}
    optimizer = BOTH[name](**hyper, **({"seed": seed} if name == "SGLD" else {}))
    given = {"noise": _noise(seed, shapes)} if name == "SGLD" else {}
    transcription = papers.METHODS[name](**hyper, **given)
    longest = max(float(np.max(np.abs(p))) for p in ours.values())
    for t in range(STEPS):
        grads = {key: np.asarray(rng.normal(size=shape)) * (t % 30 != 29) for key, shape in shapes.items()}
        if name == "Adafactor" and t % 30 == 29:
            grads = {key: g + 1e-3 for key, g in grads.items()}  # 0 / 0 without an eps to speak of
        optimizer.update(ours, grads)
        transcription.update(theirs, grads)
        longest = max([longest, *(float(np.max(np.abs(p))) for p in theirs.values())])
    for key, p in ours.items():
        np.testing.assert_allclose(p, theirs[key], rtol=RTOL[name], atol=RTOL[name] * longest, err_msg=f"{key} {hyper}")
    if name.startswith("ScheduleFree"):
        averages = optimizer.eval_params(ours)
        for key, x in transcription.x.items():
            np.testing.assert_allclose(averages[key], x, rtol=1e-12, atol=4e-12 * longest)


@pytest.mark.parametrize("name", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_schedule_free_with_a_warmup(name: str) -> None:
    """The weights are by the square of the rate of each step, of which the first here is 0."""
    rng = np.random.default_rng(4)

    def lr(t: int) -> float:
        return 0.3 * min(1.0, (t - 1) / 20) * (0.5 if t > 75 else 1.0)

    hyper = {"lr": lr, "beta": 0.8, "weight_decay": 0.01} | ({"beta2": 0.9, "eps": 1e-8} if "Adam" in name else {})
    optimizer, transcription = BOTH[name](**hyper), papers.METHODS[name](**hyper)
    ours = {"w": rng.normal(size=(3, 4)), "b": np.asarray(rng.normal())}
    theirs = {key: p.copy() for key, p in ours.items()}
    for _ in range(STEPS):
        grads = {key: np.asarray(rng.normal(size=p.shape)) for key, p in ours.items()}
        optimizer.update(ours, grads)
        transcription.update(theirs, grads)
    averages = optimizer.eval_params(ours)
    for key, p in ours.items():
        np.testing.assert_allclose(p, theirs[key], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(averages[key], transcription.x[key], rtol=1e-12, atol=1e-12)
        assert not np.allclose(p, averages[key], rtol=1e-3)


def test_shampoo_s_roots_are_inverse_fourth_roots() -> None:
    """The transcription's: their fourth power times the matrix is 1."""
    a = np.random.default_rng(5).normal(size=(4, 9))
    root = papers.Shampoo.power(a @ a.T)
    np.testing.assert_allclose(root @ root @ root @ root @ (a @ a.T), np.eye(4), rtol=0, atol=1e-12)


def test_muon_makes_singular_values_about_one() -> None:
    """What it is for: the step without lr has those from 0.6 to 1.3 of a random matrix, whatever its length."""
    rng = np.random.default_rng(6)
    for shape in ((6, 6), (4, 9), (9, 4), (3, 2, 2)):
        p, g = np.zeros(shape), 1e3 * rng.normal(size=shape)
        ao.Muon(lr=1.0).update(p, g)
        rows = shape[0]
        values = np.linalg.svd(-p.reshape(rows, -1), compute_uv=False) / math.sqrt(max(1, rows / (p.size / rows)))
        assert 0.5 < values.min() <= values.max() < 1.3
        assert np.sum(p * g) < 0


def test_prodigy_finds_the_distance() -> None:
    """On |p - 3| from 0 the estimate grows from 1e-6 to the order of the distance, never above it by much."""
    p, optimizer = np.zeros(4), ao.Prodigy()
    before = 0.0
    for _ in range(400):
        optimizer.update(p, np.sign(p - 3.0))
        state = optimizer.state
        assert state is not None
        assert state.scalars["d"] >= before
        before = state.scalars["d"]
    assert 0.1 < before < 10
    np.testing.assert_allclose(p, 3.0, atol=0.5)


# SGLD ------------------------------------------------------------------------------------------------------------


def test_sgld_is_the_formula_exactly() -> None:
    """Bit by bit, with the numbers of `random.normal` for this seed, path and step of the parameter."""
    rng = np.random.default_rng(7)
    p: Any = {"a": rng.normal(size=(3, 5)), "n": {"b": rng.normal(size=7)}}
    shapes = {"a": (3, 5), "n.b": (7,)}
    q = {"a": p["a"].copy(), "n.b": p["n"]["b"].copy()}
    optimizer, noise = ao.SGLD(lr=0.03, temperature=0.5, seed=9), _noise(9, shapes)
    count = dict.fromkeys(shapes, 0)
    for step in range(20):
        g = {key: rng.normal(size=shape) for key, shape in shapes.items()}
        moves = [key for key in shapes if key == "a" or step % 2]
        optimizer.update(p, {"a": g["a"], "n": {"b": g["n.b"] if step % 2 else None}})
        for key in moves:
            count[key] += 1
            q[key] = q[key] - (0.03 * g[key] - math.sqrt(2 * 0.03 * 0.5) * noise(key, count[key]))
    assert same_bits(p["a"], q["a"])
    assert same_bits(p["n"]["b"], q["n.b"])


def test_sgld_at_temperature_0_is_sgd() -> None:
    rng = np.random.default_rng(8)
    p = rng.normal(size=(4, 5))
    q, cold, sgd = p.copy(), ao.SGLD(lr=0.03, temperature=0.0), ao.SGD(lr=0.03)
    for _ in range(50):
        g = rng.normal(size=p.shape)
        cold.update(p, g)
        sgd.update(q, g)
    assert same_bits(p, q)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_sgld_samples_a_gaussian(temperature: float) -> None:
    """On c*p*p/2 it is an autoregression, p <- (1-lr*c)*p + noise, of 40,000 independent elements.

    Their mean is 0 and their variance 2*lr*T / (1 - (1-lr*c)**2), which goes to T/c with lr; four standard errors.
    """
    n, c, lr = 40_000, 2.0, 0.1
    p, optimizer = np.zeros(n), ao.SGLD(lr=lr, temperature=temperature, seed=3)
    for _ in range(100):  # what is left of the start is (1-lr*c)**100 of it, 2e-10
        optimizer.update(p, c * p)
    variance = 2 * lr * temperature / (1 - (1 - lr * c) ** 2)
    assert abs(p.mean()) < 4 * math.sqrt(variance / n)
    assert abs(p.var() - variance) < 4 * variance * math.sqrt(2 / n)
    assert abs((p**4).mean() - 3 * variance**2) < 4 * variance**2 * math.sqrt(96 / n)


def test_sgld_s_parameters_have_noise_of_their_own() -> None:
    """Of the path and of the seed: unrelated for two parameters of one shape, and for two seeds."""
    n = 10_000
    steps = []
    for seed in (0, 1):
        p = {"a": np.zeros(n), "b": np.zeros(n)}
        ao.SGLD(lr=0.5, seed=seed).update(p, {"a": np.zeros(n), "b": np.zeros(n)})
        steps += [p["a"], p["b"]]
    for i, one in enumerate(steps):
        for other in steps[:i]:
            assert abs(float(np.corrcoef(one, other)[0, 1])) < 4 / math.sqrt(n)


# Other libraries -------------------------------------------------------------------------------------------------


def _bias(t: Any, beta1: float, beta2: float) -> Any:
    return (1 - beta2**t) ** 0.5 / (1 - beta1**t)


def _schedule_free_adamw(optax: Any) -> Any:
    """Its shortcut corrects v for its start, and not the rate, as the paper does: so from its own parts."""
    rate = [lambda t: 0.02 * (1 - 0.9**t) ** 0.5] * 2
    parts = optax.chain(
        optax.scale_by_rms(decay=0.9, eps=1e-3, eps_in_sqrt=False),
        optax.add_decayed_weights(0.1),
        optax.scale_by_learning_rate(lambda count: rate[0](count + 1)),
    )
    return optax.contrib.schedule_free(parts, learning_rate=rate[1], b1=0.8)


def _adafactor(optax: Any) -> Any:
    """Its lr is taken as it is; the paper's is bounded by what falls with the root of the step."""

    def rate(count: Any) -> Any:
        import jax.numpy as jnp

        return jnp.minimum(0.1, (count + 1.0) ** -0.5)

    return optax.adafactor(rate, min_dim_size_to_factor=1, decay_rate=0.7)


# Optax's Prodigy multiplies lr by Adam's correction for the start, which is a schedule, and its eps by the next d.
OPTAX: dict[str, tuple[Callable[[Any], Any], Callable[[], Any]]] = {
    "LARS": (
        lambda optax: optax.lars(0.3, weight_decay=0.1, trust_coefficient=0.01, eps=1e-3, momentum=0.8),
        lambda: ao.chain(ao.WeightDecay(0.1), ao.TrustRatio(0.01, 1e-3), ao.Momentum(0.3, 0.8)),
    ),
    "LAMB": (
        lambda optax: optax.lamb(0.03, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.1),
        lambda: ao.LAMB(0.03, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.1),
    ),
    "ScheduleFreeSGD": (
        lambda optax: optax.contrib.schedule_free_sgd(0.3, b1=0.8, weight_decay=0.1),
        lambda: ao.ScheduleFreeSGD(0.3, 0.8, 0.1),
    ),
    "ScheduleFreeAdamW": (_schedule_free_adamw, lambda: ao.ScheduleFreeAdamW(0.02, 0.8, 0.9, 1e-3, 0.1)),
    "Prodigy": (
        lambda optax: optax.contrib.prodigy(0.7, betas=(0.8, 0.9), eps=0.0, estim_lr0=1e-3, weight_decay=0.1),
        lambda: ao.Prodigy(lambda t: 0.7 * _bias(t, 0.8, 0.9), 0.8, 0.9, 0.0, 0.1, d0=1e-3),
    ),
    "Adafactor": (_adafactor, lambda: ao.Adafactor(lr=0.1, decay=0.7)),
}


@pytest.mark.parametrize("name", OPTAX)
def test_equals_optax(name: str, need: Callable[[str], Library]) -> None:
    """Run beside ours in float64 for 100 steps: equal to 1e-12, some 2,500 roundings.

    Prodigy's d multiplies them. Optax's Adafactor has t**-decay in float32, of 6e-8; torch's, below, in float64.
    """
    jax_x64 = need("jax-x64")
    theirs_of, ours_of = OPTAX[name]
    optax = pytest.importorskip("optax", reason="optax is not installed")
    with jax_x64.context():
        optimizer, rng = ours_of(), np.random.default_rng(2)
        start = {"w": rng.normal(size=(3, 4)), "b": rng.normal(size=5)}
        ours: Any = {k: a.copy() for k, a in start.items()}
        theirs = Optax(theirs_of(optax), start)
        grads = [{k: rng.normal(size=a.shape) + 0.1 * a for k, a in start.items()} for _ in range(STEPS)]
        theirs.steps(grads)
        for g in grads:
            optimizer.update(ours, g)
        tolerance = {"Prodigy": 1e-10, "Adafactor": 2e-6}.get(name, 1e-12)
        for k, a in ours.items():
            assert not np.allclose(a, start[k], rtol=0.01)
            np.testing.assert_allclose(a, jax_x64.tonumpy(theirs.params[k]), rtol=tolerance, atol=tolerance)
        if name.startswith("ScheduleFree"):
            expected = optax.contrib.schedule_free_eval_params(theirs.state, theirs.params)
            for k, a in optimizer.eval_params(ours).items():
                np.testing.assert_allclose(a, jax_x64.tonumpy(expected[k]), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3)])
def test_muon_s_polynomial_equals_optax(shape: tuple[int, ...], need: Callable[[str], Library]) -> None:
    """One step from 0 without momentum is minus optax's matrix, times the root of rows/columns."""
    jax_x64 = need("jax-x64")
    muon = pytest.importorskip("optax.contrib._muon", reason="optax is not installed")
    g, p = np.random.default_rng(3).normal(size=shape), np.zeros(shape)
    ao.Muon(lr=1.0, momentum=0.0, eps=1e-8).update(p, g)
    with jax_x64.context():
        coefficients = jax_x64.asarray(np.array([3.4445, -4.775, 2.0315]))
        expected = jax_x64.tonumpy(muon.orthogonalize_via_newton_schulz(jax_x64.asarray(g), coefficients))
    np.testing.assert_allclose(-p, expected * math.sqrt(max(1, shape[0] / shape[1])), rtol=1e-12, atol=1e-12)


@pytest.mark.product
def test_muon_equals_torch_roughly(need: Callable[[str], Library]) -> None:
    """torch's matrices are bfloat16, of 1/256: after 100 steps the ways agree to a tenth of their length."""
    lib = need("torch")
    torch = pytest.importorskip("torch")
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    rng = np.random.default_rng(4)
    start = {"a": rng.normal(size=(6, 4)), "b": rng.normal(size=(4, 6))}
    ours = {k: a.copy() for k, a in start.items()}
    theirs = [torch.nn.Parameter(lib.asarray(a)) for a in start.values()]
    peer = torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=0.1)
    optimizer = ao.Muon(lr=0.02, momentum=0.9, weight_decay=0.1)
    for _ in range(STEPS):
        g = {k: rng.normal(size=a.shape) for k, a in start.items()}
        for p, x in zip(theirs, g.values(), strict=True):
            p.grad = lib.asarray(x)
        peer.step()
        optimizer.update(ours, g)
    for p, (k, a) in zip(theirs, ours.items(), strict=True):
        moved, way = lib.tonumpy(p) - start[k], a - start[k]
        assert papers.norm(way) > 1.0
        assert papers.norm(way - moved) < 0.1 * papers.norm(way)


def test_adafactor_equals_torch(need: Callable[[str], Library]) -> None:
    """In float64 for 100 steps, with eps too small to be a summand there and a bound here: to 1e-12."""
    lib = need("torch")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    start = {"a": rng.normal(size=(6, 4)), "b": rng.normal(size=5), "c": rng.normal(size=(2, 3, 4))}
    ours = {k: a.copy() for k, a in start.items()}
    theirs = [torch.nn.Parameter(lib.asarray(a)) for a in start.values()]
    peer = torch.optim.Adafactor(theirs, lr=0.3, beta2_decay=-0.7, eps=(1e-30, 1e-3), d=1.0, weight_decay=0.0)
    optimizer = ao.Adafactor(lr=0.3, decay=0.7, eps=1e-30, floor=1e-3, clip=1.0)
    for _ in range(STEPS):
        g = {k: 10 ** rng.uniform(-1, 1) * rng.normal(size=a.shape) for k, a in start.items()}
        for p, x in zip(theirs, g.values(), strict=True):
            p.grad = lib.asarray(x)
        peer.step()
        optimizer.update(ours, g)
    for p, a in zip(theirs, ours.values(), strict=True):
        np.testing.assert_allclose(a, lib.tonumpy(p), rtol=1e-12, atol=1e-12)
