"""The rows of the reduction of stretches of one array, by few calls of NumPy's for all of them.

Squares of float32, of which one sum is wanted of all, take fewer. Let the largest magnitude be below 2**e. A magnitude
is h1 + h2: h1 is the multiple of 2**(e-20) that is nearest to it, and h2, what is left, a multiple of 2**(e-40), unless
the magnitude is below 2**(e-17) and has bits behind these. Of the products h1*h1, h1*h2 and h2*h2 of up to `WIDTH`
elements the sums are integers of at most 53 bits, in units of their own: whichever way BLAS adds them, with or without
FMA, it rounds nothing. The few that are smaller are squared and rounded one by one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anyoptim._trace._exact_sum import (
    COLUMNS,
    FIRST,
    HALF,
    INFINITE,
    MASK,
    ROUNDERS,
    SCALES,
    Kind,
    aligned,
    codes,
    infinities,
)

__all__ = ["WIDTH", "code_of", "row_of", "squares", "stretches"]

NDArray = np.ndarray[Any, Any]

WIDTH = 1 << 13
"""The most elements of an inner product that is exact, and fewer than those for which BLAS wakes threads."""

FEW = 64
"""The most small elements that are squared as numbers of Python, in less time than NumPy takes to begin."""

RANGE = range(-86, 123)
"""The e's for which all that the slices are made with is finite in float32, and normal."""

SAFE = 2.0**800
"""A largest square up to this, and down to its inverse, has not been rounded as one near the ends of the range is."""


def stretches(kind: Kind, x: NDArray, spare: NDArray, lengths: NDArray) -> NDArray:
    """For each stretch of x its row; of a maximum the bits of the largest element, and nothing behind them.

    Both x and `spare`, an array of the same shape, are used up.
    """
    firsts = np.add.accumulate(lengths) - lengths
    table = np.empty((len(lengths), COLUMNS), np.int64)
    if kind == "largest":
        table[:, 0] = (np.maximum.reduceat(x, firsts) + 0.0).view(np.int64)
    elif kind == "squares":
        _digits(x, spare, *_squares(x, spare, firsts, lengths), firsts, lengths, table)
    else:
        _digits(x, spare, _terms(x, spare, firsts, lengths), 1.0, firsts, lengths, table)
    return table


def _terms(x: NDArray, v: NDArray, firsts: NDArray, lengths: NDArray) -> NDArray:
    """The codes of stretches of x, with whose scale v becomes x."""
    code: NDArray = codes(np.maximum.reduceat(np.abs(x, out=v), firsts), 2)
    scale = np.repeat(SCALES[code] ** 2, lengths)
    np.multiply(np.multiply(x, scale, out=v), scale, out=v)
    for k in np.flatnonzero(code == INFINITE):
        stretch = slice(firsts[k], firsts[k] + lengths[k])
        v[stretch] = infinities(np, x[stretch])
    return code


def _squares(x: NDArray, v: NDArray, firsts: NDArray, lengths: NDArray) -> tuple[Any, Any]:
    """The codes of stretches of x, the square of which v becomes, and what is the unit in it."""
    np.multiply(x, x, out=v)
    largest = np.maximum.reduceat(v, firsts)
    ends = float(np.minimum.reduce(largest)), float(np.maximum.reduce(largest))
    code: Any
    unit: Any = 1.0
    if ends[0] > 1 / SAFE and ends[1] < SAFE:
        code, highest = ((math.frexp(a)[1] + 1) // (2 * HALF) - FIRST for a in ends)
        code = code if code == highest else codes(largest, 2)
        unit = np.ldexp(1.0, 2 * HALF * (code + FIRST))
    else:
        code = codes(np.maximum.reduceat(np.abs(x, out=v), firsts))
        scale = np.repeat(SCALES[code], lengths)
        np.multiply(np.multiply(x, scale, out=x), scale, out=x)
        np.multiply(x, x, out=v)
    return code, unit


def _digits(x: NDArray, v: NDArray, code: Any, unit: Any, firsts: NDArray, lengths: NDArray, table: NDArray) -> None:
    """Write the rows of v, of some stretches. Both v and x, an array of the same shape, are used up."""
    table[:, 0] = code
    for k, (rounder, _) in enumerate(ROUNDERS):
        # A number that is rounded to a digit has that in its last bits: sums of these are sums of integers.
        to = np.asarray(rounder * unit)
        of_each = np.repeat(to, lengths) if to.ndim else to
        np.add(v, of_each, out=x)
        digits = np.add.reduceat(x.view(np.int64), firsts) - lengths * to.view(np.int64)
        table[:, 2 * k + 1], table[:, 2 * k + 2] = digits >> HALF, digits & MASK
        if k + 1 < len(ROUNDERS):
            np.subtract(v, np.subtract(x, of_each, out=x), out=v)


def code_of(largest: float) -> int:
    """The code of the b for a largest magnitude that is finite."""
    return math.frexp(largest)[1] // HALF - FIRST if largest else 0


def row_of(code: int, whole: int) -> NDArray:
    """The row of a sum, given in units of the last digit, which is not to be moved under another code."""
    halves = [whole >> HALF * k & MASK for k in range(COLUMNS - 3, -1, -1)]
    return np.array([[code, whole >> HALF * (COLUMNS - 2), *halves]])


def squares(
    code: int, x: NDArray, spare: NDArray, small: NDArray, h1: NDArray, h2: NDArray, size: int
) -> tuple[float, int]:
    """The largest of some magnitudes, and the sum of their squares under a code, in units of its last digit.

    The sum is 0 where the magnitudes are not finite, or too large for the code.

    Args:
        code: the code.
        x: the magnitudes, of float32, with zeros behind them; it is used up.
        spare: an array like x.
        small: one of booleans.
        h1: one of float64; all of these are as long as x, some times `WIDTH`.
        h2: another one.
        size: the number of magnitudes.
    """
    magnitudes, mask = x[:size], small[:size]
    largest = float(np.maximum.reduce(magnitudes))
    if not 0 < largest < math.inf or code_of(largest) > code:
        return largest, 0
    e, last = math.frexp(largest)[1], HALF * (code + FIRST) - 2 * HALF
    least = max(e - 2 * HALF, last) + 23
    if e not in RANGE or least > e:
        return largest, _by_digits(code, magnitudes, h1, h2)
    np.less(magnitudes, np.float32(2.0**least), out=mask)
    number, whole = int(np.count_nonzero(mask)), 0
    if number > FEW:  # of which many may be zeros
        number = int(np.count_nonzero(np.logical_and(mask, magnitudes, out=mask)))
    if number > size >> 2:
        return largest, _by_digits(code, magnitudes, h1, h2)
    if number:
        places = np.flatnonzero(mask)
        few = magnitudes[places]
        if number > FEW:
            whole = _by_digits(code, few, h1, h2)
        else:
            whole = sum(round(math.ldexp(a * a, -2 * last)) for a in few.tolist())
        magnitudes[places] = 0
    rounder = np.asarray(1.5 * 2.0 ** (e - HALF + 23), x.dtype)
    np.subtract(np.add(x, rounder, out=spare), rounder, out=spare)
    h1[...] = spare
    h2[...] = np.subtract(x, spare, out=spare)
    first, second = h1.reshape(-1, WIDTH), h2.reshape(-1, WIDTH)
    both = 0
    for one, other, up in ((first, first, 2), (first, second, 1), (second, second, 0)):
        found = np.vecdot(one, other) * 2.0 ** (4 * HALF - 2 * e - HALF * up)
        both += sum(map(int, found.tolist())) << HALF * up + (up == 1)
    # In units of 2**(2*e - 80), of which what is left after the small ones is a multiple of the last digit's unit.
    shift = 2 * (e - 2 * HALF - last)
    return largest, whole + (both << shift if shift > 0 else both >> -shift)


def _by_digits(code: int, x: NDArray, wide: NDArray, spare: NDArray) -> int:
    """The sum of squares under a code that is at least theirs, in units of its last digit."""
    size = x.size
    wide[:size] = x
    row = stretches("squares", wide[:size], spare[:size], np.array([size]))
    whole = 0
    for half in aligned(np, row, code)[0].tolist():
        whole = (whole << HALF) + half
    return whole
