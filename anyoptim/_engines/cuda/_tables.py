"""What kernels of CUDA C are given beside arrays: chunks of these, and rows of coefficients."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from anyoptim._engines.cuda._source import CHUNK
from anyoptim._trace._graph import Scalar, Symbol, evaluate
from anyoptim._trace._program import Row
from anyoptim._trace._reduction import BLOCK

__all__ = ["CHUNKS", "Expressions", "chunk_map", "rows_of"]

CHUNKS = np.dtype([("begin", np.int64), ("leaf", np.int32), ("count", np.int32)])
"""The kernels' `struct Chunk`."""

Expressions = tuple[tuple[int, Scalar], ...]
"""What is known on the device alone, by its place among the numbers. A `number` in it is the place of one behind the
rows, so that rows with other numbers have equal expressions, and the same kernel."""


def chunk_map(lengths: Sequence[int]) -> tuple[np.ndarray[Any, Any], list[int]]:
    """For each chunk its first element, leaf and length; and the first block of the reduction in each leaf."""
    each = np.array(lengths, np.int64)
    counts = -(-each // CHUNK)
    leaf = np.repeat(np.arange(len(each)), counts)
    chunks = np.empty(len(leaf), CHUNKS)
    chunks["leaf"], chunks["begin"] = leaf, CHUNK * (np.arange(len(leaf)) - (counts.cumsum() - counts)[leaf])
    chunks["count"] = np.minimum(CHUNK, each[leaf] - chunks["begin"])
    return chunks, [0, *np.cumsum(-(-each // BLOCK)).tolist()]


def rows_of(
    scalars: Sequence[Scalar], rows: Sequence[Row | None], dtype: Any
) -> tuple[np.ndarray[Any, Any], Expressions]:
    """The values of `scalars` in each row, one after another, zeros for None; then the numbers that expressions are of.

    Where the device is to put the value of an expression there is a 0.
    """
    numbers, behind = list[float](), list[float]()
    expressions = []
    for row, scalar in itertools.product(rows, scalars):
        value = 0.0 if row is None else evaluate(scalar, row, dtype)
        if isinstance(value, Symbol):
            expressions.append((len(numbers), _numbered(value.scalar, behind)))
            value = 0.0
        numbers.append(value)
    return np.array([*numbers, *behind], np.float64), tuple(expressions)


def _numbered(scalar: Scalar, behind: list[float]) -> Scalar:
    """With the place of each number instead of its value."""
    if scalar.op == "number":
        behind.append(float.fromhex(scalar.arguments[0]))
        return Scalar("number", (len(behind) - 1,))
    return Scalar(scalar.op, tuple(_numbered(a, behind) if isinstance(a, Scalar) else a for a in scalar.arguments))
