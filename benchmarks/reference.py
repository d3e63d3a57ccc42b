"""What a step should have done: the method by hand in float64."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.harness import Arrays, deviation
from benchmarks.methods import METHODS
from benchmarks.problem import Drawn, Problem

__all__ = ["Reference"]


class Reference:
    """The method by hand in float64, on the elements that are checked."""

    def __init__(self, method: str, problem: Problem, by_hand: Any = None) -> None:
        self.problem = problem
        self.measured = METHODS[method].measured
        self.by_hand = by_hand or METHODS[method].by_hand()
        self.params = problem.sample(problem.start())

    def follow(self, drawn: Drawn) -> None:
        """One step. The norm is that of all elements."""
        grads = self.problem.sample(drawn.arrays)
        self.by_hand.update(self.params, grads, *([drawn.norm] if self.measured else []))

    def deviation(self, params: Arrays, average: Arrays) -> float:
        """How far parameters are off, and their averages where the method has some."""
        wanted = self.params, self.by_hand.average if self.measured else {}
        off = [deviation(self.problem.sample(a), b) for a, b in zip((params, average), wanted, strict=True)]
        return math.nan if any(map(math.isnan, off)) else max(off)
