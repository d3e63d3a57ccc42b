"""Where the elements of a part lie within the whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from anyoptim._trace._scalars import integer

__all__ = ["Offset", "Runs", "place", "sizes"]

Offset = int | Sequence[int | Sequence[int]]
"""A number of elements; or, for each axis, the index of the first element or the indices of all."""


class Runs(NamedTuple):
    """Runs of elements that follow one another in the whole."""

    first: int
    """Where the part begins, if all starts are 0."""
    starts: list[np.ndarray[tuple[int], np.dtype[np.uint64]]]
    """For some axes, distances from there: each choice of one for every axis is a run, which begins at their sum."""
    length: int

    def skips(self, group: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        """The remainders, each once, of the runs' begins by the size of a group, which is a power of two."""
        remainders, by = np.array([self.first % group], np.uint64), np.uint64(group)
        for starts in self.starts:
            remainders = np.unique(np.add.outer(remainders, np.unique(starts % by)) % by)
        return remainders


def place(shape: tuple[int, ...], offset: Offset, within: Sequence[int] | None) -> int | Runs:
    """Where the elements of a part lie: the number of the first, if they follow one another in the whole, else runs.

    Raises TypeError and ValueError with the name of the argument.
    """
    if within is None:
        if isinstance(offset, Sequence | np.ndarray) and not isinstance(offset, str):
            raise TypeError(f"offset is {offset!r}; wanted a number of elements, or the shape of the whole as within=")
        return integer("offset", offset)
    whole = sizes("within", within)
    if math.prod(whole) >= 1 << 63:
        raise ValueError(f"within is {whole}; wanted fewer than 2**63 elements")
    indices = _indices(shape, offset, whole)
    if 0 in shape:
        return 0
    strides = [math.prod(whole[k + 1 :]) for k in range(len(whole))]
    axis = len(shape) - 1
    while axis > 0 and shape[axis] == whole[axis] and _consecutive(indices[axis]):
        axis -= 1
    if axis >= 0 and not _consecutive(indices[axis]):
        axis += 1  # the runs are of the axes after it, or of one element
    first, starts = 0, []
    for k, (index, stride) in enumerate(zip(indices, strides, strict=True)):
        if k >= axis or len(index) == 1:
            first += int(index[0]) * stride
        else:
            starts.append(index * np.uint64(stride))
    return Runs(first, starts, math.prod(shape[axis:])) if starts else first


def sizes(name: str, shape: Iterable[int]) -> tuple[int, ...]:
    """A shape as Python's integers. Raises TypeError and ValueError with its name."""
    try:
        entries = tuple(shape)
    except TypeError:
        raise TypeError(f"{name} is {shape!r}; wanted a tuple of integers") from None
    for k, n in enumerate(entries):
        if isinstance(n, bool):
            raise TypeError(f"{name}[{k}] is {n}; wanted an integer")
    return tuple(integer(f"{name}[{k}]", n) for k, n in enumerate(entries))


def _consecutive(index: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> bool:
    return bool((np.diff(index) == 1).all())


def _indices(
    shape: tuple[int, ...], offset: Offset, whole: tuple[int, ...]
) -> list[np.ndarray[tuple[int], np.dtype[np.uint64]]]:
    """The indices of the elements of the part, along each axis of the whole."""
    if not isinstance(offset, Sequence) or len(offset) != len(whole) or len(shape) != len(whole):
        raise ValueError(f"offset is {offset!r} for shape {shape} within {whole}; wanted an entry for each axis")
    indices = []
    for k, (n, entry, m) in enumerate(zip(shape, offset, whole, strict=True)):
        name = f"offset[{k}]"
        if isinstance(entry, Sequence | np.ndarray) and not isinstance(entry, str):
            index = np.asarray(entry)
            if index.size and index.dtype.kind not in "iu":
                raise TypeError(f"{name} is {entry!r}; wanted integers")
            if index.shape != (n,):
                raise ValueError(f"{name} has shape {index.shape}; wanted ({n},), an index for each element")
            if n and not (int(index.min()) >= 0 and int(index.max()) < m):
                raise ValueError(f"{name} goes from {index.min()} to {index.max()}; wanted at least 0 and below {m}")
            indices.append(index.astype(np.uint64))
        else:
            first = integer(name, entry)
            if n > m:
                raise ValueError(f"within[{k}] is {m} for {n} elements; wanted no fewer")
            if first + n > m:
                raise ValueError(f"{name} is {first} for {n} elements of {m}; wanted at most {m - n}")
            indices.append(np.arange(n, dtype=np.uint64) + np.uint64(first))
    return indices
