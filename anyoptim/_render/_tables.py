"""What kernels of CUDA C are given beside arrays: chunks of these, and rows of coefficients."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from anyoptim._program import Row
from anyoptim._reduction import BLOCK
from anyoptim._render.cuda import CHUNK
from anyoptim._trace import Scalar, Symbol, evaluate

__all__ = ["CHUNKS", "Expressions", "chunk_map", "rows_of"]

CHUNKS = np.dtype([("begin", np.int64), ("leaf", np.int32), ("count", np.int32)])
"""The kernels' `struct Chunk`."""

Expressions = tuple[tuple[int, Scalar], ...]
"""What is known on the device alone, by its place among the numbers. A `number` in it is the place of one behind the
rows, so that rows with other numbers have equal expressions, and the same kernel."""


def chunk_map(lengths: Sequence[int]) -> tuple[np.ndarray[Any, Any], list[int]]:
    """For each chunk its first element, leaf and length; and the first block of the reduction in each leaf."""
    lengths_, firsts = np.array(lengths, np.int64), np.zeros(len(lengths) + 1, np.int64)
    counts = -(-lengths_ // CHUNK)
    chunks = np.zeros(int(counts.sum()), CHUNKS)
    chunks["leaf"] = np.repeat(np.arange(len(lengths_)), counts)
    ends = np.cumsum(counts)
    chunks["begin"] = (np.arange(len(chunks)) - np.repeat(ends - counts, counts)) * CHUNK
    chunks["count"] = np.minimum(CHUNK, np.repeat(lengths_, counts) - chunks["begin"])
    np.cumsum(-(-lengths_ // BLOCK), out=firsts[1:])
    return chunks, firsts.tolist()


def rows_of(
    scalars: Sequence[Scalar], rows: Sequence[Row | None], dtype: Any
) -> tuple[np.ndarray[Any, Any], Expressions]:
    """The values of `scalars` in each row, one after another, zeros for None; then the numbers that expressions are of.

    Where the device is to put the value of an expression there is a 0.
    """
    numbers = [0.0] * (len(scalars) * len(rows))
    behind: list[float] = []
    expressions = []
    for place, (row, scalar) in enumerate(itertools.product(rows, scalars)):
        value = 0.0 if row is None else evaluate(scalar, row, dtype)
        if isinstance(value, Symbol):
            expressions.append((place, _numbered(value.scalar, behind)))
        else:
            numbers[place] = value
    return np.array([*numbers, *behind], np.float64), tuple(expressions)


def _numbered(scalar: Scalar, behind: list[float]) -> Scalar:
    """With the place of each number instead of its value."""
    if scalar.op == "number":
        behind.append(float.fromhex(scalar.arguments[0]))
        return Scalar("number", (len(behind) - 1,))
    if scalar.op == "device":
        return scalar
    return Scalar(scalar.op, tuple(_numbered(a, behind) for a in scalar.arguments))
