"""Candidates timed in turns within one run, and checked on the very data they were timed on."""

from __future__ import annotations

import gc
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Arrays",
    "Candidate",
    "Case",
    "Outcome",
    "Timing",
    "WrongResultError",
    "checked",
    "deviation",
    "measure",
    "play",
    "rounds_within",
    "timing",
]

Arrays = dict[str, NDArray[Any]]

WARM_UP = 3
FEWEST, MOST = 15, 500


@dataclass(frozen=True)
class Candidate:
    """One way to do the work of a case."""

    name: str
    turn: Callable[[Arrays], object]
    """What is timed, given the round's arrays. No one else sees these arrays, and they are new at every turn."""
    deviation: Callable[[], float]
    """How far the result of all turns so far is from the reference."""


@dataclass(frozen=True)
class Case:
    """Candidates for the same work on the same values."""

    candidates: Sequence[Candidate]
    draw: Callable[[np.random.Generator], Arrays]
    """The values of a round, of which each candidate gets a copy."""
    tolerance: float
    """The largest deviation that is no mistake."""
    follow: Callable[[Arrays], object] = lambda _: None
    """The reference's turn, at the end of each round and not timed."""


@dataclass(frozen=True)
class Timing:
    """The median and the quartiles of a candidate's turns, in milliseconds."""

    lower: float
    median: float
    upper: float
    deviation: float


@dataclass(frozen=True)
class Outcome:
    """What came of a case; `ratios` are medians, the baseline's over each candidate's: above 1 is faster."""

    rounds: int
    tolerance: float
    timings: dict[str, Timing]
    ratios: dict[str, float]


class WrongResultError(RuntimeError):
    """A candidate was timed at something else than the work."""


def measure(name: str, case: Case, baseline: str, seconds: float, seed: int = 0) -> Outcome:
    """Time the candidates for about so many seconds. Raises WrongResultError if one of them got it wrong."""
    rng = np.random.default_rng(seed)
    began = time.perf_counter()
    play(case, WARM_UP, rng)
    rounds = rounds_within(seconds, (time.perf_counter() - began) / WARM_UP)
    times = play(case, rounds, rng)
    deviations = checked(name, case)
    timings = {c.name: timing(times[c.name], deviations[c.name]) for c in case.candidates}
    base = timings[baseline].median
    return Outcome(rounds, case.tolerance, timings, {k: base / t.median for k, t in timings.items()})


def play(
    case: Case, rounds: int, rng: np.random.Generator, clock: Callable[[], int] = time.perf_counter_ns
) -> dict[str, list[int]]:
    """The nanoseconds of each candidate's turns: one a round, in a new random order each round.

    Without the garbage collector, as in `timeit`: it would charge one candidate for what all have allocated.
    """
    times: dict[str, list[int]] = {c.name: [] for c in case.candidates}
    # The arrays of earlier turns stay alive for a while, so that new ones have addresses of their own.
    held: deque[Arrays] = deque(maxlen=len(case.candidates) + 1)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            values = case.draw(rng)
            for i in rng.permutation(len(case.candidates)):
                candidate = case.candidates[i]
                given = {k: a.copy() for k, a in values.items()}
                held.append(given)
                began = clock()
                candidate.turn(given)
                times[candidate.name].append(clock() - began)
            case.follow(values)
    finally:
        if collecting:
            gc.enable()
    return times


def rounds_within(seconds: float, one_round: float) -> int:
    """How many rounds to play, where one takes `one_round` seconds: never too few for quartiles."""
    return min(MOST, max(FEWEST, math.floor(seconds / one_round)))


def timing(nanoseconds: Sequence[int], deviation: float) -> Timing:
    """The quartiles of some times."""
    lower, median, upper = (float(q) for q in np.percentile(nanoseconds, (25, 50, 75)) / 1e6)
    return Timing(lower, median, upper, deviation)


def checked(name: str, case: Case) -> dict[str, float]:
    """The deviation of each candidate. Raises WrongResultError where one is above the tolerance, or NaN."""
    found = {c.name: float(c.deviation()) for c in case.candidates}
    wrong = {who: d for who, d in found.items() if not d <= case.tolerance}
    if wrong:
        listed = ", ".join(f"{who} by {d:.3g}" for who, d in wrong.items())
        raise WrongResultError(f"{name}: off the reference are {listed}; the tolerance is {case.tolerance:.3g}")
    return found


def deviation(result: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> float:
    """The largest |result - expected| / max(1, |expected|), in float64; infinite where keys or shapes differ."""
    if {k: a.shape for k, a in result.items()} != {k: a.shape for k, a in expected.items()}:
        return math.inf
    worst = [0.0]
    for k, wanted in expected.items():
        off = np.abs(np.subtract(result[k], wanted, dtype=np.float64))
        worst.append(float(np.max(off / np.maximum(1, np.abs(wanted)), initial=0)))
    return float(np.max(worst))  # of NumPy, whose maximum of a NaN and anything else is NaN
