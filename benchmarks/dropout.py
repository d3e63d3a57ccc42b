"""Dropout by anyoptim and by `np.random.rand`, and the limit of both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

import anyoptim as ao
from benchmarks.harness import Arrays, Candidate, Case, Contest, deviation
from benchmarks.names import ANYOPTIM, BASELINE, LIMIT
from tests import textbook

__all__ = ["case", "cases", "copying"]

SHAPES: Mapping[str, tuple[int, ...]] = {"batch of 32 x 100": (32, 100), "one array of 1M": (1_000_000,)}


def cases() -> dict[str, Contest]:
    """Every case by name."""
    names = BASELINE, ANYOPTIM, LIMIT
    return {f"Dropout, {size}": Contest(names, partial(case, shape)) for size, shape in SHAPES.items()}


def case(shape: tuple[int, ...], who: Sequence[str]) -> Case:
    """Forward and backward in training. Each candidate draws its own masks, so each is checked by itself."""

    def draw(rng: np.random.Generator) -> Arrays:
        # Away from 0, so that a zero in the result is a dropped element.
        return {k: 1 + rng.random(shape, dtype=np.float32) for k in ("x", "dout")}

    candidates = (_layer(BASELINE, textbook.Dropout()), _layer(ANYOPTIM, ao.Dropout(seed=0)), copying(shape))
    return Case([c for c in candidates if c.name in who], draw, tolerance=0)


class _Layer(Protocol):
    dropout_ratio: float

    def forward(self, x: Any, training: bool = True) -> Any: ...

    def backward(self, dout: Any) -> Any: ...


def _layer(name: str, layer: _Layer) -> Candidate:
    last: Arrays = {}

    def turn(given: Arrays) -> None:
        y = layer.forward(given["x"], True)
        last.update(given, y=y, dx=layer.backward(given["dout"]))

    def off() -> float:
        kept = last["y"] != 0
        drop = layer.dropout_ratio
        if abs(kept.mean() - (1 - drop)) > 6 * math.sqrt(drop * (1 - drop) / kept.size):
            return math.inf  # six standard deviations: not by chance
        expected = {"y": last["x"].astype(np.float64) * kept, "dx": last["dout"].astype(np.float64) * kept}
        return deviation({k: last[k] for k in expected}, expected)

    return Candidate(name, turn, off)


def copying(shape: tuple[int, ...]) -> Candidate:
    """The limit of forward and backward, by one thread: x copied to y and dout to dx, into memory that is at hand."""
    y, dx = np.zeros((2, *shape), dtype=np.float32)
    last: Arrays = {}

    def turn(given: Arrays) -> None:
        np.copyto(y, given["x"])
        np.copyto(dx, given["dout"])
        last.update(given)

    return Candidate(LIMIT, turn, lambda: deviation({"x": y, "dout": dx}, last))
