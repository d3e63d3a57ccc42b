"""Memory layouts, and whether two of them have an element in common."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "ANY_ORDER",
    "MemoryLayout",
    "axis_order",
    "cut",
    "find_overlap",
    "may_overlap",
    "merged_ranges",
    "overlaps_itself",
]

NDArray = np.ndarray[Any, Any]


class MemoryLayout(NamedTuple):
    """Where an array's elements lie: enough to tell whether two arrays share any."""

    space: str
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int


ANY_ORDER = ()
"""The axis order of an array of one element, or none."""


def axis_order(layout: MemoryLayout | None) -> tuple[int, ...] | None:
    """The axes, from the longest stride to the shortest; None if there are gaps between elements."""
    if layout is None or 0 in layout.shape:
        return ANY_ORDER
    axes = enumerate(zip(layout.shape, layout.strides, strict=True))
    ordered = sorted((-stride, axis) for axis, (n, stride) in axes if n > 1)
    expected = layout.itemsize
    for stride, axis in reversed(ordered):
        if -stride != expected:
            return None
        expected *= layout.shape[axis]
    return tuple(axis for _, axis in ordered)


def find_overlap(layouts: Sequence[MemoryLayout]) -> tuple[int, int] | None:
    """The numbers of two of these layouts, none of them empty, that have an element in common; or None.

    The answer is exact: the columns of one matrix interleave and share nothing. NumPy solves the equations
    from addresses and strides alone; nothing is read, so memory of any device can be asked about.
    """
    ranges = sorted((layout.space, *_byte_range(layout), i) for i, layout in enumerate(layouts))
    open_ranges: list[tuple[int, int]] = []
    last_space = ""
    for space, low, high, i in ranges:
        open_ranges = [(end, j) for end, j in open_ranges if end > low] if space == last_space else []
        last_space = space
        for _, j in open_ranges:
            if np.shares_memory(_stand_in(layouts[i]), _stand_in(layouts[j])):
                return min(i, j), max(i, j)
        open_ranges.append((high, i))
    return None


def may_overlap(layout: MemoryLayout, ranges: tuple[list[int], list[int]]) -> bool:
    """Whether the range of bytes of a layout meets one of these, which `merged_ranges` gives. All are in one space.

    Two ranges may meet though no element is shared: an array may lie between the elements of another.
    """
    starts, ends = ranges
    low, high = _byte_range(layout)
    i = bisect_right(ends, low)  # the first range that ends after this one starts
    return i < len(starts) and starts[i] < high


def merged_ranges(layouts: Sequence[MemoryLayout]) -> tuple[list[int], list[int]]:
    """The ranges of bytes that the layouts span, joined where they meet, in order: all starts, and all ends."""
    starts: list[int] = []
    ends: list[int] = []
    for low, high in sorted(map(_byte_range, layouts)):
        if ends and low <= ends[-1]:
            ends[-1] = max(ends[-1], high)
        else:
            starts.append(low)
            ends.append(high)
    return starts, ends


def overlaps_itself(layout: MemoryLayout) -> bool:
    """Whether two elements of one array lie in the same place, as after a broadcast.

    True too for layouts that no slicing, transposing or reshaping of an array gives.
    """
    extent = layout.itemsize
    strides = ((abs(stride), n) for stride, n in zip(layout.strides, layout.shape, strict=True) if n > 1)
    for stride, n in sorted(strides):
        if stride < extent:
            return True
        extent += stride * (n - 1)
    return False


def _byte_range(layout: MemoryLayout) -> tuple[int, int]:
    """The address of the first byte, and that after the last one."""
    reach = [stride * (n - 1) for stride, n in zip(layout.strides, layout.shape, strict=True)]
    low, high = sum(min(r, 0) for r in reach), sum(max(r, 0) for r in reach)
    return layout.address + low, layout.address + high + layout.itemsize


class _ArrayInterface:
    """An object that NumPy takes for an array of this layout."""

    def __init__(self, layout: MemoryLayout) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (layout.address, True),
            "shape": layout.shape,
            "strides": layout.strides,
            "typestr": f"|V{layout.itemsize}",
        }


def _stand_in(layout: MemoryLayout) -> np.ndarray[Any, Any]:
    """An array of this layout, which must not be read."""
    return np.asarray(_ArrayInterface(layout))


def cut(arrays: Sequence[NDArray], most: int) -> Iterator[Sequence[NDArray]]:
    """Arrays of one shape in blocks of at most so many elements, along their first axes."""
    first = arrays[0]
    if first.size <= most:
        yield arrays
        return
    rows = most * len(first) // first.size
    if rows:
        for i in range(0, len(first), rows):
            yield [a[i : i + rows] for a in arrays]
    else:
        for i in range(len(first)):
            yield from cut([a[i] for a in arrays], most)
