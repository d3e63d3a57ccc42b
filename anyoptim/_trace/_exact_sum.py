"""The one reduction: sums over many arrays whose bits depend on no order, cut or number of processes; and maxima.

A sum has terms v: squares of the elements x, for a norm, or numbers, or products of two. Let b be the largest integer
with 2**(40*b) <= 4*max|v| over all terms. Each v * 2**(-40*b), rounded to float64, is at most 2**38 in magnitude (x is
scaled before it is squared). It is rounded, by itself, to the nearest multiple of 2**-80, ties to even; these multiples
are added as integers, and only their sum is rounded again. Nothing over- or underflows but the result itself, which is
infinite where it is too large for float64.

A part of the elements may have a smaller b, and need not know that of all: each v is taken as three digits, multiples
of 1, of 2**-40 and of 2**-80, each the multiple that is nearest to what those before it left. Whichever the first
digit's unit is, the digits down to any unit add up to v, rounded to that unit: what lies before the last of them is an
even multiple of it, so ties agree, too. So the digits of a part whose b is smaller by one or two move as many places;
where it is smaller by more, v is at most half of the last unit, and counts as 0.

Added to 1.5 * 2**52 units, in float64, a number is rounded to a multiple of the unit, which then stands in the last
bits: engines add these bits, as integers of 64 bits, where their libraries let them.

The relative error of the sum of squares of n elements is at most 4 * 2**-53 + n * 2**-79: squares and their sum are
rounded to float64, and n times at most 2**-81 is lost of a sum that is at least 2**-2, as the largest square is. A sum
of other terms may be small beside them: its error is at most 4 * 2**-53 of itself and n * 2**-79 of the largest term.

What is known of some elements is a row of seven integers: the code of b, and the sum of each half of each digit, which
int64 holds for 2**43 elements. A complex element counts as two real ones. Where a term is infinite, the others count as
0, plus infinity as 1 and minus infinity as 2**-40; so that both are told apart. Devices that have parts of the same
arrays first agree on the codes, one for each array, and then on the sums. Where a library has no float64, the row is
one of float32: there the library adds the terms, scaled in the same way, in its own order. Of a maximum the row is that
number alone, in float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

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
    "Kind",
    "aligned",
    "as_integer",
    "as_words",
    "bits_of",
    "codes",
    "infinities",
    "largest",
    "merged",
    "no_rows",
    "norm",
    "of_integer",
    "of_words",
    "one_row",
    "power_of",
    "product",
    "rows",
    "total",
]

Kind = Literal["squares", "terms", "largest"]
"""What is done with numbers: their squares or they themselves are added, or the largest is taken."""

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

SCALES = np.array([2.0 ** (-10 * (c + FIRST)) if 0 < c < INFINITE else 0.0 for c in range(NAN + 1)])
"""For each code 2**(-10*b), by which elements are multiplied twice, since 2**(-20*b) may overflow; its square is for
terms."""

_UNITS = [*(2.0 ** (10 * (c + FIRST)) for c in range(INFINITE)), math.inf, math.nan]
"""For each code 2**(10*b)."""

_NOTHING = np.zeros((0, COLUMNS), np.int64)

_FEW = 8
"""The most rows that are added as numbers of Python, in less time than NumPy takes to begin."""


def bits_of(number: float) -> int:
    """The 64 bits of a float64."""
    return int(np.float64(number).view(np.int64))


def as_integer(number: float) -> int:
    """An integer of 64 bits that is larger for a larger float64, and largest for NaN, which has one sign here."""
    bits = bits_of(number)
    return bits_of(math.nan) if number != number else bits if bits >= 0 else bits ^ 2**63 - 1


def of_integer(order: int) -> float:
    """The float64 that has this integer."""
    return float(np.int64(order if order >= 0 else order ^ 2**63 - 1).view(np.float64))


def power_of(kind: Kind) -> int:
    """Which power of 2**(20*b) the numbers are measured by: squares are added, or they themselves."""
    return 1 if kind == "squares" else 2


def codes(largest: Any, power: int = 1) -> Any:
    """The codes of the b's for some largest absolute values, of elements or, if `power` is 2, of terms: by NumPy."""
    found = (np.frexp(largest)[1] + (power - 1)) // (HALF * power) - FIRST
    found[largest == 0], found[np.isinf(largest)], found[np.isnan(largest)] = 0, INFINITE, NAN
    return found


@functools.cache
def _bounds(power: int) -> Any:
    """The least absolute values that have the codes from 2 on; those beyond float64 are infinite, as the last one."""
    with quiet():
        return np.append(np.ldexp(1.0, power * (HALF * np.arange(2 + FIRST, INFINITE + FIRST) - 1)), math.inf)


@functools.cache
def _scales(power: int) -> Any:
    """What terms of each code are multiplied by twice; elements whose squares are the terms, if `power` is 1."""
    with quiet():
        return SCALES**power


def infinities(xp: Any, terms: Any) -> Any:
    """What counts in place of terms of which one is infinite: 1 for infinity, 2**-40 for minus infinity, else 0."""
    nothing = xp.zeros_like(terms)
    negative = xp.where(terms == -math.inf, nothing + 2.0 ** (-2 * HALF), nothing)
    return xp.where(terms == math.inf, nothing + 1.0, negative)


def rows(
    library: Library, kind: Kind, leaves: Sequence[Sequence[Sequence[Any]]], shardings: Sequence[Any] | None = None
) -> Any:
    """The rows of some leaves: an array of shape (n, 7), or of a maximum (n, 1).

    Each leaf is one or several parts, and each part an array of real numbers, or two that are to be multiplied. Where
    the leaves lie on several devices, `shardings` may say how they are cut among these.
    """
    return library.over_shards(functools.partial(_rows, library, kind), leaves, shardings)


def _rows(
    library: Library, kind: Kind, over_shards: Callable[[str, Any], Any], leaves: Sequence[Sequence[Sequence[Any]]]
) -> Any:
    """The same of what one device has, perhaps: `over_shards("max" or "sum", a)` is that of what all of them have."""
    xp, dtype, place = library.xp, library.widest_float(), library.creation_device(leaves[0][0][0])
    exact = dtype == xp.float64
    whole = xp.int64 if exact else dtype

    def constant(values: Any) -> Any:
        with quiet():
            narrow = np.asarray(values, np.float64 if exact else np.float32)
        return xp.asarray(narrow, dtype=dtype, device=place)

    def greatest(most: Callable[[Any], Any], least: float) -> list[Any]:
        # Before elements are made wider: or else XLA would keep a wide copy of them all, for this pass and the next.
        each = [[xp.astype(most(product(library, part)), dtype, copy=False) for part in leaf] for leaf in leaves]
        return [functools.reduce(xp.maximum, maxima) if maxima else constant(least) for maxima in each]

    leaves = [[part for part in leaf if 0 not in part[0].shape] for leaf in leaves]
    if kind == "largest":
        found = over_shards("max", xp.stack(greatest(library.max, -math.inf)))
        return xp.where(found == 0, xp.zeros_like(found), found)[:, None]  # of either sign
    power = power_of(kind)
    largest = greatest(lambda a: xp.max(xp.abs(a)), 0.0)
    # Array by array, so that XLA compiles what arrays of one shape do only once.
    found = over_shards("max", xp.stack([_code(library, power, a, constant) for a in largest]))
    table = []
    for i, leaf in enumerate(leaves):
        scale, finite = _scale(library, power, found[i], constant), found[i] < INFINITE
        # A compiler that can't know that it is 0 makes no one operation of a product and a sum, and adds no constants.
        zero = library.opaque(xp.where(finite, largest[i], xp.zeros_like(largest[i]))) * 0.0
        if not exact:  # infinities stay what they are, and so does their sum
            scale = xp.where(finite, scale, xp.full_like(scale, 2.0**-30))
        sums = [xp.zeros_like(scale, dtype=whole) for _ in range(COLUMNS if exact else 1)]
        for part in leaf:
            # Read again: a compiler would store the products that it has taken the largest of.
            a = xp.astype(product(library, [*map(library.opaque, part)]), dtype, copy=False)
            v = a * scale * scale
            v = v * v + zero if kind == "squares" else v
            if exact:
                instead = xp.zeros_like(v) if kind == "squares" else infinities(xp, a)
                added = _digits(library, xp.where(finite, v, instead), zero, a != a)
            else:
                added = [xp.sum(v)]
            sums = [s + new for s, new in zip(sums, added, strict=True)]
        table.append(xp.stack(sums))
    totals = over_shards("sum", xp.stack(table))
    if exact:
        found, totals = xp.where(totals[:, -1] > 0, xp.full_like(found, NAN), found), totals[:, :-1]
    else:
        totals = xp.concat([totals * 2.0**-HALF, *[xp.zeros_like(totals)] * (COLUMNS - 2)], axis=1)
    return xp.concat([xp.astype(found, whole)[:, None], totals], axis=1)


def _code(library: Library, power: int, largest: Any, constant: Callable[[Any], Any]) -> Any:
    """What `codes` gives, of one number of a library."""
    xp, exponent = library.xp, library.exponent(largest)
    if exponent is None:
        above = xp.astype(largest >= constant(_bounds(power)), xp.int32)
        code = xp.sum(above, dtype=xp.int32) + xp.astype(largest > 0, xp.int32)
    else:
        # From what is positive, for which the quotient is one operation.
        code = xp.astype(xp.astype(exponent + power - 1 - FIRST * HALF * power, xp.uint32) // (HALF * power), xp.int32)
        code = xp.where(largest > 0, xp.where(largest < math.inf, code, code * 0 + INFINITE), code * 0)
    return xp.where(largest == largest, code, code * 0 + NAN)


def _scale(library: Library, power: int, code: Any, constant: Callable[[Any], Any]) -> Any:
    """What terms of a code are multiplied by twice, or their roots, if `power` is 1; 0 where not all are finite."""
    table, xp = constant(_scales(power)), library.xp
    found = library.two_to((code + FIRST) * (-HALF // 2 * power), table.dtype)
    if found is None:
        return _at(xp, table, code)
    return xp.where((code > 0) & (code < INFINITE), found, xp.zeros_like(found))


def product(library: Library, factors: Sequence[Any]) -> Any:
    """One array as it is, or the product of two in the widest dtype."""
    if len(factors) == 1:
        return factors[0]
    xp, dtype = library.xp, library.widest_float()
    return xp.astype(factors[0], dtype, copy=False) * xp.astype(factors[1], dtype, copy=False)


def _digits(library: Library, v: Any, zero: Any, lost: Any) -> list[Any]:
    """The sums of both halves of all digits of scaled terms; and the number of NaN, which XLA's maximum may lose."""
    xp, digits = library.xp, []
    for rounder, unit in ROUNDERS:
        to = rounder + zero
        nearest = (v + to) - to
        v = v - nearest
        digits.append(xp.astype(nearest if unit == 1 else nearest * unit, xp.int64))
    few = math.prod(v.shape) <= WHOLE
    *added, nans = library.sums([*(digits if few else _both_halves(digits)), xp.astype(lost, xp.int64)])
    return [*(_both_halves(added) if few else added), nans]


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


def no_rows(kind: Kind) -> Any:
    """A table without any, as long and of such a dtype as NumPy's rows are."""
    return _NOTHING[:, :1].astype(np.float64) if kind == "largest" else _NOTHING


def one_row(kind: Kind, rows: Any) -> Any:
    """The same as `merged`, of any kind."""
    return np.array([[largest(np, [rows])]]) if kind == "largest" else merged(rows)


def as_words(rows: Any) -> Any:
    """Rows of any kind as rows of seven integers."""
    return np.pad(rows.view(np.int64), ((0, 0), (0, COLUMNS - rows.shape[1])))


def of_words(kind: Kind, words: Any) -> Any:
    """The rows of a kind that `as_words` was given."""
    return words[:, :1].view(np.float64) if kind == "largest" else words


def norm(xp: Any, rows: Sequence[Any]) -> Any:
    """The 2-norm from the rows of all arrays: a float of NumPy's, a 0-d array of others."""
    if xp is np:
        code, sums, wide = _numbers(rows, "squares")
        if code >= INFINITE:
            return _infinite(code, sums, wide, "squares")
        unit = _UNITS[code]
        return math.sqrt(_number(sums, wide)) * unit * unit
    code, sums, wide = _arrays(xp, rows, "squares")
    unit = _unit(xp, code, wide)
    return xp.where(code < INFINITE, xp.sqrt(_value(sums, wide)) * unit * unit, unit if wide else sums[0])


def total(xp: Any, rows: Sequence[Any], kind: Kind) -> Any:
    """The sum of the terms, or squares, from the rows of all arrays."""
    if xp is np:
        code, sums, wide = _numbers(rows, kind)
        if code >= INFINITE:
            return _infinite(code, sums, wide, kind)
        unit = _UNITS[code]
        return _number(sums, wide) * unit * unit * unit * unit
    code, sums, wide = _arrays(xp, rows, kind)
    unit, infinite = _unit(xp, code, wide), sums[0]
    if wide:
        plus, minus = (sums[k] + sums[k + 1] > 0 for k in (0, 2))
        infinite = unit if kind == "squares" else xp.where(minus, xp.where(plus, unit * math.nan, -unit), unit)
    negative, sums = _magnitude(sums, xp.where, wide)
    value = _value(sums, wide) * unit * unit * unit * unit
    return xp.where(code < INFINITE, xp.where(negative, -value, value), infinite)


def largest(xp: Any, rows: Sequence[Any]) -> Any:
    """The maximum from those of all arrays."""
    if xp is np:
        return float(np.max(np.concatenate([_NOTHING[:, :1], *rows]), initial=-math.inf))
    table = xp.concat(list(rows))
    return xp.where(xp.all(table == table), xp.max(table), xp.sum(table))


def _infinite(code: int, sums: Sequence[Any], wide: Any, kind: Kind) -> float:
    """The sum where a term is not finite; of squares its root, too, in which engines do not tell infinities apart."""
    if code == NAN:
        return math.nan
    if not wide:
        return float(sums[0])
    plus, minus = (kind != "squares" and (sums[k] > 0 or sums[k + 1] > 0) for k in (0, 2))
    return math.nan if plus and minus else -math.inf if minus else math.inf


def _floats(table: Any, kind: Kind) -> Any:
    """Rows of integers as such of floats, for where other rows are: with the sum in numbers of one sign."""
    sums = [table[:, k] for k in range(1, COLUMNS)]
    negative, sums = _magnitude(sums, np.where, float)
    floats = np.stack([table[:, 0], *(np.where(negative, -a, a) for a in _carried(sums))], axis=1).astype(np.float64)
    for i in np.flatnonzero(table[:, 0] >= INFINITE):
        floats[i, 1:] = 0.0
        floats[i, 1] = _infinite(int(table[i, 0]), table[i, 1:].tolist(), float, kind)
    return floats


def _numbers(rows: Sequence[Any], kind: Kind) -> tuple[int, list[Any], Callable[[Any], Any] | None]:
    """The code and the sums of all rows, which are NumPy's, as numbers of Python; and what makes a float of a sum."""
    if len(rows) == 1:
        (table,) = rows
    else:
        if len({table.dtype for table in rows}) > 1:
            rows = [_floats(table, kind) if table.dtype.kind == "i" else table for table in rows]
        table = np.concatenate(rows) if rows else _NOTHING
    wide = float if table.dtype.kind == "i" else None
    few = (table if 0 < len(table) <= _FEW else merged(table)).tolist()
    if len(few) == 1:
        return int(few[0][0]), few[0][1:], wide
    codes_of_rows, *columns = zip(*few, strict=True)
    code = int(max(codes_of_rows))
    if min(codes_of_rows) < code:
        columns = list(zip(*aligned(np, np.array(few), code).tolist(), strict=True))
    return code, [*map(sum, columns)], wide


def _arrays(xp: Any, rows: Sequence[Any], kind: Kind) -> tuple[Any, list[Any], Callable[[Any], Any] | None]:
    """The same of rows of another library, with NumPy's among them, as arrays of no dimension."""
    (dtype,) = {table.dtype for table in rows if not isinstance(table, np.ndarray)}
    exact = dtype == xp.int64
    host = [None if not isinstance(table, np.ndarray) else table if exact else _floats(table, kind) for table in rows]
    with quiet():
        both = [one if own is None else xp.asarray(own, dtype=dtype) for one, own in zip(rows, host, strict=True)]
    table = xp.concat(both)
    code = xp.max(table[:, 0])
    sums = xp.sum(aligned(xp, table, code), axis=0)
    return code, [sums[k] for k in range(COLUMNS - 1)], (lambda a: xp.astype(a, xp.float64)) if exact else None


def _unit(xp: Any, code: Any, wide: Any) -> Any:
    """2**(10*b) for a code."""
    with quiet():
        units = xp.asarray(np.asarray(_UNITS, np.float64 if wide else np.float32))
    return _at(xp, units, code)


def _magnitude(sums: list[Any], where: Callable[..., Any], wide: Callable[[Any], Any] | None) -> tuple[Any, list[Any]]:
    """Whether the sum is negative, and the sums of its magnitude, of which so none cancels another."""
    negative = (_carried(sums) if wide else sums)[0] < 0
    return negative, [where(negative, -a, a) for a in sums]


def _carried(sums: list[Any]) -> list[Any]:
    """The same sum with all but the first within half a digit."""
    sums = [*sums]
    for k in range(len(sums) - 1, 0, -1):
        sums[k - 1], sums[k] = sums[k - 1] + (sums[k] >> HALF), sums[k] & MASK
    return sums


def _value(sums: list[Any], wide: Callable[[Any], Any] | None) -> Any:
    """The sum in units of 2**(40*b), at least 0: float64 operations on six integers, of which all but the first fit.

    `wide` makes a float64 of an integer; it is None where the sums are floating-point numbers already.
    """
    if wide is not None:
        sums = [wide(a) for a in _carried(sums)]
    value = sums[-1]
    for a in sums[-2::-1]:
        value = value * 2.0**-HALF + a
    return value * 2.0**HALF


def _number(sums: Sequence[Any], wide: Any) -> float:
    """The same of numbers of Python, of either sign: the integers are put into one, in a third of the time."""
    if not wide:
        negative = sums[0] < 0
        value = _value([-a for a in sums] if negative else [*sums], None)
        return float(-value if negative else value)
    whole, value = 0, 0.0
    for a in sums:
        whole = (whole << HALF) + a
    rest = abs(whole)
    for _ in sums[1:]:
        value = value * 2.0**-HALF + (rest & MASK)
        rest >>= HALF
    value = (value * 2.0**-HALF + rest) * 2.0**HALF
    return -value if whole < 0 else value


def _at(xp: Any, table: Any, code: Any) -> Any:
    """The number in a table for a code. Not all libraries have `take` for lazy arrays."""
    numbers = xp.arange(table.shape[0], dtype=code.dtype)
    return xp.sum(xp.where(numbers == code, table, xp.zeros_like(table)))
