"""anyoptim against the five lines of NumPy that everybody writes by hand, and against the memory's speed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np

import anyoptim as ao
from benchmarks.harness import Arrays, Candidate, Case, deviation
from tests import textbook

__all__ = ["ANYOPTIM", "BASELINE", "LIMIT", "cases", "dropout_case", "optimizer_case"]

BASELINE, ANYOPTIM, LIMIT = "five lines", "anyoptim", "streaming limit"

Shapes = Mapping[str, tuple[int, ...]]

METHODS: Mapping[str, int] = {"SGD": 0, "Momentum": 1, "AdaGrad": 1, "Adam": 2}
"""Each method with the number of its slots."""

PARAMETERS: Mapping[str, Shapes] = {
    "784-50-10 network": {"W1": (784, 50), "b1": (50,), "W2": (50, 10), "b2": (10,)},
    "1000 arrays of 1000": {f"w{i}": (1000,) for i in range(1000)},
    "one array of 1M": {"w": (1_000_000,)},
    "one array of 16M": {"w": (16_000_000,)},
}

DROPPED: Shapes = {"batch of 32 x 100": (32, 100), "one array of 1M": (1_000_000,)}

TOLERANCES = {"float32": 2e-5, "float64": 0}
"""Of parameters after all turns. Rounding to float32 adds up over hundreds of steps; in float64 the bits agree."""


def cases() -> dict[str, Callable[[], Case]]:
    """Every case by name, in float32 where that says nothing. A case and its arrays are made when it is called for."""
    found: dict[str, Callable[[], Case]] = {}
    for method in METHODS:
        for dtype in ("float32", "float64") if method == "Adam" else ("float32",):
            for size, shapes in PARAMETERS.items():
                named = method if dtype == "float32" else f"{method} {dtype}"
                found[f"{named}, {size}"] = partial(optimizer_case, method, dtype, shapes)
    for size, shape in DROPPED.items():
        found[f"Dropout, {size}"] = partial(dropout_case, shape)
    return found


def optimizer_case(method: str, dtype: str, shapes: Shapes) -> Case:
    """One step of a method. The reference is the method by hand in float64."""
    start = _normal(np.random.default_rng(1), shapes, dtype)
    reference = {k: p.astype(np.float64) for k, p in start.items()}
    follow = getattr(textbook, method)().update

    def candidate(name: str, update: Callable[[Arrays, Arrays], object]) -> Candidate:
        params = {k: p.copy() for k, p in start.items()}
        return Candidate(name, partial(update, params), lambda: deviation(params, reference))

    candidates = (
        candidate(BASELINE, getattr(textbook, method)().update),
        candidate(ANYOPTIM, getattr(ao, method)().update),
        _stream(sum(map(math.prod, shapes.values())), dtype, METHODS[method]),
    )
    return Case(
        candidates, lambda rng: _normal(rng, shapes, dtype), TOLERANCES[dtype], lambda grads: follow(reference, grads)
    )


def _normal(rng: np.random.Generator, shapes: Shapes, dtype: str) -> Arrays:
    kind: Any = np.dtype(dtype).type
    return {k: rng.standard_normal(shape, dtype=kind) for k, shape in shapes.items()}


def _stream(n: int, dtype: str, slots: int) -> Candidate:
    """The limit of an update, by one thread: g read, p and the slots read and written, once each, in one long array.

    In place (p by adding g, a slot by changing its sign) and not by copying, because a copy also loads the
    memory that it is about to overwrite: three words of traffic that look like two.
    """
    # Small integers, whose sums are exact.
    start = np.random.default_rng(2).integers(-8, 9, n).astype(dtype)
    g = np.ones_like(start)
    arrays = {str(i): start.copy() for i in range(1 + slots)}
    p, *others = arrays.values()
    turns = 0

    def turn(_: Arrays) -> None:
        nonlocal turns
        turns += 1
        np.add(p, g, out=p)
        for s in others:
            np.negative(s, out=s)

    def off() -> float:
        return deviation(arrays, {k: start * (-1) ** turns if k != "0" else start + turns for k in arrays})

    return Candidate(LIMIT, turn, off)


def dropout_case(shape: tuple[int, ...]) -> Case:
    """Forward and backward of Dropout in training. Each candidate draws its own masks, so each is checked by itself."""

    def draw(rng: np.random.Generator) -> Arrays:
        # Away from 0, so that a zero in the result is a dropped element.
        return {k: 1 + rng.random(shape, dtype=np.float32) for k in ("x", "dout")}

    candidates = (_layer(BASELINE, textbook.Dropout()), _layer(ANYOPTIM, ao.Dropout(seed=0)), _copies(shape))
    return Case(candidates, draw, tolerance=0)


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


def _copies(shape: tuple[int, ...]) -> Candidate:
    """The limit of forward and backward, by one thread: x copied to y and dout to dx, into memory that is at hand."""
    y, dx = np.zeros((2, *shape), dtype=np.float32)
    last: Arrays = {}

    def turn(given: Arrays) -> None:
        np.copyto(y, given["x"])
        np.copyto(dx, given["dout"])
        last.update(given)

    return Candidate(LIMIT, turn, lambda: deviation({"x": y, "dout": dx}, last))
