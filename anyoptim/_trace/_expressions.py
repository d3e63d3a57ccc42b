"""Host expressions at one step: their values, in Python's own float64, of coefficients that fit a dtype."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from anyoptim._arrays._quiet import quiet
from anyoptim._trace._operations import OPERATORS
from anyoptim._trace._program import Coefficients
from anyoptim._trace._symbols import Scalar, Symbol, operation

__all__ = ["Range", "Scalars", "elementary", "evaluate", "range_of"]


def elementary(op: str, *operands: float) -> float:
    """`exp`, `log` or `power` of numbers, infinite or NaN where Python's own raises."""
    with quiet():
        return float(getattr(np, op)(*operands))


_HOST: Mapping[str, Callable[..., Any]] = {
    **OPERATORS,
    "sqrt": math.sqrt,
    "where": lambda condition, a, b: a if condition else b,
    "fitted": lambda c, *within: Range(*within).fitted(c),
    "bound": lambda a, low, high: low if a < low else high if a > high else a,
    "and": lambda a, b: bool(a) and bool(b),
    "or": lambda a, b: bool(a) or bool(b),
    **{op: functools.partial(elementary, op) for op in ("exp", "log", "power")},
}

_OF_DTYPE: Mapping[str, Callable[[Any], float]] = {
    "smallest_normal": functools.cache(lambda dtype: float(np.finfo(dtype).smallest_normal)),
    "largest": functools.cache(lambda dtype: float(np.finfo(dtype).max)),
}
"""The operations without arguments, whose value depends on the compute dtype alone."""


class Range(NamedTuple):
    """The magnitudes that a dtype can hold, beside 0 and infinity."""

    least: float
    largest: float

    def holds(self, c: float) -> bool:
        """Whether `c` becomes neither 0 nor infinite in this dtype, unless it is that already."""
        return self.least <= c <= self.largest or -self.largest <= c <= -self.least or not c or c - c != 0

    def fitted(self, c: float) -> float:
        """`c`, or the nearest number of its sign that the dtype holds and that is neither 0 nor infinite."""
        return c if self.holds(c) else math.copysign(min(max(abs(c), self.least), self.largest), c)


@functools.cache
def range_of(dtype: Any, *, normal: bool = False) -> Range:
    """The range of a compute dtype, or, where subnormal numbers are flushed to 0, of its normal numbers."""
    finfo = np.finfo(dtype)
    # Python's own numbers have the range of float64.
    subnormal = 0.0 if finfo.bits == 64 else math.ldexp(1.0, int(finfo.minexp - finfo.nmant))
    return Range(float(finfo.smallest_normal) if normal else subnormal, float(finfo.max))


class Scalars(tuple[Scalar, ...]):
    """Host expressions, each once: first the coefficients, then what is made of some of them, then constants.

    The values of the others are remembered until a coefficient that they are made of changes, which is seldom.
    """

    def __new__(cls, scalars: Iterable[Scalar]) -> Self:
        """Put them in order."""
        order = sorted(dict.fromkeys(scalars), key=lambda s: (s.op != "coefficient", not _coefficients(s)))
        return super().__new__(cls, order)

    def __init__(self, _: Iterable[Scalar]) -> None:
        self.coefficients = [s.arguments for s in self if s.op == "coefficient"]
        """The part and the name of each coefficient."""
        self._others = self[len(self.coefficients) :]
        self._needed = [s.arguments for s in {c: None for s in self._others for c in _coefficients(s)}]
        """The part and the name of each coefficient that others are made of."""
        self.derived = bool(self._needed)
        """Whether any are made of coefficients."""
        self._last: dict[Any, tuple[list[Any], list[float]]] = {}

    def values(self, row: Coefficients, dtype: Any, within: Range | None = None) -> list[float]:
        """The values of all at one step: a coefficient is fitted to the dtype, or `within` another range."""
        fitted = (within or range_of(dtype)).fitted
        values = [fitted(row[k][name]) for k, name in self.coefficients]
        return [*values, *self.other_values(row, dtype, within)] if self._others else values

    def other_values(self, row: Coefficients, dtype: Any, within: Range | None = None) -> list[float]:
        """The values of those that are no coefficients."""
        now = [row[k][name] for k, name in self._needed]
        before, values = self._last.get((dtype, within), (None, []))
        if now != before:
            values = [float(evaluate(s, row, dtype, within)) for s in self._others]
            self._last[dtype, within] = now, values
        return values


def _coefficients(scalar: Scalar) -> list[Scalar]:
    """The coefficients that a host expression is made of. A constant has none: it depends on the dtype at most."""
    if scalar.op == "coefficient":
        return [scalar]
    return [c for a in scalar.arguments if isinstance(a, Scalar) for c in _coefficients(a)]


def evaluate(scalar: Scalar, row: Coefficients, dtype: Any, within: Range | None = None) -> Any:
    """The value of a host expression at one step, in Python's own float64, of fitted coefficients.

    Where one of these is a symbol, the value is one.
    """
    if scalar.op == "coefficient":
        part, name = scalar.arguments
        value, within = row[part][name], within or range_of(dtype)
        if not isinstance(value, Symbol):
            return within.fitted(float(value))
        return operation("fitted", value, *within) if within.least else value  # all fit float64
    if scalar.op == "number":
        return float.fromhex(scalar.arguments[0])
    if scalar.op in _OF_DTYPE:
        return _OF_DTYPE[scalar.op](dtype)
    arguments = [evaluate(a, row, dtype, within) for a in scalar.arguments]
    if Symbol in map(type, arguments):
        return operation(scalar.op, *(a if isinstance(a, Symbol) else float(a) for a in arguments))
    return _HOST[scalar.op](*arguments)
