"""The values of host expressions at one step, in Python's own float64."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from anyoptim._trace._program import Coefficients
from anyoptim._trace._symbols import Scalar, Symbol, operation

__all__ = ["Range", "Scalars", "evaluate", "range_of"]

_HOST: Mapping[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "negative": operator.neg,
    "sqrt": math.sqrt,
    "abs": abs,
    "where": lambda condition, a, b: a if condition else b,
    "fitted": lambda c, *within: Range(*within).fitted(c),
    "bound": lambda a, low, high: low if a < low else high if a > high else a,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "equal": operator.eq,
    "not_equal": operator.ne,
    "and": lambda a, b: bool(a) and bool(b),
    "or": lambda a, b: bool(a) or bool(b),
}


_OF_DTYPE: Mapping[str, Callable[[Any], float]] = {
    "smallest_normal": functools.cache(lambda dtype: float(np.finfo(dtype).smallest_normal)),
    "largest": functools.cache(lambda dtype: float(np.finfo(dtype).max)),
}
"""What depends on the compute dtype alone."""


class Range(NamedTuple):
    """The magnitudes that a dtype can hold, beside 0 and infinity."""

    least: float
    largest: float

    def holds(self, c: float) -> bool:
        """Whether it becomes neither 0 nor infinite in this dtype, unless it is."""
        return self.least <= c <= self.largest or -self.largest <= c <= -self.least or not c or c - c != 0

    def fitted(self, c: float) -> float:
        """`c`, or the nearest number of its sign that the dtype holds and that is neither 0 nor infinite."""
        return c if self.holds(c) else math.copysign(min(max(abs(c), self.least), self.largest), c)


@functools.cache
def range_of(dtype: Any, *, normal: bool = False) -> Range:
    """That of a compute dtype; of its normal numbers, where subnormal ones are flushed to 0."""
    finfo = np.finfo(dtype)
    # Python's own numbers have the range of float64.
    subnormal = 0.0 if finfo.bits == 64 else math.ldexp(1.0, int(finfo.minexp - finfo.nmant))
    return Range(float(finfo.smallest_normal) if normal else subnormal, float(finfo.max))


class Scalars(tuple[Scalar, ...]):
    """Host expressions, each once: first the coefficients, then what is made of some of them, then constants.

    What is made of coefficients is remembered until one of these is another, since they seldom are.
    """

    def __new__(cls, found: Iterable[Scalar]) -> Self:
        """Put them in order."""
        return super().__new__(cls, sorted(dict.fromkeys(found), key=lambda s: (s.op != "given", not _coefficients(s))))

    def __init__(self, _: Iterable[Scalar]) -> None:
        self.given = [s.arguments for s in self if s.op == "given"]
        """Of each coefficient the part and the name."""
        self._of = [s.arguments for s in {c: None for s in self[len(self.given) :] for c in _coefficients(s)}]
        self.derived = bool(self._of)
        """Whether any are made of coefficients."""
        self._last: dict[Any, tuple[list[Any], list[float]]] = {}

    def values(self, row: Coefficients, dtype: Any, within: Range | None = None) -> list[float]:
        """Their values at one step: a coefficient is fitted to the dtype, or `within` another range."""
        fitted = (within or range_of(dtype)).fitted
        found = [fitted(row[k][name]) for k, name in self.given]
        return [*found, *self.made(row, dtype, within)] if len(found) < len(self) else found

    def made(self, row: Coefficients, dtype: Any, within: Range | None = None) -> list[float]:
        """The values of those that are no coefficients."""
        now = [row[k][name] for k, name in self._of]
        before, found = self._last.get((dtype, within), (None, []))
        if now != before:
            found = [float(evaluate(s, row, dtype, within)) for s in self[len(self.given) :]]
            self._last[dtype, within] = now, found
        return found


def _coefficients(scalar: Scalar) -> list[Scalar]:
    """Those that a host expression is made of; a constant depends on none, but at most on the dtype."""
    if scalar.op == "given":
        return [scalar]
    return [c for a in scalar.arguments if isinstance(a, Scalar) for c in _coefficients(a)]


def evaluate(scalar: Scalar, row: Coefficients, dtype: Any, within: Range | None = None) -> Any:
    """The value of a host expression at one step, in Python's own float64, of fitted coefficients.

    A symbol, where it is of symbols.
    """
    if scalar.op == "given":
        part, name = scalar.arguments
        value, within = row[part][name], within or range_of(dtype)
        if not isinstance(value, Symbol):
            return within.fitted(float(value))
        return operation("fitted", value, *within) if within.least else value  # of float64 all fit
    if scalar.op == "number":
        return float.fromhex(scalar.arguments[0])
    if scalar.op in _OF_DTYPE:
        return _OF_DTYPE[scalar.op](dtype)
    arguments = [evaluate(a, row, dtype, within) for a in scalar.arguments]
    if Symbol in map(type, arguments):
        return operation(scalar.op, *(a if isinstance(a, Symbol) else float(a) for a in arguments))
    return _HOST[scalar.op](*arguments)
