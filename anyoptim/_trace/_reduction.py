"""The one reduction: the 2-norm of many arrays, whose bits depend on no order, cut or number of processes.

Let b be the largest integer with 2**(20*b) <= 2*max|x| over all elements x. Each square v = (x * 2**(-20*b))**2,
rounded to float64, is at most 2**38. It is rounded, by itself, to the nearest multiple of 2**-80, ties to even; these
multiples are added as integers, and only their sum is rounded again. Nothing over- or underflows but the norm itself,
which is infinite where it is too large for float64.

A part of the elements may have a smaller b, and need not know that of all: each v is taken as three digits, multiples
of 1, of 2**-40 and of 2**-80, each the multiple that is nearest to what those before it left. Whichever the first
digit's unit is, the digits down to any unit add up to v, rounded to that unit: what lies before the last of them is an
even multiple of it, so ties agree, too. So the digits of a part whose b is smaller by one or two move as many places;
where it is smaller by more, v is at most half of the last unit, and counts as 0.

Added to 1.5 * 2**52 units, in float64, a number is rounded to a multiple of the unit, which then stands in the last
bits: engines add these bits, as integers of 64 bits, where their libraries let them.

The relative error of the sum of squares of n elements is at most 4 * 2**-53 + n * 2**-79: squares and their sum are
rounded to float64, and n times at most 2**-81 is lost of a sum that is at least 2**-2, as the largest square is.

What is known of some elements is a row of seven integers: the code of b, and the sum of each half of each digit, which
int64 holds for 2**43 elements. A complex element counts as two real ones. Devices that have parts of the same arrays
first agree on the codes, one for each array, and then on the sums. Where a library has no float64, the row is one of
float32: there the library adds the squares, scaled in the same way, in its own order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anyoptim._arrays import Library
from anyoptim._arrays._quiet import quiet

__all__ = [
    "COLUMNS",
    "FIRST",
    "HALF",
    "INFINITE",
    "MASK",
    "NAN",
    "ROUNDERS",
    "SCALES",
    "aligned",
    "bits_of",
    "codes",
    "merged",
    "norm",
    "rows",
    "split",
]

COLUMNS = 7

FIRST = -55
"""The b whose code would be 0, which stands for zeros alone."""

INFINITE, NAN = 107, 108
"""The codes of elements of which one is infinite, and of which one is NaN."""

HALF = 20
"""The bits of half a digit."""

MASK = (1 << HALF) - 1

WHOLE = 1 << 23
"""The most elements of which `row` adds whole digits, whose sum int64 holds then."""

ROUNDERS = tuple((1.5 * 2.0**52 * unit, 1 / unit) for unit in (1.0, 2.0**-40, 2.0**-80))
"""For each digit what rounds to its unit what it is added to and taken from again, and how many units are 1."""

SCALES = np.array([2.0 ** (-10 * (c + FIRST)) if c < INFINITE else 0.0 for c in range(NAN + 1)])
"""For each code 2**(-10*b), by which elements are multiplied twice, since 2**(-20*b) may overflow."""

_UNITS = np.array([*(1 / SCALES[:INFINITE]), math.inf, math.nan])
"""For each code 2**(10*b)."""

_BOUNDS = np.array([*(2.0 ** (HALF * (c + FIRST) - 1) for c in range(2, INFINITE)), math.inf])
"""The least absolute values that have the codes from 2 on."""

_NOTHING = np.zeros((0, COLUMNS), np.int64)

_FEW = 8
"""The most rows that are added as numbers of Python, in less time than NumPy takes to begin."""


def bits_of(number: float) -> int:
    """The 64 bits of a float64."""
    return int(np.float64(number).view(np.int64))


def codes(largest: Any, power: int = 1) -> Any:
    """The codes of the b's for some largest absolute values or, if `power` is 2, their squares: a vector of NumPy."""
    found = (np.frexp(largest)[1] + (power - 1)) // (HALF * power) - FIRST
    found[largest == 0], found[np.isinf(largest)], found[np.isnan(largest)] = 0, INFINITE, NAN
    return found


def split(table: Any) -> Any:
    """The rows from tables of NumPy's with the code and the whole digits."""
    digits = table[:, 1:]
    halves = np.stack([digits >> HALF, digits & MASK], axis=-1).reshape(len(table), COLUMNS - 1)
    return np.concatenate([table[:, :1], halves], axis=1)


def rows(library: Library, leaves: Sequence[Sequence[Any]], shardings: Sequence[Any] | None = None) -> Any:
    """The rows of some leaves, each of one or several arrays of real numbers: an array of shape (n, 7).

    Where the leaves lie on several devices, `shardings` may say how they are cut among these.
    """
    return library.over_shards(functools.partial(_rows, library), leaves, shardings)


def _rows(library: Library, over_shards: Callable[[str, Any], Any], leaves: Sequence[Sequence[Any]]) -> Any:
    """The same of what one device has, perhaps: `over_shards("max" or "sum", a)` is that of what all of them have."""
    xp, like = library.xp, leaves[0][0]
    dtype, place = library.widest_float(), library.creation_device(like)
    exact = dtype == xp.float64
    whole = xp.int64 if exact else dtype

    def constant(values: Any) -> Any:
        with quiet():
            narrow = np.asarray(values, np.float64 if exact else np.float32)
        return xp.asarray(narrow, dtype=dtype, device=place)

    leaves = [[a for a in parts if 0 not in a.shape] for parts in leaves]
    greatest, found = [], []
    for parts in leaves:
        # Before elements are made wider: or else XLA would keep a wide copy of them all, for this pass and the next.
        each = [xp.astype(xp.max(xp.abs(a)), dtype, copy=False) for a in parts] or [constant(0.0)]
        largest = functools.reduce(xp.maximum, each)
        count = xp.sum(xp.astype(largest >= constant(_BOUNDS), xp.int32), dtype=xp.int32)
        found.append(xp.where(largest == largest, count + xp.astype(largest > 0, xp.int32), xp.full_like(count, NAN)))
        greatest.append(largest)
    found = over_shards("max", xp.stack(found))
    table = []
    for i, parts in enumerate(leaves):
        scale, finite = _at(xp, constant(SCALES), found[i]), found[i] < INFINITE
        # A compiler that can't know that it is 0 makes no one operation of a product and a sum, and adds no constants.
        zero = library.opaque(xp.where(finite, greatest[i], xp.zeros_like(greatest[i]))) * 0.0
        sums = [xp.zeros_like(scale, dtype=whole) for _ in range(COLUMNS - 1 if exact else 1)]
        for a in parts:
            y = xp.astype(a, dtype, copy=False) * scale * scale
            v = y * y + zero
            if exact:
                added = _digits(library, xp.where(finite, v, xp.zeros_like(v)), zero)
            else:  # NaN does no harm, and XLA would store what it had to choose
                added = [xp.sum(v) * 2.0**-HALF]
            sums = [s + new for s, new in zip(sums, added, strict=True)]
        table.append(xp.stack(sums))
    totals = over_shards("sum", xp.stack(table))
    if not exact:
        totals = xp.concat([totals, *[xp.zeros_like(totals)] * (COLUMNS - 2)], axis=1)
    return xp.concat([xp.astype(found, whole)[:, None], totals], axis=1)


def _digits(library: Library, v: Any, zero: Any) -> list[Any]:
    """The sums of both halves of all digits of some scaled squares."""
    xp, digits = library.xp, []
    for rounder, unit in ROUNDERS:
        to = rounder + zero
        nearest = (v + to) - to
        v = v - nearest
        digits.append(xp.astype(nearest if unit == 1 else nearest * unit, xp.int64))
    few = math.prod(v.shape) <= WHOLE
    added = library.sums(digits if few else _both_halves(digits))
    return _both_halves(added) if few else added


def _both_halves(digits: Sequence[Any]) -> list[Any]:
    return [half for digit in digits for half in (digit >> HALF, digit & MASK)]


def aligned(xp: Any, rows: Any, code: Any) -> Any:
    """The sums in some rows, moved to the places that they have under a code that is at least theirs."""
    nothing = xp.zeros_like(rows[:, :2])
    behind, sums = code - rows[:, :1], rows[:, 1:]
    for places in (1, 2):  # where it is 2, they move twice
        sums = xp.where(behind >= places, xp.concat([nothing, sums[:, :-2]], axis=1), sums)
    return xp.where(behind > 2, xp.zeros_like(sums), sums)


def merged(rows: Any) -> Any:
    """One row of NumPy in the place of several, or of none."""
    if len(rows) < 2:
        return rows if len(rows) else np.zeros((1, COLUMNS), np.int64)
    codes_of_rows = rows[:, :1]
    code = np.maximum.reduce(codes_of_rows, keepdims=True)
    sums = rows[:, 1:] if (codes_of_rows == code).all() else aligned(np, rows, code)
    return np.concatenate([code, np.einsum("ij->j", sums)[None]], axis=1)  # in a fifth of the time of a sum


def norm(xp: Any, rows: Sequence[Any]) -> Any:
    """The 2-norm from the rows of all arrays: a float of NumPy's, a 0-d array of others."""
    if xp is np:
        return _norm_of_numbers(rows[0] if len(rows) == 1 else np.concatenate([_NOTHING, *rows]))
    table = xp.concat(list(rows))
    code = xp.max(table[:, 0])
    total = xp.sum(aligned(xp, table, code), axis=0)
    exact = table.dtype == xp.int64
    value = _value([total[k] for k in range(COLUMNS - 1)], (lambda a: xp.astype(a, xp.float64)) if exact else None)
    with quiet():
        units = xp.asarray(np.asarray(_UNITS, np.float64 if exact else np.float32))
    unit = _at(xp, units, code)
    return xp.where(code < INFINITE, xp.sqrt(value) * unit * unit, unit)


def _norm_of_numbers(table: Any) -> float:
    """The same of NumPy's rows."""
    rows = (table if 0 < len(table) <= _FEW else merged(table)).tolist()
    codes_of_rows, *columns = zip(*rows, strict=True)
    code = int(max(codes_of_rows))
    if code >= INFINITE:
        return float(_UNITS[code])
    if min(codes_of_rows) < code:
        columns = list(zip(*aligned(np, np.array(rows), code).tolist(), strict=True))
    value = _value([*map(sum, columns)], float if table.dtype.kind == "i" else None)
    unit = math.ldexp(1.0, 10 * (code + FIRST))
    return math.sqrt(value) * unit * unit


def _value(sums: list[Any], wide: Callable[[Any], Any] | None) -> Any:
    """The sum of squares, in units of 2**(40*b): float64 operations on six integers, of which all but the first fit.

    `wide` makes a float64 of an integer; it is None where the sums are floating-point numbers already.
    """
    if wide is not None:
        for k in range(len(sums) - 1, 0, -1):
            sums[k - 1], sums[k] = sums[k - 1] + (sums[k] >> HALF), sums[k] & MASK
        sums = [wide(a) for a in sums]
    value = sums[-1]
    for a in sums[-2::-1]:
        value = value * 2.0**-HALF + a
    return value * 2.0**HALF


def _at(xp: Any, table: Any, code: Any) -> Any:
    """The number in a table for a code. Not all libraries have `take` for lazy arrays."""
    numbers = xp.arange(table.shape[0], dtype=code.dtype)
    return xp.sum(xp.where(numbers == code, table, xp.zeros_like(table)))
