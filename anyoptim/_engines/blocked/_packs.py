"""Small parameters side by side: one NumPy call for all of them, where its price is the same for ten elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anyoptim._engines._base import Leaf, NDArray

__all__ = ["Pack", "packs"]

SMALL = 1 << 14
"""The most elements of an array in a pack. More, and copying it costs as much as the calls that it saves."""


class Pack:
    """Parameters of one compute dtype, whose slots are parts of larger arrays; p and x are copied there and back."""

    def __init__(self, leaves: Sequence[int], arrays: Sequence[Sequence[NDArray]], dtype: np.dtype[Any]) -> None:
        self.leaves = leaves
        """The numbers of the leaves."""
        self.dtype = dtype
        ps = [p for p, *_ in arrays]
        bounds = np.cumsum([0, *(p.size for p in ps)]).tolist()
        self.slots = [np.concatenate([each[k].reshape(-1) for each in arrays]) for k in range(1, len(arrays[0]))]
        self.p, self.x = np.empty((2, bounds[-1]), dtype)

        def cut(whole: NDArray) -> list[NDArray]:
            pieces = zip(ps, bounds[:-1], bounds[1:], strict=True)
            return [whole[begin:end].reshape(p.shape) for p, begin, end in pieces]

        self._places = list(zip(leaves, ps, cut(self.p), cut(self.x), strict=True))
        self.views = list(zip(*map(cut, self.slots), strict=True))
        """The slots of each parameter."""

    def load(self, xs: Sequence[NDArray]) -> None:
        """Copy the parameters here, and their gradients, out of those of all leaves, cast to the compute dtype."""
        for i, p, place, x_place in self._places:
            place[...] = p
            x_place[...] = xs[i]

    def store(self) -> None:
        """Copy the parameters back."""
        for _, p, place, _ in self._places:
            p[...] = place


def packs(
    leaves: Sequence[Leaf], arrays: Sequence[Sequence[NDArray]], dtypes: Sequence[np.dtype[Any]], most: int
) -> list[Pack]:
    """The small leaves in packs of at most so many elements. The arrays of a leaf are p and the slots."""
    chosen: list[tuple[list[int], np.dtype[Any]]] = []
    room: dict[np.dtype[Any], int] = {}
    latest: dict[np.dtype[Any], list[int]] = {}
    for i, (leaf, (p, *slots), dtype) in enumerate(zip(leaves, arrays, dtypes, strict=True)):
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
