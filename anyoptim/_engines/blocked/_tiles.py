"""The rows of the reduction, by NumPy: arrays stand one behind the other and are summed together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays._quiet import quiet
from anyoptim._engines._base import NDArray
from anyoptim._engines.blocked._functions import BoundFunction
from anyoptim._machine._scratch import scratch
from anyoptim._trace._exact_sum import FIRST, HALF, INFINITE, ROUNDERS, SCALES, Kind, codes, infinities

__all__ = ["add_up", "tiles"]

TILE = 1 << 15
"""The elements that are summed at a time."""

SAFE = 2.0**800
"""A largest square up to this, and down to its inverse, has not been rounded as one near the ends of the range is."""


class _Stretch(NamedTuple):
    """Some elements of one parameter in logical C order; complex ones count as two, and so do real slots of those."""

    bound: BoundFunction
    arrays: Sequence[NDArray]
    """p, x and the slots."""
    begin: int
    end: int


Tile = tuple[list[_Stretch], NDArray]


def tiles(leaves: Iterable[tuple[BoundFunction, Sequence[NDArray]]]) -> tuple[list[Tile], NDArray, list[int]]:
    """The work in pieces that don't depend on each other; a table for the code and the digits of each stretch.

    A leaf is a function of what is reduced, and p, x and the slots. The last result says where in the table each
    begins, and where the last one ends.
    """
    pieces: list[list[_Stretch]] = []
    ends = [0]
    room = 0
    for bound, arrays in leaves:
        n = arrays[0].size * _reals(arrays[0])
        for begin in range(0, n, TILE):
            end = min(begin + TILE, n)
            if end - begin > room:
                pieces.append([])
                room = TILE
            pieces[-1].append(_Stretch(bound, arrays, begin, end))
            room -= end - begin
        ends.append(ends[-1] - (-n // TILE))
    table = np.empty((ends[-1], 1 + len(ROUNDERS)), np.int64)
    counts = itertools.accumulate(map(len, pieces))
    return [(piece, table[end - len(piece) : end]) for piece, end in zip(pieces, counts, strict=True)], table, ends


def add_up(kind: Kind, stretches: list[_Stretch], table: NDArray) -> None:
    """Write the rows of some stretches, in any thread."""
    lengths = np.array([stretch.end - stretch.begin for stretch in stretches])
    firsts = np.add.accumulate(lengths) - lengths
    with quiet(), scratch() as temporary:
        x, spare = temporary.arrays(np.dtype(np.float64), 2, 0, (int(lengths.sum()),), "squares")
        for (bound, arrays, begin, end), at in zip(stretches, firsts.tolist(), strict=True):
            parts = _reals(arrays[0])
            some, room = [_flat(a, begin // parts, end // parts) for a in arrays], x[at : at + end - begin]
            joint = bound.function.joint
            views = bound.function.views(*some) if joint else [_as_reals(a) for a in some]
            found = bound(temporary, *[view.astype(bound.dtype, copy=False) for view in views])
            rooms, values = [room], [found]
            if joint:  # which gives one number for an element, or two, in the place of its two reals
                rooms = [room[: len(room) // 2], room[len(room) // 2 :]]
                rooms[1][...] = -math.inf if kind == "largest" else 0.0
                values = found if bound.function.graph.parts > 1 else values
            for place, (value, *factor) in zip(rooms, values, strict=False):
                place[...] = value
                for by in factor:
                    np.multiply(place, by, out=place)
        if kind == "largest":
            table[:, 0] = (np.maximum.reduceat(x, firsts) + 0.0).view(np.int64)
        elif kind == "squares":
            _digits(x, spare, *_squares(x, spare, firsts, lengths), firsts, lengths, table)
        else:
            _digits(x, spare, _terms(x, spare, firsts, lengths), 1.0, firsts, lengths, table)


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
    """Write the codes and the digits of v, of some stretches. Both v and x, an array of the same shape, are used up."""
    table[:, 0] = code
    for k, (rounder, _) in enumerate(ROUNDERS):
        # A number that is rounded to a digit has that in its last bits: sums of these are sums of integers.
        to = np.asarray(rounder * unit)
        of_each = np.repeat(to, lengths) if to.ndim else to
        np.add(v, of_each, out=x)
        table[:, k + 1] = np.add.reduceat(x.view(np.int64), firsts) - lengths * to.view(np.int64)
        if k + 1 < len(ROUNDERS):
            np.subtract(v, np.subtract(x, of_each, out=x), out=v)


def _flat(a: NDArray, begin: int, stop: int) -> NDArray:
    """Some elements in logical C order."""
    return a.reshape(-1)[begin:stop] if a.flags.c_contiguous else a.flat[begin:stop]


def _as_reals(a: NDArray) -> NDArray:
    """Real elements, and of complex ones both parts."""
    return a.view(a.real.dtype) if a.dtype.kind == "c" else a


def _reals(a: NDArray) -> int:
    """The number of reals in an element."""
    return 2 if a.dtype.kind == "c" else 1
