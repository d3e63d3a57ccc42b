"""The words and numbers behave as random ones do, for keys that are fixed: within four standard errors.

A check of four standard errors fails by chance once in 16,000 keys, and these keys are the first that were tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from anyoptim.random import bernoulli, bits, normal, spawn, uniform
from tests.support import stream

N = 1 << 20
LIKE = np.zeros(0)

STREAMS: dict[str, Callable[[int], Any]] = {
    "elements": lambda n: bits((n,), 12345, 0, like=LIKE),
    "calls": lambda n: np.concatenate([bits((4,), 12345, call, like=LIKE) for call in range(n // 4)]),
    "keys": lambda n: np.concatenate([bits((4,), key, 0, like=LIKE) for key in range(n // 4)]),
    "spawned keys": lambda n: np.concatenate([bits((4,), spawn(7, i), 0, like=LIKE) for i in range(n // 4)]),
    "choices": lambda n: stream.STREAMS["choices"](0)[:n],
    "columns": lambda n: bits((n, 1), 12345, 1, (0, 3), within=(n, 64), like=LIKE)[:, 0],
}
"""Words of one draw, and of the halves that choices are made with; and the first four of each of many draws: next to
each other in call, key or row."""

LENGTH = {"elements": N, "choices": 2 * stream.BLOCK, "columns": N}
"""The others take a Python call for every four words."""


@pytest.fixture(params=list(STREAMS), scope="module")
def words(request: pytest.FixtureRequest) -> Any:
    return STREAMS[request.param](LENGTH.get(request.param, 1 << 14))


@pytest.mark.parametrize("name", ["elements", "calls", "keys"])
def test_a_battery_reads_these(name: str) -> None:
    """What `tests.support.stream` writes for one, from its second block on too, which it makes in a way of its own."""
    for at in (0, stream.BLOCK):
        drawn = stream.STREAMS[name](at)
        assert drawn.size == 4 * stream.BLOCK
        if name == "elements":
            assert (drawn == bits((4 * stream.BLOCK,), 12345, 0, 4 * at, like=LIKE)).all()
        for k in (0, 1, stream.BLOCK - 1):
            key, call = (at + k, 0) if name == "keys" else (12345, at + k)
            if name != "elements":
                assert (drawn[4 * k : 4 * k + 4] == bits((4,), key, call, like=LIKE)).all()


def _chi_square(counts: Any, expected: Any) -> Any:
    """Of counts in classes, in its standard errors."""
    freedom = counts.size - 1
    return (float(((counts - expected) ** 2 / expected).sum()) - freedom) / math.sqrt(2 * freedom)


def test_bytes_are_uniform(words: Any) -> None:
    """Each of the four of a word, by chi-square."""
    bytewise = words.astype("<u4").view(np.uint8).reshape(-1, 4)
    for k in range(4):
        assert abs(_chi_square(np.bincount(bytewise[:, k], minlength=256), words.size / 256)) < 4


def test_pairs_of_neighbours_are_uniform(words: Any) -> None:
    """In a square of 16 x 16 fields, by the upper and by the lower bits of words."""
    for four in (words >> 28, words & 15):
        pairs = four[:-1:2] * 16 + four[1::2]
        assert abs(_chi_square(np.bincount(pairs, minlength=256), pairs.size / 256)) < 4


def test_bits_are_fair_and_alone(words: Any) -> None:
    """Each of 32 is set half of the time, and with each other one agrees half of the time: 528 checks of 5 errors."""
    signs = np.stack([2 * ((words >> k) & 1).astype(np.float32) - 1 for k in range(32)], 1)  # their sums are exact, too
    error = 1 / math.sqrt(words.size)
    assert (np.abs(signs.sum(0) / words.size) < 5 * error).all()
    together = signs.T @ signs / words.size
    assert (np.abs(together[~np.eye(32, dtype=bool)]) < 5 * error).all()


def test_runs_above_and_below_the_middle(words: Any) -> None:
    """Wald and Wolfowitz: their number, given how many words are above."""
    above = words >= 1 << 31
    n1, n0 = int(above.sum()), int((~above).sum())
    runs = 1 + int((above[1:] != above[:-1]).sum())
    mean = 1 + 2 * n1 * n0 / (n1 + n0)
    variance = (mean - 1) * (mean - 2) / (n1 + n0 - 1)
    assert abs(runs - mean) < 4 * math.sqrt(variance)


def test_runs_up(words: Any) -> None:
    """How many words go up from the last: for n words (n-1)/2, with a variance of (n+1)/12."""
    ups = int((words[1:] > words[:-1]).sum())
    assert abs(ups - (words.size - 1) / 2) < 4 * math.sqrt((words.size + 1) / 12)


def test_lags(words: Any) -> None:
    """No correlation with what comes 1 to 8 words later."""
    x = (words - words.mean()) / words.std()
    for lag in range(1, 9):
        assert abs(float((x[lag:] * x[:-lag]).mean())) < 4 / math.sqrt(words.size)


DRAWS: dict[str, Callable[[int], Any]] = {
    "next key": lambda n: bits((n,), 12346, 0, like=LIKE),
    "key of one other bit": lambda n: bits((n,), 12345 ^ 1 << 63, 0, like=LIKE),
    "next call": lambda n: bits((n,), 12345, 1, like=LIKE),
    "call of one other bit": lambda n: bits((n,), 12345, 1 << 63, like=LIKE),
    "far away": lambda n: bits((n,), 12345, 0, 1 << 63, like=LIKE),
    "child": lambda n: bits((n,), spawn(12345, 0), 0, like=LIKE),
    "next child": lambda n: bits((n,), spawn(12345, 1), 0, like=LIKE),
    "grandchild": lambda n: bits((n,), spawn(spawn(12345, 0), 0), 0, like=LIKE),
}


def test_draws_are_unrelated() -> None:
    """Of neighbouring keys, calls and children, each with each: as numbers, and bit by bit."""
    drawn = [bits((N,), 12345, 0, like=LIKE), *(draw(N) for draw in DRAWS.values())]
    correlation: Any = np.corrcoef(np.stack(drawn))
    apart = ~np.eye(len(drawn), dtype=bool)
    assert (np.abs(correlation[apart]) < 4 / math.sqrt(N)).all()
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            ones = int(np.bitwise_count(a ^ b).sum())
            assert abs(ones - 16 * N) < 4 * math.sqrt(8 * N)


def test_uniform_numbers_are_uniform() -> None:
    """Mean, variance, and classes; short dtypes are lower by half of their last digit."""
    for dtype, digits in ((np.float64, 32), (np.float32, 24), (np.float16, 11)):
        x = uniform((N,), 2024, 7, like=np.zeros(0, dtype)).astype(np.float64) + 2.0**-digits / 2
        assert abs(x.mean() - 1 / 2) < 4 * math.sqrt(1 / 12 / N)
        assert abs(x.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / N)
        assert abs(_chi_square(np.bincount((x * 1024).astype(int), minlength=1024), N / 1024)) < 4


@pytest.mark.parametrize("p", [0.001, 0.3, 0.5, 0.999])
def test_bernoulli_has_its_share(p: float) -> None:
    assert abs(bernoulli(p, (N,), 2024, 8, like=LIKE).mean() - p) < 4 * math.sqrt(p * (1 - p) / N)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_bernoulli_has_no_memory(p: float) -> None:
    """Truth values 1 to 16 places apart, those that share a word (4) among them: together as often as by chance."""
    x = (bernoulli(p, (N,), 2024, 9, like=LIKE) - p) / math.sqrt(p * (1 - p))
    for lag in range(1, 17):
        assert abs(float((x[lag:] * x[:-lag]).mean())) < 4 / math.sqrt(N)


def _together(limit: int) -> int:
    """How many of the 2**32 words are below a limit, as they are and with their halves exchanged: counted by rows."""
    high = np.arange(1 << 16, dtype=np.uint64)
    found, lows, t, part = 0, high, limit >> 16, limit & 0xFFFF
    for upper in (lows[:t], lows[t : t + 1]):
        most = np.where(upper < t, 1 << 16, part)  # so many words of this upper half are below
        found += int(np.minimum(most, t).sum())  # of these, those whose lower half is below the limit's upper one
        found += int(((upper < part) & (most > t)).sum())  # and the one that equals it
    return found


def test_two_choices_of_a_word() -> None:
    """What `bernoulli` says of them, counted in whole numbers; and its count of a small case by all words."""
    rng = np.random.default_rng(0)
    ends = [0, 1, 65535, 65536, 65537, 1 << 31, (1 << 31) + 32768, 0x7FFF7FFF, 0x80008000, (1 << 32) - 1]
    low, high = round(1e-5 * 2**32), round((1 - 1e-5) * 2**32)
    limits = [
        *ends,
        *rng.integers(0, 1 << 32, 50),
        *rng.integers(low, low << 4, 50),
        *rng.integers(high - low, high, 20),
    ]
    for limit in map(int, limits):
        p, both = Fraction(limit, 1 << 32), Fraction(_together(limit), 1 << 32)
        assert both - p * p < Fraction(1, 1 << 17)
        if limit & 0xFFFF == 0:
            assert both == p * p
        if low <= limit <= high:
            assert abs(both - p * p) < p * (1 - p) / (1 << 14)
    words = np.arange(1 << 24, dtype=np.uint32)
    for limit in (3, 0x00FFFFFF, 0x00800080):
        other = words << np.uint32(16) | words >> np.uint32(16)
        assert _together(limit) == int(((words < limit) & (other < limit)).sum())


def test_normals_are_normal() -> None:
    """Their moments, tails and classes, of 2**20: those of the standard normal distribution; and unrelated."""
    x = normal((N,), 2024, 7, like=LIKE)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((x**power).mean() - moment) < 4 * math.sqrt(variance / N)
    for limit in (0.0, 1.0, 2.0, 3.0, 4.0):
        share = math.erfc(limit / math.sqrt(2)) / 2
        for tail in ((x > limit).mean(), (x < -limit).mean()):
            assert abs(tail - share) < 4 * math.sqrt(share * (1 - share) / N)
    edges = np.linspace(-4, 4, 401)
    below = np.array([math.erfc(-edge / math.sqrt(2)) / 2 for edge in edges])
    expected = N * np.diff(below, prepend=0, append=1)
    assert abs(_chi_square(np.bincount(np.searchsorted(edges, x), minlength=402), expected)) < 4
    others = [np.roll(x, 1), normal((N,), 2024, 8, like=x), normal((N,), 2025, 7, like=x)]
    for other in others:
        assert abs(float(np.corrcoef(x, other)[0, 1])) < 4 / math.sqrt(N)
        assert abs(float(np.corrcoef(x**2, other**2)[0, 1])) < 4 / math.sqrt(N)
