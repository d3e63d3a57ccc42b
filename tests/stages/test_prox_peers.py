"""Proximal steps beside pyproximal's operators and solvers, and its operators in chains."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pyproximal
import pytest

import anyoptim as ao
from tests.support.libraries import Library, same_bits
from tests.support.proximal import PAIRS, PENALTIES, ROUNDING, SHAPE, Misfit, prox


@pytest.mark.parametrize("name", PAIRS)
def test_each_is_theirs(name: str) -> None:
    """In float64, of random numbers, for several learning rates and weights."""
    ours, theirs, tolerance = PAIRS[name]
    rng = np.random.default_rng(0)
    for lr, weight in [(0.1, 0.5), (1.0, 0.3), (0.7, 2.0), (3.0, 1.0)]:
        x = rng.normal(size=SHAPE)
        expected = theirs(weight).prox(x.ravel().copy(), lr).reshape(SHAPE)
        np.testing.assert_allclose(prox(ours(weight), x, lr), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["L1", "L2", "L21", "Nuclear"])
def test_each_is_theirs_for_complex_elements(name: str) -> None:
    """To round-off: theirs go by way of angles, or divide complex numbers."""
    ours, theirs, _ = PAIRS[name]
    rng = np.random.default_rng(0)
    for lr, weight in [(0.1, 0.5), (1.0, 0.3), (3.0, 1.0)]:
        z = rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE)
        expected = theirs(weight).prox(z.ravel(), lr).reshape(SHAPE)
        np.testing.assert_allclose(prox(ours(weight), z, lr), expected, rtol=0, atol=ROUNDING)


def test_elastic_net_is_their_steps_in_turn() -> None:
    """They have none, but it is the step of L1 and then that of the square, as their paper on L21 + L1 has it."""
    x = np.random.default_rng(0).normal(size=24)
    expected = pyproximal.L2(sigma=0.75).prox(pyproximal.L1(sigma=0.25).prox(x, 0.5), 0.5)
    np.testing.assert_allclose(prox(ao.prox.ElasticNet(1.0, rho=0.25), x, 0.5), expected, rtol=1e-15)


class FISTA(ao.ParameterStage):
    """Goes on beyond the proximal step, by a share of the way that it came: Beck and Teboulle, 2009, equation 4.3."""

    slots = ("last",)
    starts = {"last": "p"}
    scalars = {"theta": 1.0, "ahead": 0.0}
    evaluate = staticmethod(lambda xp, p, last, hyper: last)

    @staticmethod
    def update_scalars(step: Any, hyper: Any) -> dict[str, Any]:
        theta = (1 + ao.scalars.sqrt(1 + 4 * hyper.theta * hyper.theta)) / 2
        return {"theta": theta, "ahead": (hyper.theta - 1) / theta}

    @staticmethod
    def rule(xp: Any, p: Any, last: Any, c: Any) -> tuple[Any, Any]:
        return p + c.ahead * (p - last), p


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("name", PENALTIES)
def test_iterates_are_theirs(name: str, accelerated: bool) -> None:
    """All 300 of ISTA, and of FISTA, to the last bit: the same operations in the same order, on any engine."""
    misfit, (ours, theirs) = Misfit(), PENALTIES[name]
    found = misfit.iterates(ours(0.5), *[FISTA()] * accelerated)
    expected = misfit.theirs(theirs(0.5), "fista" if accelerated else None)
    assert len(found) == len(expected) == 300
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert misfit(found[-1]) < 0.05 * misfit(misfit.start)


def test_complex_iterates_are_theirs() -> None:
    """All 300 of FISTA, to 1e-12: each step rounds by some 1e-16, and brings what is apart no further apart."""
    misfit = Misfit("complex128")
    found, expected = misfit.iterates(ao.prox.L1(0.5), FISTA()), misfit.theirs(pyproximal.L1(0.5), "fista")
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    assert np.count_nonzero(found[-1]) < 40


def test_complex_vectors_are_handed_over() -> None:
    """As they are; of real ones the result has to be real: tests/stages/test_prox.py."""
    z = np.array([[3 + 4j], [0.3j]])
    found = prox(ao.prox.Operator(pyproximal.L1(1.0)), z)
    assert same_bits(found, pyproximal.L1(1.0).prox(z.ravel(), 1.0).reshape(2, 1))


def test_it_finds_what_is_sparse() -> None:
    """The four elements of 60 that 30 equations were made of; FISTA gets nearer to the minimum than ISTA in as many."""
    misfit = Misfit()
    g = pyproximal.L1(0.5)
    slow, fast = (misfit.iterates(ao.prox.L1(0.5), *more, steps=100)[-1] for more in ([], [FISTA()]))
    assert np.flatnonzero(np.abs(fast) > 0.5).tolist() == [0, 15, 30, 45]
    assert misfit(fast) + g(fast) < misfit(slow) + g(slow)


IMAGE = np.add.outer(np.arange(8) > 3, 0.5 * (np.arange(9) > 4)) + 0.1 * np.random.default_rng(0).normal(size=(8, 9))


def _total_variation() -> Any:
    return pyproximal.TV(dims=IMAGE.shape, sigma=0.2, niter=20)


def test_total_variation() -> None:
    """Step by step what pyproximal's own TV makes of it; the sum of misfit and penalty falls."""
    f, x, y = _total_variation(), IMAGE.copy(), IMAGE.copy()
    optimizer = ao.chain(ao.SGD(0.5), ao.prox.Operator(_total_variation()))
    for _ in range(3):
        optimizer.update(x, x - IMAGE)
        y = f.prox((y - 0.5 * (y - IMAGE)).ravel(), 0.5).reshape(y.shape)
        assert same_bits(x, y)
    assert np.sum((x - IMAGE) ** 2) / 2 + f(x.ravel()) < 0.75 * f(IMAGE.ravel())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("library", ["numpy", "strict", "torch", "jax"])
def test_their_operators_on_other_libraries(library: str, dtype: str, need: Callable[[str], Library]) -> None:
    """As NumPy arrays, through the memory of the host: the bits are NumPy's. Any order is made a vector in C order."""
    lib = need(library)
    if dtype not in lib.dtypes:
        pytest.skip(f"{library} has no {dtype}")
    x = np.asfortranarray(IMAGE.astype(dtype))
    optimizer = ao.chain(ao.SGD(0.5), ao.prox.Operator(_total_variation()))
    found = optimizer.update({"x": lib.asarray(x)}, {"x": lib.asarray(0 * x)})["x"]
    expected = _total_variation().prox(x.ravel(), 0.5).reshape(x.shape)
    assert same_bits(lib.tonumpy(found), expected.astype(dtype))


def _growing(count: int) -> float:
    return 0.1 * count


def test_chains_with_their_operators_are_copied() -> None:
    """With the operator and what it counts."""
    optimizer, x = ao.chain(ao.SGD(0.5), ao.prox.Operator(pyproximal.L1(_growing))), np.ones(3)
    optimizer.update(x, 0 * x)
    twin, y = pickle.loads(pickle.dumps(optimizer)), x.copy()  # noqa: S301
    optimizer.update(x, 0 * x)
    twin.update(y, 0 * y)
    assert same_bits(x, y)
    assert x[0] == pytest.approx(1 - 0.05 - 0.1)
