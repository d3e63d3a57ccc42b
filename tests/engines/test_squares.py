"""Sums of squares of float32 by inner products of slices: the bits of the definition in exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.reference.norms import norm
from tests.support.internals import reduction
from tests.support.internals import reduction_numpy as of_numpy


def _drawn(rng: np.random.Generator, kind: int) -> np.ndarray[Any, Any]:
    """Magnitudes of float32, of which few, many or all are small beside the largest."""
    n = int(rng.integers(1, 500))
    scale = 2.0 ** float(rng.integers(-140, 125) if rng.random() < 0.5 else 125)
    wide: list[Callable[[], Any]] = [
        lambda: rng.standard_normal(n) * scale,
        lambda: rng.standard_normal(n) * np.exp2(rng.uniform(-45, 0, n)) * scale,
        lambda: np.where(rng.random(n) < 0.9, 0.0, rng.standard_normal(n)),
        lambda: np.where(rng.random(n) < 0.2, 2.0**-25, 1.0) * rng.standard_normal(n),
        # Squares halfway between two multiples of the last digit's unit.
        lambda: np.where(rng.random(n) < 0.05, (2 * rng.integers(0, 9, n) + 1) * 2.0**-41, rng.uniform(0.5, 1, n)),
        lambda: np.full(n, 2.0 ** float(rng.integers(-149, 128))),
        lambda: np.concatenate([rng.standard_normal(n), [2.0 ** float(rng.integers(-10, 60))]]),
        lambda: rng.integers(0, 0x7F800000, n).astype(np.int32).view(np.float32),
        lambda: np.full(3 << 13, np.nextafter(np.float32(scale), np.float32(0))),  # the largest sums of integers
    ]
    return np.asarray(np.abs(wide[kind % len(wide)]()), np.float32)


def _exact(values: list[float], code: int) -> int:
    """The sum under a code, in units of its last digit: each square, which float64 holds, rounded by itself."""
    to = Fraction(2) ** (40 - 20 * (code + reduction.FIRST))
    distinct = {v: round((Fraction(v) * to) ** 2) for v in set(values)}  # ties to even
    return sum(distinct[v] for v in values)


@pytest.mark.telling
def test_squares_of_the_definition() -> None:
    """Over the whole range, under the code of the largest, a larger one, and one that is too small."""
    rng = np.random.default_rng(0)
    for number in range(144):
        x = _drawn(rng, number)
        largest, length = float(x.max()), -(-x.size // of_numpy.WIDTH) * of_numpy.WIDTH
        own = of_numpy.code_of(largest)
        assert own == int(reduction.codes(np.array([largest]))[0])
        code = max(own + int(rng.choice([0, 0, 0, 1, 2, 3, -1])), 1)
        given = np.zeros(length, np.float32)
        given[: x.size] = x
        rooms = np.empty(length, np.float32), np.empty(length, bool), np.empty(length), np.empty(length)
        found = of_numpy.squares(code, given, *rooms, x.size)
        assert found == (largest, _exact(x.tolist(), code) if code >= own else 0), (number, x)
        row = of_numpy.row_of(code, found[1])
        if code == own and number % 4 == 0:
            assert reduction.norm(np, [row]) == norm(x.tolist())


class _Told(ao.Stage):
    """Notes the norm of all gradients."""

    reductions = {"norm": ao.Norm(lambda xp, p, x: x)}
    answers: list[float] = []
    rule = staticmethod(lambda xp, p, x, c: x)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        _Told.answers.append(float(hyper.norm))
        return {}


def _replayed(shapes: list[tuple[int, ...]], draws: list[list[np.ndarray[Any, Any]]]) -> None:
    """Steps of which all but the first are replays: the norm of each is that of the definition."""
    optimizer = ao.chain(_Told(), ao.SGD(lr=0.0), engine="blocked")
    params = [np.zeros(s, draws[0][0].dtype) for s in shapes]
    for grads in [draws[0], *draws]:
        _Told.answers.clear()
        optimizer.update(params, grads)
        (found,) = _Told.answers
        expected = norm(np.concatenate([g.ravel().view(g.real.dtype) for g in grads]).tolist())
        assert found == expected or (math.isnan(found) and math.isnan(expected))


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64"])
def test_replays_of_many_arrays(dtype: str, small_pieces: None) -> None:
    """Of arrays of any length, whose tiles threads share out; what is guessed of the next step is wrong."""
    rng, shapes = np.random.default_rng(1), [(3, 5), (2500,), (), (7, 300), (0, 2), (1024,)]
    draws = []
    for scale in (1.0, 1e-9, 1e12, 0.0, math.inf, 0.4, math.nan, 0.6):
        grads = [np.asarray(rng.standard_normal(s) * 10.0 ** rng.uniform(-9, 0), dtype) for s in shapes]
        if scale * 0 == 0:
            grads = [np.asarray(g * scale, dtype) for g in grads]
        else:
            grads[3][1, 2] = scale
        draws.append(grads)
    draws += [[np.array(g, order="F") for g in draws[0]] for _ in range(2)]
    _replayed(shapes, draws)


@pytest.mark.parametrize(("dtype", "of_gradients"), [("float16", "float16"), ("float32", "float64")])
def test_replays_of_other_dtypes(dtype: str, of_gradients: str) -> None:
    """What is squared is what the arithmetic takes, float32."""
    rng, shape = np.random.default_rng(2), (40, 50)
    draws = [[np.asarray(rng.standard_normal(shape), of_gradients)] for _ in range(3)]
    optimizer, p = ao.chain(_Told(), ao.SGD(lr=0.0), engine="blocked"), np.zeros(shape, dtype)
    for (g,) in draws:
        _Told.answers.clear()
        optimizer.update([p], [g])
        assert _Told.answers == [norm(g.astype(np.float32).ravel().tolist())]
