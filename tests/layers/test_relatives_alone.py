"""The properties of single relatives of Dropout, and peers that compute the same."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import Library, same_bits
from tests.support.relatives import ALPHA

FUNCTIONS = [f for f in vars(ao).values() if inspect.isfunction(f) and "key" in inspect.signature(f).parameters]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_first_call_of_a_key_from_its_beginning_on(function: Callable[..., Any]) -> None:
    """A function that is told neither `call` nor `offset` gives the first call from its beginning."""
    arrays = [np.ones((3, 8)), np.zeros((3, 8))][: 1 + ("h_new" in inspect.signature(function).parameters)]
    found, said = (np.array(function(*arrays, 0.5, 7, *more)) for more in ((), (0, 0)))
    assert same_bits(found, said)
    assert not any(same_bits(found, np.array(function(*arrays, 0.5, 7, *more))) for more in ((1, 0), (0, 8)))


def test_one_mask_for_a_sequence() -> None:
    """All steps of a sequence have one mask, backwards in any order too, and so has a layer resumed within one."""
    layer, x = ao.VariationalDropout(0.5, seed=3), np.ones((4, 16))
    sequences = []
    for _ in range(3):
        ys = [layer.forward(x) for _ in range(5)]
        assert len({y.tobytes() for y in ys}) == 1
        assert all(same_bits(layer.backward(x), ys[0]) for _ in range(5))
        restored = ao.VariationalDropout(0.5, seed=4)
        restored.load_state_dict(layer.state_dict())
        assert same_bits(restored.forward(x), ys[0])
        sequences.append(ys[0].tobytes())
        layer.new_sequence()
        assert same_bits(layer.backward(x), ys[0])  # of the last forward, as always
    assert len(set(sequences)) == 3
    assert same_bits(layer.forward(x), ao.dropout(x, 0.5, 3, 3))


def test_all_steps_at_once() -> None:
    """A `noise_shape` with 1 for time gives what `VariationalDropout` gives step by step."""
    x = np.random.default_rng(0).normal(size=(5, 4, 16))
    whole = ao.Dropout(0.5, noise_shape=(1, None, None), seed=3).forward(x)
    layer = ao.VariationalDropout(0.5, seed=3)
    assert all(same_bits(layer.forward(x[t]), whole[t]) for t in range(5))


def test_weights_for_each_sample() -> None:
    """DropConnect of repeated weights: a mask for each sample, whose gradients add up."""
    W, x = np.random.default_rng(0).normal(size=(3, 2)), np.random.default_rng(1).normal(size=(6, 1, 3))
    layer = ao.DropConnect(0.5, seed=3)
    M = layer.forward(np.broadcast_to(W, (6, 3, 2)))
    assert len({m.tobytes() for m in M}) > 1
    dy = np.ones((6, 1, 2))
    dW = layer.backward(np.swapaxes(x, 1, 2) @ dy).sum(0)
    h = 1e-6
    for index in np.ndindex(3, 2):
        moved = W.copy()
        moved[index] += h
        more = (x @ layer.forward(np.broadcast_to(moved, (6, 3, 2)), call=0)).sum()
        assert abs((more - (x @ M).sum()) / h - dW[index]) < 1e-8


BAD_SHAPES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: ao.dropout(np.ones((2, 3)), 0.5, 0, noise_shape=(2,)),
        ValueError,
        r"noise_shape is \(2,\) for an x of shape \(2, 3\); wanted 1 or None or its length for each axis",
    ),
    (lambda: ao.Dropout(noise_shape=(2, 2)).forward(np.ones((2, 3))), ValueError, r"noise_shape is \(2, 2\)"),
    (
        lambda: ao.dropout(np.ones((2, 3)), 0.5, 0, 0, 4, noise_shape=(None, 1)),
        ValueError,
        r"offset is 4; wanted a multiple of 3, the elements of x\[0\], or the shape of the whole as within=",
    ),
    (
        lambda: ao.dropout(np.ones((2, 3)), 0.5, 0, 0, 3, within=(4, 3), noise_shape=(None, 1)),
        ValueError,
        "wanted an entry for each axis",
    ),
    (lambda: ao.SpatialDropout().forward(np.ones(3)), ValueError, "axis is 1 for an x of 1 axes; wanted that of the"),
    (lambda: ao.SpatialDropout(axis=0).forward(np.ones((3, 2))), ValueError, "axis is 0 for an x of 2 axes"),
    (lambda: ao.feature_alpha_dropout(np.ones((3, 2)), 0.5, 0, axis=-2), ValueError, "axis is -2 for an x of 2"),
    (lambda: ao.AlphaDropout().forward(np.ones(2, complex)), TypeError, "x has dtype complex128; wanted a real one"),
    (lambda: ao.GaussianDropout(1.0), ValueError, "dropout_ratio is 1.0; wanted at least 0 and below 1"),
    (lambda: ao.gaussian_dropout(np.ones(2), 1.0, 0), ValueError, "ratio is 1.0; wanted at least 0 and below 1"),
    (lambda: ao.Zoneout(1.5), ValueError, "dropout_ratio is 1.5; wanted from 0 to 1"),
    (
        lambda: ao.zoneout(np.ones(2), np.ones(3), 0.5, 0),
        ValueError,
        r"h_prev has shape \(2,\) but h_new has shape \(3,\)",
    ),
    (
        lambda: ao.zoneout(np.ones(2), np.ones(2, np.float32), 0.5, 0),
        TypeError,
        "h_prev has dtype float64 but h_new has dtype float32; wanted one",
    ),
    (lambda: ao.zoneout(1.0, np.ones(2), 0.5, 0), TypeError, "h_prev is a float of numpy but h_new is a ndarray"),
    (lambda: ao.zoneout(np.ones(2, int), np.ones(2), 0.5, 0), TypeError, "h_prev has dtype int64; wanted one of"),
    (lambda: ao.Dropout().forward(np.ones(2), call=-1), ValueError, "call is -1; wanted at least 0"),
    (lambda: ao.Dropout().backward(np.ones(2), call=0.5), TypeError, "call is 0.5; wanted an integer"),
    (lambda: ao.Dropout().sample(np.ones(2), None), TypeError, "call is None; wanted an integer"),
]


@pytest.mark.parametrize(("make", "error", "says"), BAD_SHAPES)
def test_refusals(make: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()


def test_a_refused_forward_counts_nothing() -> None:
    layer = ao.SpatialDropout(seed=1)
    before = layer.state_dict()
    with pytest.raises(ValueError, match="axis"):
        layer.forward(np.ones(3))
    assert layer.state_dict() == before
    assert layer.calls == 0


def test_infinities_and_ends() -> None:
    """Zoneout takes one of two as it is, be the other NaN; alpha dropout of all is 0, as in torch."""
    h = ao.zoneout(np.full(50, np.nan), np.ones(50), 0.5, 1)
    assert set(h[~np.isnan(h)].tolist()) == {1.0}
    assert 0 < np.isnan(h).sum() < 50
    assert ao.alpha_dropout(np.ones(5), 1.0, 0).tolist() == [0] * 5
    assert ao.alpha_dropout_gradient(np.ones(5), 1.0, 0).tolist() == [0] * 5
    for function in (ao.alpha_dropout, ao.gaussian_dropout):
        assert same_bits(function(np.arange(5.0), 0.0, 0), np.arange(5.0))
    for ratio, expected in ((0.0, 2.0), (1.0, 1.0)):
        assert ao.zoneout(np.ones(5), np.full(5, 2.0), ratio, 0).tolist() == [expected] * 5


def test_floats_are_inputs_too() -> None:
    for found in (
        ao.Zoneout(0.5, seed=1).forward(1.0, 2.0),
        ao.Zoneout(0.5, seed=1).forward(1.0, 2.0, False),
        ao.GaussianDropout(seed=1).forward(1.0),
        ao.AlphaDropout(seed=1).forward(1.0),
    ):
        assert type(found) is float
    assert ao.Zoneout(0.25).forward(1.0, 2.0, False) == 1.75


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    """Mean 0 and variance 1 stay for any ratio, within four standard errors, by the fourth moment of the output."""
    n = 1 << 18
    x = ao.random.normal((n,), 1, 1, like=np.zeros(0))
    for ratio in (0.05, 0.3, 0.6, 0.9):
        y = ao.alpha_dropout(x, ratio, 5)
        assert abs(y.mean()) < 4 / math.sqrt(n)
        assert abs((y * y).mean() - 1) < 4 * math.sqrt(((y**4).mean() - 1) / n)


def test_noise_of_other_elements_is_independent() -> None:
    """Of Gaussian dropout: no two of a million numbers share what they share by chance alone."""
    z = ao.gaussian_dropout(np.ones(1 << 20), 0.5, 3) - 1
    assert abs(float((z[1:] * z[:-1]).mean())) < 4 / 2**10
    assert np.unique(z).size > (1 << 20) * (1 - 2**-10)


# Samples at inference ---------------------------------------------------------------------------------------------


def test_samples_leave_training_alone(lib: Library) -> None:
    """Samples between a forward and its backward change nothing; each call has its own, and the same one twice."""
    layer, other = ao.Dropout(0.5, seed=1), ao.Dropout(0.5, seed=1)
    x = lib.array(np.ones(64))
    n = 2 if lib.slow else 6
    for _ in range(1 if lib.slow else 2):
        y = lib.tonumpy(layer.forward(x))
        samples = [lib.tonumpy(layer.sample(x, call)).tolist() for call in range(n)]
        assert samples == [lib.tonumpy(layer.sample(x, call)).tolist() for call in range(n)]
        assert len({tuple(s) for s in samples}) == n
        assert y.tolist() not in samples
        assert y.tolist() == lib.tonumpy(other.forward(x)).tolist()
        assert lib.tonumpy(layer.backward(x)).tolist() == y.tolist()
    assert layer.state_dict() == other.state_dict()


def test_samples_average_to_the_rest() -> None:
    """Each of 50 elements is within four standard errors of the mean, which four in 63,000 miss by chance."""
    layer, x, n = ao.Dropout(0.3, seed=1), np.linspace(1, 2, 50), 4000
    mean = np.mean([layer.sample(x, call) for call in range(n)], axis=0)
    assert (np.abs(mean - layer.forward(x, False)) < 4 * x * math.sqrt(0.3 * 0.7 / n)).all()


def test_capture_refuses_named_calls_too(need: Callable[[str], Library], monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph's replays would draw the same mask for ever."""
    need("cuda-shim")
    from tests.support import shim

    monkeypatch.setattr(shim.Library, "capturing", lambda self, number: True)
    x = shim.asarray(np.ones(3))
    for call in (
        lambda: ao.Dropout().forward(x),
        lambda: ao.Dropout().forward(x, call=1),
        lambda: ao.Dropout().sample(x, 1),
        lambda: ao.Zoneout().forward(x, x, call=1),
        lambda: ao.Zoneout().backward(x, call=1),
    ):
        with pytest.raises(RuntimeError, match="captured in a CUDA graph"):
            call()


# Engines ----------------------------------------------------------------------------------------------------------


def test_shards_that_are_runs_take_the_kernel(need: Callable[[str], Library]) -> None:
    """One pass takes them whatever way their place is said; other parts, and shared masks, go the long way."""
    need("cuda-shim")
    from tests.support import shim

    x = np.arange(60, dtype=np.float32).reshape(4, 5, 3)
    for index, offset, launches in (
        (np.s_[1:3], (1, 0, 0), 1),
        (np.s_[2:3, 1:4], (2, 1, 0), 1),
        (np.s_[:, 1:4], (0, 1, 0), 0),
    ):
        before = len(shim.machine().launches)
        y = ao.dropout(shim.asarray(x[index]), 0.5, 3, 1, offset, within=x.shape)
        assert same_bits(shim.tonumpy(y), ao.dropout(x, 0.5, 3, 1)[index])
        assert len(shim.machine().launches) - before == launches
    before = len(shim.machine().launches)
    ao.AlphaDropout(seed=3).backward(shim.asarray(x), call=0)
    assert [name for name, _ in shim.machine().launches[before:]] == ["dropout"]


# Peers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feature", [False, True])
def test_alpha_dropout_is_torchs(need: Callable[[str], Library], feature: bool) -> None:
    """Its gradient tells what it drew: for that, the same values, to a few roundings of numbers up to 4."""
    need("torch")
    import torch

    torch.manual_seed(0)
    x = torch.randn(200, 8, 3, dtype=torch.float64, requires_grad=True)
    given = x.detach().numpy()
    for ratio in (0.2, 0.7):
        function = torch.nn.functional.feature_alpha_dropout if feature else torch.nn.functional.alpha_dropout
        theirs = function(x, ratio, training=True)
        (gradient,) = torch.autograd.grad(theirs.sum(), x)
        mask = (gradient != 0).numpy()
        noise = (None, None, 1) if feature else None
        ours = ao.alpha_dropout(given, ratio, 3, noise_shape=noise)
        slope = ao.alpha_dropout_gradient(np.ones_like(given), ratio, 3, noise_shape=noise)
        kept, dropped = slope > 0, float(ours[slope == 0][0])
        a, b = np.polyfit(given[kept], ours[kept], 1)
        np.testing.assert_allclose(theirs.detach().numpy(), np.where(mask, a * given + b, dropped), rtol=0, atol=1e-14)
        np.testing.assert_allclose(gradient.numpy()[mask], slope[kept].max(), rtol=1e-14)
        assert abs(float(mask.mean()) - kept.mean()) < 0.1
        if feature:
            assert (mask == mask[:, :, :1]).all()


def test_gaussian_dropout_is_kerass(need: Callable[[str], Library]) -> None:
    """Its numbers are its own: for ones, the mean and the deviation of what comes are ours."""
    keras = pytest.importorskip("keras", reason="keras is not installed")
    n, ratio = 1 << 18, 0.3
    theirs = np.asarray(keras.layers.GaussianDropout(ratio, seed=1)(np.ones(n, np.float32), training=True), np.float64)
    ours = ao.GaussianDropout(ratio, seed=1).forward(np.ones(n))
    deviation = math.sqrt(ratio / (1 - ratio))
    for y in (theirs, ours):
        assert abs(y.mean() - 1) < 4 * deviation / math.sqrt(n)
        assert abs(y.std() / deviation - 1) < 4 / math.sqrt(2 * n)


def test_alpha_is_selus() -> None:
    """Minus what SELU gives for minus infinity, with its published constants."""
    assert ao.alpha_dropout(np.zeros(1), 0.5, 0).shape == (1,)
    from anyoptim.layers import _alpha

    assert _alpha._ALPHA == ALPHA
