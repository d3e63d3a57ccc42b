"""Small parameters side by side: one NumPy call for all of them, where its price is the same for ten elements."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from anyoptim._engines._base import Leaf, NDArray
from anyoptim._engines.blocked._functions import BoundFunction
from anyoptim._machine._scratch import Scratch
from anyoptim._machine._threads import Call

__all__ = ["Pack", "packs"]

SMALL = 1 << 14
"""The most elements of an array in a pack. More, and copying it costs as much as the calls that it saves."""


class Pack:
    """Parameters of one compute dtype, whose slots are parts of larger arrays; p and x are copied there and back."""

    def __init__(self, leaves: Sequence[int], arrays: Sequence[Sequence[NDArray]], dtype: np.dtype[Any]) -> None:
        self.leaves = leaves
        """The numbers of the leaves."""
        self._ps = [p for p, *_ in arrays]
        self._bounds = bounds = np.cumsum([0, *(p.size for p in self._ps)]).tolist()
        self.slots = [np.concatenate([each[k].reshape(-1) for each in arrays]) for k in range(1, len(arrays[0]))]
        self._p, self._x = np.empty((2, bounds[-1]), dtype)

        def cut(whole: NDArray) -> list[NDArray]:
            pieces = zip(self._ps, itertools.pairwise(bounds), strict=True)
            return [whole[begin:end].reshape(p.shape) for p, (begin, end) in pieces]

        self._places, self.gradients = cut(self._p), cut(self._x)
        """Where the gradient of each parameter is to be copied, cast to the compute dtype."""
        self.views = list(zip(*map(cut, self.slots), strict=True))
        """The slots of each parameter."""

    def calls(self, functions: Sequence[BoundFunction], scratch: Scratch) -> list[Call]:
        """The calls of a step, once the gradients are here. Parameters side by side share them, if they share a row."""
        both = list(zip(self._ps, self._places, strict=True))
        made: list[Call] = [partial(operator.setitem, place, ..., p) for p, place in both]
        places = range(len(self.leaves))
        for _, some in itertools.groupby(places, lambda j: id(functions[self.leaves[j]])):
            side_by_side = [*some]
            begin, end = self._bounds[side_by_side[0]], self._bounds[side_by_side[-1] + 1]
            arrays = [whole[begin:end] for whole in (self._p, self._x, *self.slots)]
            made += functions[self.leaves[side_by_side[0]]](scratch, *arrays)
        return [*made, *(partial(operator.setitem, p, ..., place) for p, place in both)]


def packs(
    leaves: Sequence[Leaf], arrays: Sequence[Sequence[NDArray]], dtypes: Sequence[np.dtype[Any]], most: int
) -> list[Pack]:
    """The small leaves in packs of at most so many elements, by groups. The arrays of a leaf are p and the slots."""
    chosen: list[tuple[list[int], np.dtype[Any]]] = []
    room: dict[np.dtype[Any], int] = {}
    latest: dict[np.dtype[Any], list[int]] = {}
    for i in sorted(range(len(leaves)), key=lambda i: leaves[i].group):
        leaf, (p, *slots), dtype = leaves[i], arrays[i], dtypes[i]
        if not 0 < p.size <= min(SMALL, most) or p.dtype.kind == "c":
            continue
        # Without slots there are fewer calls than copies; slots lie here in C order, and as views of NumPy arrays.
        if not slots or slots[0] is not leaf.slots[0] or not p.flags.c_contiguous:
            continue
        if room.get(dtype, 0) < p.size:
            room[dtype], latest[dtype] = most, []
            chosen.append((latest[dtype], dtype))
        room[dtype] -= p.size
        latest[dtype].append(i)
    return [Pack(indices, [arrays[i] for i in indices], dtype) for indices, dtype in chosen if len(indices) > 1]
