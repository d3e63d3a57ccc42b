"""MemoryLayout layouts, and whether two of them have an element in common."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["ANY", "MemoryLayout", "may_overlap", "merged", "order", "overlaps_itself", "shared"]


class MemoryLayout(NamedTuple):
    """Where an array's elements lie: enough to tell whether two arrays share any."""

    space: str
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int


ANY = ()
"""The order of what has one element, or none."""


def order(m: MemoryLayout | None) -> tuple[int, ...] | None:
    """The axes, from the longest steps to the shortest; None if there are gaps between elements."""
    if m is None or 0 in m.shape:
        return ANY
    steps = sorted((-stride, axis) for axis, (n, stride) in enumerate(zip(m.shape, m.strides, strict=True)) if n > 1)
    expected = m.itemsize
    for stride, axis in reversed(steps):
        if -stride != expected:
            return None
        expected *= m.shape[axis]
    return tuple(axis for _, axis in steps)


def shared(memories: Sequence[MemoryLayout]) -> tuple[int, int] | None:
    """Two of these, none of them empty, that have an element in common; or None.

    Exact: the columns of one matrix interleave and share nothing. NumPy solves the equations
    from addresses and strides alone; nothing is read, so memory of any device can be asked about.
    """
    bounds = sorted((m.space, *_bounds(m), i) for i, m in enumerate(memories))
    open_: list[tuple[int, int]] = []
    space = ""
    for here, low, high, i in bounds:
        open_ = [(end, j) for end, j in open_ if end > low] if here == space else []
        space = here
        for _, j in open_:
            if np.shares_memory(_unread(memories[i]), _unread(memories[j])):
                return min(i, j), max(i, j)
        open_.append((high, i))
    return None


def may_overlap(memories: Sequence[MemoryLayout], others: Sequence[MemoryLayout]) -> list[bool]:
    """For each memory whether it lies among the others, and may share some with them.

    By first and last byte alone: True too for what lies between the elements of another. All in one space.
    """
    begins, ends = merged(others)
    found = []
    for low, high in map(_bounds, memories):
        i = bisect_right(ends, low)  # the first stretch that ends after this begins
        found.append(i < len(begins) and begins[i] < high)
    return found


def merged(memories: Sequence[MemoryLayout]) -> tuple[list[int], list[int]]:
    """The stretches of memory from the first byte to the last of each, joined where they meet: begins and ends."""
    begins: list[int] = []
    ends: list[int] = []
    for low, high in sorted(map(_bounds, memories)):
        if ends and low <= ends[-1]:
            ends[-1] = max(ends[-1], high)
        else:
            begins.append(low)
            ends.append(high)
    return begins, ends


def overlaps_itself(m: MemoryLayout) -> bool:
    """Whether two elements of one array lie in the same place, as after a broadcast.

    True too for layouts that no slicing, transposing or reshaping of an array gives.
    """
    extent = m.itemsize
    for step, n in sorted((abs(step), n) for step, n in zip(m.strides, m.shape, strict=True) if n > 1):
        if step < extent:
            return True
        extent += step * (n - 1)
    return False


def _bounds(m: MemoryLayout) -> tuple[int, int]:
    reach = [step * (n - 1) for step, n in zip(m.strides, m.shape, strict=True)]
    return m.address + sum(min(r, 0) for r in reach), m.address + sum(max(r, 0) for r in reach) + m.itemsize


class _Layout:
    def __init__(self, m: MemoryLayout) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (m.address, True),
            "shape": m.shape,
            "strides": m.strides,
            "typestr": f"|V{m.itemsize}",
        }


def _unread(m: MemoryLayout) -> np.ndarray[Any, Any]:
    return np.asarray(_Layout(m))
