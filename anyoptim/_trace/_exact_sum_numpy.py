"""The rows of the reduction of stretches of one array, by few calls of NumPy's for all of them."""

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
    codes,
    infinities,
)

__all__ = ["stretches"]

NDArray = np.ndarray[Any, Any]

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
