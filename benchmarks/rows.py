"""What an update of some rows costs, by `at`, beside indexing by hand: of rows drawn alike, and of words in a text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import anyoptim as ao
from benchmarks.harness import Candidate, Case, Contest, deviation, measure
from benchmarks.methods import NUMBERS
from benchmarks.names import BASELINE
from benchmarks.report import Sheet
from benchmarks.updates import TOLERANCES

__all__ = ["rows"]

ADAM = NUMBERS["Adam"]
SHAPE = 100_000, 64
ROWS = 1000
ENGINES: tuple[ao.EngineName, ...] = ("compiled", "blocked")
CHECKED = 2
"""The elements of each row that are checked: each is on its own."""

Array = NDArray[Any]


class Draw(NamedTuple):
    """How rows are drawn, and how many steps each has taken before."""

    weights: Array
    counts: Array


def draws(n: int) -> Mapping[str, Draw]:
    """All rows alike, in a new state and after 100 steps of each; and by Zipf's law, as words are."""
    alike, ranks = np.full(n, 1 / n), np.arange(1, n + 1)
    zipf = (1 / ranks) / np.sum(1 / ranks)
    return {
        "drawn alike, at first": Draw(alike, np.zeros(n, np.int64)),
        "drawn alike, after 100 steps": Draw(alike, np.random.default_rng(0).poisson(100, n)),
        "words by Zipf's law": Draw(zipf, 10 * n // ranks),
    }


class Given(NamedTuple):
    """The rows of a round and their gradients."""

    rows: Array
    grads: Array


class _ByHand:
    """Adam by hand, with the rows indexed, each with a count of its own."""

    def __init__(self, p: Array, counts: Array) -> None:
        self.p, self.t, self.m, self.v = p, counts.copy(), np.zeros_like(p), np.zeros_like(p)

    def update(self, rows: Array, g: Array) -> None:
        """Five lines of Adam between reading and writing."""
        lr, b1, b2, eps = ADAM["lr"], ADAM["beta1"], ADAM["beta2"], ADAM["eps"]
        t, p, m, v = self.t[rows] + 1, self.p[rows], self.m[rows], self.v[rows]
        rate = (lr * np.sqrt(1 - b2**t) / (1 - b1**t)).astype(p.dtype)[:, None]
        m += (1 - b1) * (g - m)
        v += (1 - b2) * (g * g - v)
        p -= rate * m / (np.sqrt(v) + eps)
        self.t[rows], self.p[rows], self.m[rows], self.v[rows] = t, p, m, v


def rows(seconds: float, shape: tuple[int, int] = SHAPE, number: int = ROWS) -> Sheet:
    """The time of a step of Adam on some rows of a matrix, by hand and by `at`."""
    table: list[list[str | float]] = []
    names = [BASELINE, *ENGINES]
    for name, draw in draws(shape[0]).items():
        contest = Contest(names, partial(_case, draw, shape, number))
        timings = measure(f"rows, {name}", contest, BASELINE, seconds).timings
        medians = [timings[who].median for who in names]
        table.append([name, *medians, *(median / medians[0] for median in medians[1:])])
    return Sheet(
        [f"ms a step of Adam on {number:,} rows", "by hand", *ENGINES, *(f"{who}, of that" for who in ENGINES)],
        table,
        f"Of {shape[0]:,} rows of {shape[1]} float32 elements, drawn anew at each step, each with a count of its own: "
        "by hand they are read by `p[rows]`, updated in five lines, and written back. Medians.",
    )


def _case(draw: Draw, shape: tuple[int, int], number: int, names: list[str]) -> Case:
    start = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    reference = _ByHand(start[:, :CHECKED].astype(np.float64), draw.counts)

    def drawn(rng: np.random.Generator) -> Given:
        some = rng.choice(shape[0], number, replace=False, p=draw.weights)
        g = rng.standard_normal((number, shape[1]), dtype=np.float32)
        return Given(some, g + np.copysign(np.float32(0.01), g))

    def follow(given: Given) -> None:
        reference.update(given.rows, given.grads[:, :CHECKED].astype(np.float64))

    candidates = [_candidate(name, start.copy(), draw.counts, reference) for name in names]
    return Case(candidates, drawn, TOLERANCES["float32"], follow)


def _candidate(name: Any, p: Array, counts: Array, reference: _ByHand) -> Candidate:
    if name == BASELINE:
        turn = _ByHand(p, counts).update
    else:
        optimizer = ao.Adam(**ADAM, engine=name)
        optimizer.compile(p)
        state = optimizer.state_dict(optimizer.init(p))
        optimizer.load_state_dict({**state, "step": 1, "t": {"": counts}}, p)

        def turn(rows: Array, g: Array) -> None:
            optimizer.update(p, g, at=rows)

    def off() -> float:
        return deviation({"p": p[:, :CHECKED]}, {"p": reference.p})

    return Candidate(name, lambda given: turn(*given), off, lambda given: Given(*(a.copy() for a in given)))
