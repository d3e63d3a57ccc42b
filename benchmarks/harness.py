"""Candidates timed in turns within one run, and checked on the very data they were timed on."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Arrays",
    "Candidate",
    "Case",
    "Contest",
    "Outcome",
    "Timing",
    "WrongResultError",
    "checked",
    "copies",
    "deviation",
    "measure",
    "play",
    "timing",
    "turns_within",
]

Arrays = dict[str, NDArray[Any]]
Times = dict[str, dict[str, list[int]]]
"""The nanoseconds of each turn, by candidate and by the way it took."""

SETTLE = 0.005
"""Seconds before each turn, where somebody has threads. OpenMP's, of torch, go on spinning for milliseconds after their
work, on the cores that the next candidate wants."""
WARM_UP = 1
"""Turns of every sitting that are not counted: compilers and caches."""
TRIAL = 6
"""Turns of the first sitting, which tells how long a turn takes and which way is the best."""
FEWEST, MOST = 9, 500
"""Turns of the second sitting, where all candidates sit together."""
APART_TRIAL, APART, VISITS = 2, 5, 2
"""Where each sits alone: turns of the first sitting, turns of a later one, and how many of those at least."""


def copies(values: Arrays) -> Arrays:
    """The values in new NumPy arrays."""
    return {k: a.copy() for k, a in values.items()}


def _as_it_is() -> dict[str, Callable[[], object]]:
    return {"": lambda: None}


@dataclass(frozen=True)
class Candidate:
    """One way to do the work of a case."""

    name: str
    turn: Callable[[Any], object]
    """What is timed, given what `take` made."""
    deviation: Callable[[], float]
    """How far the result of all turns so far is from the reference."""
    take: Callable[[Any], Any] = copies
    """The round's values in arrays of the candidate's own library, new at every turn and seen by no one else. Before
    the clock starts: a gradient is there already when an optimizer is called."""
    ways: Mapping[str, Callable[[], object]] = field(default_factory=_as_it_is)
    """Settings, such as numbers of threads, of which the best counts. Made before the clock starts."""


@dataclass(frozen=True)
class Case:
    """Candidates for the same work on the same values."""

    candidates: Sequence[Candidate]
    draw: Callable[[np.random.Generator], Any]
    """The values of a round, for each candidate to take."""
    tolerance: float
    """The largest deviation that is no mistake."""
    follow: Callable[[Any], object] = lambda _: None
    """The reference's turn, at the end of each round and not timed."""
    settle: float = SETTLE
    """Seconds to wait before each turn."""


@dataclass(frozen=True)
class Contest:
    """Who takes part, and how to seat some of them at a case of their own."""

    names: Sequence[str]
    build: Callable[[Sequence[str]], Case]
    together: bool = True
    """Whether the memory holds all of them at once. Else they sit down one by one, in random order, several times."""


@dataclass(frozen=True)
class Timing:
    """The median and the quartiles of a candidate's turns, in milliseconds, in the best of its ways."""

    lower: float
    median: float
    upper: float
    deviation: float
    turns: int
    way: str


@dataclass(frozen=True)
class Outcome:
    """What came of a case; `ratios` are medians, the baseline's over each candidate's: above 1 is faster."""

    tolerance: float
    timings: dict[str, Timing]
    ratios: dict[str, float]


class WrongResultError(RuntimeError):
    """A candidate was timed at something else than the work."""


def measure(name: str, contest: Contest, baseline: str, seconds: float, seed: int = 0) -> Outcome:
    """Time the candidates for about so many seconds. Raises WrongResultError if one of them got it wrong."""
    rng = np.random.default_rng(seed)
    groups = [contest.names] if contest.together else [[who] for who in contest.names]
    times: Times = {who: {} for who in contest.names}
    worst: dict[str, float] = dict.fromkeys(contest.names, 0.0)
    tolerance = 0.0

    def visit(turns: int, best: Mapping[str, str]) -> float:
        """Each group sits down once. The seconds that a turn of everybody took."""
        nonlocal tolerance
        took = 0.0
        for i in rng.permutation(len(groups)):
            case = _settled(contest.build(groups[i]), best)
            play(case, WARM_UP, rng)
            began = time.perf_counter()
            for who, ways in play(case, turns, rng).items():
                for way, nanoseconds in ways.items():
                    times[who].setdefault(way, []).extend(nanoseconds)
            took += time.perf_counter() - began
            worst.update((who, max(worst[who], d)) for who, d in checked(name, case).items())
            tolerance = case.tolerance
            del case  # before another is built
            gc.collect()
        return took / turns

    # Else every collection below would look through all modules there are.
    gc.collect()
    gc.freeze()
    try:
        one_turn = visit(TRIAL if contest.together else APART_TRIAL, {})
        best = {who: min(ways, key=lambda way: statistics.median(ways[way])) for who, ways in times.items()}
        if contest.together:
            visit(turns_within(seconds, one_turn), best)
        else:
            for _ in range(max(VISITS, math.floor(seconds / one_turn / (WARM_UP + APART)))):
                visit(APART, best)
    finally:
        gc.unfreeze()
    timings = {who: timing(ways[best[who]], worst[who], best[who]) for who, ways in times.items()}
    base = timings[baseline].median
    return Outcome(tolerance, timings, {who: base / t.median for who, t in timings.items()})


def _settled(case: Case, best: Mapping[str, str]) -> Case:
    """The case with only the best way left, where that is known."""
    settled = [replace(c, ways={best[c.name]: c.ways[best[c.name]]}) if c.name in best else c for c in case.candidates]
    return replace(case, candidates=settled)


def play(case: Case, rounds: int, rng: np.random.Generator, clock: Callable[[], int] = time.perf_counter_ns) -> Times:
    """One turn a round for each candidate, in a new random order each round, and its ways one after another.

    Without the garbage collector, as in `timeit`: it would charge one candidate for what all have allocated.
    """
    times: Times = {c.name: {} for c in case.candidates}
    # The arrays of earlier turns stay alive for a while, so that new ones have addresses of their own.
    held: deque[Any] = deque(maxlen=len(case.candidates) + 1)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            values = case.draw(rng)
            for i in rng.permutation(len(case.candidates)):
                candidate = case.candidates[i]
                way = list(candidate.ways)[number % len(candidate.ways)]
                given = candidate.take(values)
                held.append(given)
                candidate.ways[way]()
                _wait(case.settle)
                began = clock()
                candidate.turn(given)
                times[candidate.name].setdefault(way, []).append(clock() - began)
            case.follow(values)
    finally:
        if collecting:
            gc.enable()
    return times


def _wait(seconds: float) -> None:
    """Let time pass without sleeping: a processor that has slept is slow at first, which no training loop is."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def turns_within(seconds: float, one_turn: float) -> int:
    """How many turns to play, where one takes `one_turn` seconds: never too few for quartiles."""
    return min(MOST, max(FEWEST, math.floor(seconds / one_turn)))


def timing(nanoseconds: Sequence[int], deviation: float, way: str = "") -> Timing:
    """The quartiles of some times."""
    lower, median, upper = (float(q) for q in np.percentile(nanoseconds, (25, 50, 75)) / 1e6)
    return Timing(lower, median, upper, deviation, len(nanoseconds), way)


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
