"""The memory's speed: what no update can be faster than, because it has to read and write these bytes."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Candidate, deviation
from benchmarks.machine import CORES
from benchmarks.methods import METHODS
from benchmarks.names import threads
from benchmarks.problem import SAMPLE, Drawn, Problem
from benchmarks.reference import Reference

__all__ = ["Limit", "candidate"]

# In place, and not by copying, because a copy also loads the memory that it is about to overwrite: three words
# of traffic that look like two. One loop for each number of slots: more slots, more streams at once.


def _stream0(g: Any, p: Any) -> None:
    for i in range(p.size):
        p[i] += g[i]


def _stream1(g: Any, p: Any, a: Any) -> None:
    for i in range(p.size):
        p[i] += g[i]
        a[i] = -a[i]


def _stream2(g: Any, p: Any, a: Any, b: Any) -> None:
    for i in range(p.size):
        p[i] += g[i]
        a[i] = -a[i]
        b[i] = -b[i]


def _stream3(g: Any, p: Any, a: Any, b: Any, c: Any) -> None:
    for i in range(p.size):
        p[i] += g[i]
        a[i] = -a[i]
        b[i] = -b[i]
        c[i] = -c[i]


def _parity(bits: Any) -> Any:
    """Of integers, because a sum of floats in order would wait for each addition."""
    parity = 0
    for i in range(bits.size):
        parity ^= bits[i]
    return parity


_compiled = numba.njit(nogil=True, error_model="numpy")
_STREAMS = [_compiled(f) for f in (_stream0, _stream1, _stream2, _stream3)]
_READ = _compiled(_parity)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CORES)


class Limit:
    """Long arrays, and how many threads take a part of them each."""

    def __init__(self, method: str, problem: Problem) -> None:
        self.measured = METHODS[method].measured
        self.stream = _STREAMS[METHODS[method].slots]
        self.written = [np.ones(problem.size, problem.dtype) for _ in range(1 + METHODS[method].slots)]
        self.threads = 1
        self.parity = self.expected_parity = 0
        self.sampled = np.linspace(0, problem.size - 1, min(problem.size, SAMPLE), dtype=np.int64)
        self.expected = {str(i): a[self.sampled] for i, a in enumerate(self.written)}

    def use(self, threads: int) -> None:
        self.threads = threads

    def take(self, drawn: Drawn) -> NDArray[Any]:
        g = np.concatenate([a.reshape(-1) for a in drawn.arrays.values()])
        p, *slots = self.expected.values()
        p += g[self.sampled]
        for s in slots:
            np.negative(s, out=s)
        if self.measured:
            self.expected_parity = int(np.bitwise_xor.reduce(_bits(g)))
        return g

    def turn(self, g: NDArray[Any]) -> None:
        if self.measured:
            self.parity = functools.reduce(operator.xor, self._each(_READ, _bits(g)))
        self._each(self.stream, g, *self.written)

    def _each(self, work: Callable[..., Any], *arrays: NDArray[Any]) -> list[Any]:
        """By each thread on its part of the arrays; the first is this one."""
        n = len(arrays[0])
        edges = [n * i // self.threads for i in range(self.threads + 1)]
        first, *others = ([a[i:j] for a in arrays] for i, j in itertools.pairwise(edges))
        futures = [_threads().submit(work, *part) for part in others]
        return [work(*first), *(f.result() for f in futures)]

    def deviation(self) -> float:
        if self.parity != self.expected_parity:
            return math.inf
        return deviation({str(i): a[self.sampled] for i, a in enumerate(self.written)}, self.expected)


def _bits(g: NDArray[Any]) -> NDArray[Any]:
    return g.view(f"i{g.itemsize}")


def candidate(name: str, method: str, problem: Problem, _: Reference) -> Candidate:
    """g read, p and the slots read and written, once each, in long arrays; before that g once more, for a norm.

    By one thread or by all, each on a part of its own. It checks itself, because what it does is nobody's step.
    """
    limit = Limit(method, problem)
    ways = {threads(n): partial(limit.use, n) for n in sorted({1, CORES})}
    return Candidate(name, limit.turn, limit.deviation, limit.take, ways)
