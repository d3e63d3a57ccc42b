"""The 2-norm and the sum as the reduction defines them, in exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

__all__ = ["norm", "sum_of_squares", "total"]


def sum_of_squares(values: Iterable[float]) -> tuple[int, int]:
    """The sum as N * 2**(40*b - 80): N and b. All values are finite, and one isn't 0."""
    values = [abs(v) for v in values]
    b = (math.frexp(max(values))[1]) // 20
    total = 0
    for v in values:
        scaled = Fraction(v) / Fraction(2) ** (20 * b)
        square = scaled * scaled
        if square:
            # To 53 bits, whatever the exponent.
            e = square.numerator.bit_length() - square.denominator.bit_length() - 60
            square = Fraction(float(square / Fraction(2) ** e)) * Fraction(2) ** e
        total += round(square * 2**80)  # ties to even
    return total, b


def norm(values: Iterable[float]) -> float:
    """The 2-norm: six integers of 20 bits each, of which the first may be larger, added from the last on."""
    values = list(values)
    if any(math.isnan(v) for v in values):
        return math.nan
    if any(math.isinf(v) for v in values):
        return math.inf
    if not any(values):
        return 0.0
    total, b = sum_of_squares(values)
    return math.sqrt(_value(total)) * 2.0 ** (10 * b) * 2.0 ** (10 * b)


def total(terms: Iterable[float]) -> float:
    """The sum of these float64 numbers."""
    terms = list(terms)
    infinite = {v for v in terms if not math.isfinite(v)}
    if infinite:
        return infinite.pop() if len(infinite) == 1 else math.nan
    if not any(terms):
        return 0.0
    b = (math.frexp(max(map(abs, terms)))[1] + 1) // 40
    exact = sum(round(Fraction(v) * Fraction(2) ** (80 - 40 * b)) for v in terms)  # ties to even
    value = Fraction(_value(abs(exact))) * Fraction(2) ** (40 * b)
    try:
        return math.copysign(float(value), exact)
    except OverflowError:
        return math.copysign(math.inf, exact)


def _value(total: int) -> float:
    """N * 2**-80: six integers of 20 bits each, of which the first may be larger, added from the last on."""
    parts = [total >> 100, *(total >> k & 0xFFFFF for k in (80, 60, 40, 20, 0))]
    value = 0.0
    for part in reversed(parts):
        value = value * 2.0**-20 + part
    return value * 2.0**20
