"""The table of `anyoptim.random.normal`, in decimals: a cubic for each 16th of each octave of probabilities.

    python -m tests.reference.quantiles > anyoptim/random/_table.py

Each goes through four quantiles at Chebyshev's nodes, which are good to 40 digits, and is rounded to words.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from statistics import NormalDist

PARTS, DEGREE, UNIT = 4, 3, 29
NODES = [Decimal(round(2**40 * (0.5 - 0.5 * math.cos(math.pi * (2 * i + 1) / 8)))) / 2**40 for i in range(4)]
PI = Decimal("3.14159265358979323846264338327950288419716939937510582")
HEADER = '''"""Quantiles of the normal distribution: made by tests/reference/quantiles.py, which says how."""

__all__ = ["DEGREE", "PARTS", "TEXT"]

PARTS = {parts}
"""The logarithm of how many there are of each octave."""

DEGREE = {degree}

TEXT = """
{text}
"""
"""Words in hexadecimal: of each octave, from 1/2 on, the parts, and of each the coefficients from the constant on."""
'''


def upper(z: Decimal) -> Decimal:
    """The probability of more than z: 1/2 minus the density's series, whose terms are all positive."""
    term = total = z
    k = 1
    while term > total * Decimal("1e-45"):
        k += 2
        term = term * z * z / k
        total += term
    return Decimal("0.5") - total * (-z * z / 2).exp() / (2 * PI).sqrt()


def quantile(q: Decimal) -> Decimal:
    """The number that is exceeded with probability q: Newton's method, from 15 digits on to 30, and to 40 of 50."""
    z = Decimal(-NormalDist().inv_cdf(float(q)))
    for _ in range(2):
        z += (upper(z) - q) * (2 * PI).sqrt() * (z * z / 2).exp()
    return z


def cubic(octave: int, part: int) -> list[int]:
    """The coefficients c of c0 - f*(c1 - f*(c2 - f*c3)), where f goes from 0 to 1 over this part."""
    begin = Decimal(2) ** (-2 - octave) * (1 + Decimal(part) / 2**PARTS)
    width = Decimal(2) ** (-2 - octave) / 2**PARTS
    differences = [quantile(begin + width * node) for node in NODES]
    for j in range(1, 4):
        for i in range(3, j - 1, -1):
            differences[i] = (differences[i] - differences[i - 1]) / (NODES[i] - NODES[i - j])
    powers = [differences[3]]
    for i in (2, 1, 0):  # times (f - NODES[i]), and one more difference
        powers = [a - NODES[i] * b for a, b in zip([Decimal(0), *powers], [*powers, Decimal(0)], strict=True)]
        powers[0] += differences[i]
    return [int(((-1) ** k * c * 2**UNIT).to_integral_value()) for k, c in enumerate(powers)]


def module() -> str:
    """The whole of anyoptim/random/_table.py."""
    with localcontext() as context:
        context.prec = 50
        text = "".join(f"{c:08x}" for octave in range(32) for part in range(1 << PARTS) for c in cubic(octave, part))
    lines = (text[i : i + 112] for i in range(0, len(text), 112))
    return HEADER.format(parts=PARTS, degree=DEGREE, text="\n".join(lines))


if __name__ == "__main__":
    print(module(), end="")
