"""Rules that take complex elements as a whole, by `xp.modulus`: on every engine and library."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import ENGINES, LOADERS, Library

NORMAL = np.finfo(np.float64).smallest_normal


class Shrink(ao.ParameterStage):
    """Towards 0 by 1, as far as it goes: what the L1 norm of complex numbers is about."""

    @staticmethod
    def rule(xp: Any, p: Any, c: Any) -> Any:
        size = xp.modulus(p)
        return xp.where(size > 1, p - p / size, 0 * p)


class Phase(ao.ParameterStage):
    """To modulus 1, or at most 1."""

    most: ao.UnitInterval = 0.0

    @staticmethod
    def rule(xp: Any, p: Any, c: Any) -> Any:
        size = xp.modulus(p)
        return p / xp.where(size > c.most, size, 1.0)


class Root(ao.Optimizer):
    """The step by the root of a mean of squared moduli, of which there is one for each element."""

    lr: ao.Nonnegative = 0.5
    slots = ("m", "v")
    real_slots = ("v",)
    starts = {"v": 0.25}

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, m: Any, v: Any, c: Any) -> Any:
        m = 0.5 * m + 0.5 * x
        v = 0.5 * v + 0.5 * xp.squared_modulus(x)
        return c.lr * m / xp.sqrt(v), m, v


def slots(optimizer: ao.Optimizer) -> Any:
    """Those of the first stage."""
    assert optimizer.state is not None
    return optimizer.state.slots[0]


def _take(engine: Any, stage: Any, p: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    moved: np.ndarray[Any, Any] = ao.chain(ao.SGD(lr=1.0), stage, engine=engine).update(p.copy(), np.zeros_like(p))
    return moved


def test_pythagorean_triples_are_exact() -> None:
    """The shrunk 3+4j is 2.4+3.2j, and integers' moduli that are integers are right to the last bit."""
    for engine in ENGINES:
        assert _take(engine, Shrink(), np.array([3 + 4j])) == [2.4 + 3.2j]
        triples = np.array([3 + 4j, -5 + 12j, 8 - 15j, -7 - 24j, 20 + 21j, 0 - 2j, 0.5 + 0j])
        found = ao.chain(Told(), ao.SGD(lr=0.0), engine=engine)
        found.update(triples.copy(), triples)
        assert [*slots(found)["size"]] == [5, 13, 17, 25, 29, 2, 0.5]


class Told(ao.Stage):
    """Keeps the modulus of the gradient."""

    slots = ("size",)
    real_slots = ("size",)

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, size: Any, c: Any) -> Any:
        return x, xp.modulus(x)


def _moduli(engine: Any, z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found = ao.chain(Told(), ao.SGD(lr=0.0), engine=engine)
    found.update(np.zeros_like(z), z)
    sizes: np.ndarray[Any, Any] = slots(found)["size"]
    return sizes


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_modulus_over_all_exponents(dtype: str) -> None:
    """Within 2 units of roundoff of the exact root, or one of the last subnormal place; for every size of both parts.

    Each square is rounded once and their sum again, which the root halves: 1 unit; and the root is rounded: 2 in all.
    A subnormal result is rounded once more when it is scaled back. float64 is exact enough for complex64; for
    complex128 the expected value is the root of an exact sum of integers, by `math.isqrt`.
    """
    real = np.finfo(dtype).dtype
    low, high = int(np.finfo(real).minexp) - np.finfo(real).nmant, int(np.finfo(real).maxexp)
    rng = np.random.default_rng(0)
    step = 1 if dtype == "complex64" else 7
    exponents = np.array([[e, e - d] for e in range(low + 1, high, step) for d in (0, 1, 3, 11, 12, 24, 52, 400)])
    parts = np.ldexp(rng.uniform(0.5, 1, exponents.shape), exponents).astype(real) * rng.choice(
        [-1, 1], exponents.shape
    )
    z = np.ascontiguousarray(parts.astype(real)).view(dtype)[:, 0]
    unit = float(np.finfo(real).eps) / 2
    with np.errstate(all="ignore"):
        tiny = float(np.finfo(real).smallest_subnormal)
    for engine in ENGINES:
        for a, found in zip(z, _moduli(engine, z), strict=True):
            wanted = _exact(float(a.real), float(a.imag))
            assert abs(float(found) - wanted) <= 2 * unit * wanted + tiny or wanted > float(np.finfo(real).max)


def _exact(re: float, im: float) -> float:
    """The root of the sum of squares, correctly rounded to float64 but for the last bit."""
    (a, b), (c, d) = re.as_integer_ratio(), im.as_integer_ratio()
    denominator = max(b, d)  # powers of two
    square = (a * (denominator // b)) ** 2 + (c * (denominator // d)) ** 2
    shift = max(0, 130 - square.bit_length()) // 2 * 2 + 2
    try:
        return math.isqrt(square << 2 * shift) / (denominator << shift)
    except OverflowError:
        return math.inf


@pytest.mark.parametrize("library", LOADERS)
def test_on_any_library(library: str, need: Callable[[str], Library]) -> None:
    """A joint rule with a real slot, a phase and a threshold: NumPy's results, to the bit where that is promised."""
    lib = need(library)
    rng = np.random.default_rng(1)
    for dtype in [d for d in ("complex64", "complex128") if d in lib.dtypes]:
        p, g = ((rng.normal(size=(5, 7)) + 1j * rng.normal(size=(5, 7))).astype(dtype) for _ in range(2))
        results = []
        for convert, back in ((np.array, np.asarray), (lib.asarray, lib.tonumpy)):
            with lib.context():
                optimizer = ao.chain(Root(), Phase(0.9))
                params = {"z": convert(p)}
                for k in range(lib.steps(3)):
                    params = optimizer.update(params, {"z": convert(((k + 1) * g).astype(dtype))})
                kept = slots(optimizer)
                results.append([back(a) for a in (params["z"], kept["m"]["z"], kept["v"]["z"])])
        for wanted, found in zip(*results, strict=True):
            assert found.dtype == wanted.dtype
            if lib.exact or dtype in lib.reached:
                np.testing.assert_array_equal(found, wanted)
            else:
                np.testing.assert_allclose(found, wanted, rtol=float(8 * np.finfo(dtype).eps))
