"""The quantile of the normal distribution, of words and in words, with operations on integers alone.

A float's product and sum are one operation or two, as a compiler likes; an integer's are what they are.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from anyoptim._arrays import Array, Library
from anyoptim._arrays._quiet import quiet
from anyoptim.random._philox import multiply
from anyoptim.random._rounds import MASK
from anyoptim.random._table import DEGREE, PARTS, TEXT

__all__ = ["upper"]


@functools.cache
def _table() -> np.ndarray[Any, Any]:
    words = np.frombuffer(bytes.fromhex(TEXT), ">u4")
    return words.reshape(32 << PARTS, DEGREE + 1)


def upper(arrays: Library, words: Array) -> Array:
    """What a standard normal number exceeds with probability (2*(word mod 2**31) + 1) / 2**33, in units of 2**-29.

    ::

        n = 2*(word mod 2**31) + 1 = 2**(31-e) * (1 + (part + f) / 2**PARTS)        0 <= f < 1
        c0 - f*(c1 - f*(c2 - f*c3))                                                 c = table[e, part]

    with a fraction of 32 bits for f, and each product rounded down.
    """
    xp = arrays.xp
    with quiet():
        n = ((words << 1) & MASK) | 1 if arrays.wide_integers else (words << 1) | 1
        x, exponent = _normalized(xp, n)
        index = (exponent << PARTS) + ((x >> (31 - PARTS)) & ((1 << PARTS) - 1))
        f = x << (PARTS + 1)
        if arrays.wide_integers:
            f = f & MASK
        *cs, z = arrays.gather_columns(_table(), index)
        for c in reversed(cs):
            z = c - multiply(arrays, f, z)
    return z


def _normalized(xp: Any, n: Array) -> tuple[Array, Array]:
    """Odd words, shifted up until the first bit is set, and the numbers of places they were shifted by."""
    if type(n) is np.ndarray:
        _, bits = np.frexp(n.astype(np.float64))  # which holds a word without rounding
        places = 32 - bits.astype(n.dtype)
        return n << places, places
    places = xp.zeros_like(n)
    for shift in (16, 8, 4, 2, 1):
        small = (n >> (32 - shift)) == 0
        n = xp.where(small, n << shift, n)
        places = places + xp.astype(small, n.dtype) * shift
    return n, places
