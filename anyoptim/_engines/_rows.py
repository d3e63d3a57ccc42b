"""Rows of coefficients for a device: numbers, and expressions of what only the device knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._engines._leaf import NDArray
from anyoptim._program import Row
from anyoptim._trace import Scalar, Symbol, evaluate, range_of

__all__ = ["Table", "table"]


class Table(NamedTuple):
    """The rows one after another, then the numbers that the expressions are of."""

    numbers: NDArray
    """float64; a 0 where the device is to put the value of an expression."""
    expressions: tuple[tuple[int, Scalar], ...]
    """What is known on the device alone, by its place. A `number` in it is the place of one behind the rows, so that
    rows with other numbers have equal expressions, and the same kernel."""


def table(scalars: Sequence[Scalar], rows: Sequence[Row | None], dtype: Any) -> Table:
    """The values of `scalars` in each row, zeros for None."""
    width = len(scalars)
    numbers = [0.0] * (width * len(rows))
    behind: list[float] = []
    expressions = []
    for i, row in enumerate(rows):
        for k, scalar in enumerate(scalars if row is not None else ()):
            assert row is not None  # noqa: S101 - then there are no scalars
            value = _resolved(scalar, row, dtype)
            if isinstance(value, Scalar):
                expressions.append((width * i + k, _numbered(value, behind)))
            else:
                numbers[width * i + k] = value
    return Table(np.array([*numbers, *behind], np.float64), tuple(expressions))


def _resolved(scalar: Scalar, row: Row, dtype: Any) -> float | Scalar:
    """The value of a host expression, or what is left of it, with the values of all that is known."""
    if scalar.op == "given":
        part, name = scalar.arguments
        value = row[part][name]
        return value.scalar if isinstance(value, Symbol) else range_of(dtype).fitted(float(value))
    arguments = [_resolved(a, row, dtype) if isinstance(a, Scalar) else a for a in scalar.arguments]
    if any(isinstance(a, Scalar) for a in arguments):
        return Scalar(scalar.op, tuple(a if isinstance(a, Scalar) else _number(a) for a in arguments))
    return float(evaluate(scalar, row, dtype))


def _number(value: float) -> Scalar:
    return Scalar("number", (value.hex(),))


def _numbered(scalar: Scalar, behind: list[float]) -> Scalar:
    """With the place of each number instead of its value."""
    if scalar.op == "number":
        behind.append(float.fromhex(scalar.arguments[0]))
        return Scalar("number", (len(behind) - 1,))
    if scalar.op == "device":
        return scalar
    return Scalar(scalar.op, tuple(_numbered(a, behind) for a in scalar.arguments))
