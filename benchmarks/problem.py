"""Parameters of some shapes, and gradients for them that cost next to nothing to draw."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Arrays, copies

__all__ = ["MODELS", "PARAMETERS", "Drawn", "Problem", "Shapes"]

Shapes = Mapping[str, tuple[int, ...]]

FOLDER = Path(__file__).resolve().parent / "shapes"

MODELS = {"ResNet-50": "resnet50", "GPT-2": "gpt2", "BERT base": "bert_base", "ViT-B/16": "vit_b_16"}
"""Real models, by the file with the name and the shape of every parameter."""

SAMPLE = 1000
"""Elements of each array that are checked, evenly spread from the first to the last. In an elementwise method each
element is on its own, and float64 copies of 124 million would not be held beside the candidates."""

AWAY = 0.01
"""The least |gradient|: far enough from 0 that it doesn't show where a library adds its eps."""

SLACK = 4096
"""From how many places in the pool a gradient may begin."""


def _model(file: str) -> Shapes:
    return {name: tuple(shape) for name, shape in json.loads((FOLDER / f"{file}.json").read_text(encoding="utf-8"))}


PARAMETERS: Mapping[str, Shapes] = {
    "784-50-10 network": {"W1": (784, 50), "b1": (50,), "W2": (50, 10), "b2": (10,)},
    "1000 arrays of 1000": {f"w{i}": (1000,) for i in range(1000)},
    "one array of 1M": {"w": (1_000_000,)},
    "one array of 16M": {"w": (16_000_000,)},
    **{name: _model(file) for name, file in MODELS.items()},
}


class Drawn(NamedTuple):
    """The gradients of a round."""

    arrays: Arrays
    """Views of the pool, not to be written to."""
    norm: float
    """The root of the sum of all squares, in float64."""

    def fresh(self, scale: float = 1.0) -> Arrays:
        """The gradients in new NumPy arrays, that many times as large."""
        return copies(self.arrays) if scale == 1 else {k: a * scale for k, a in self.arrays.items()}


class _Pool(NamedTuple):
    normals: NDArray[Any]
    squares: NDArray[np.float64]
    """The sum of the squares before each element."""


@functools.lru_cache(maxsize=1)
def _pools(size: int, dtype: np.dtype[Any]) -> tuple[_Pool, ...]:
    """A quiet pool and a loud one, so that gradients which were not clipped to one norm move p elsewhere."""
    quiet = np.random.default_rng(1).standard_normal(size, dtype=dtype.type)
    quiet += np.copysign(dtype.type(AWAY), quiet)
    squares = np.concatenate([[0.0], np.cumsum(np.square(quiet, dtype=np.float64))])
    loudness = dtype.type(4)  # a power of two: multiplying by it is exact
    pools = _Pool(quiet, squares), _Pool(loudness * quiet, float(loudness) ** 2 * squares)
    for pool in pools:
        pool.normals.flags.writeable = False
    return pools


class Problem:
    """Parameters of some shapes and one dtype, of normal values; gradients, of normal values a little away from 0."""

    def __init__(self, shapes: Shapes, dtype: str = "float32") -> None:
        self.shapes, self.dtype = shapes, np.dtype(dtype)
        self.sizes = {k: math.prod(shape) for k, shape in shapes.items()}
        self.size = sum(self.sizes.values())
        self._sampled = {k: np.linspace(0, n - 1, min(n, SAMPLE), dtype=np.int64) for k, n in self.sizes.items()}
        self._largest = max(self.sizes.values())

    def start(self) -> Arrays:
        """The parameters before the first step, in new arrays."""
        quiet, _ = self._pools()
        return {k: self._view(quiet, 0, k).copy() for k in self.shapes}

    def draw(self, rng: np.random.Generator) -> Drawn:
        """The gradients of a round: each a view of the same pool from another place."""
        pool = self._pools()[rng.integers(2)]
        places = dict(zip(self.shapes, rng.integers(SLACK, size=len(self.shapes)).tolist(), strict=True))
        squares = sum(float(pool.squares[i + self.sizes[k]] - pool.squares[i]) for k, i in places.items())
        return Drawn({k: self._view(pool, i, k) for k, i in places.items()}, math.sqrt(squares))

    def sample(self, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
        """The elements that are checked, in new arrays of float64."""
        return {k: a.reshape(-1)[self._sampled[k]].astype(np.float64) for k, a in arrays.items()}

    def _pools(self) -> tuple[_Pool, ...]:
        return _pools(self._largest + SLACK, self.dtype)

    def _view(self, pool: _Pool, begin: int, key: str) -> NDArray[Any]:
        return pool.normals[begin : begin + self.sizes[key]].reshape(self.shapes[key])
