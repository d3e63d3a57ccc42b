"""Arrays that are read beside parameters, in the dtype and the memory order that a kernel takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anyoptim._arrays._library import Array, Library
from anyoptim._arrays._memory import ANY_ORDER, axis_order, may_overlap
from anyoptim._arrays._quiet import quiet

__all__ = ["Beside", "BesideOnDevice"]

NDArray = np.ndarray[Any, Any]


class Beside:
    """For each parameter in this machine's memory arrays of its shape, in the dtype of the arithmetic and in its order.

    An array that is so lies where the user's lies; of another one there is a copy, which `load` brings up to date.
    """

    def __init__(
        self, library: Library, reads: Sequence[Sequence[Array]], likes: Sequence[NDArray], dtypes: Sequence[Any]
    ) -> None:
        """Lay out what is read beside parameters that are like some arrays of NumPy's, in these dtypes."""
        self._library = library
        self._copies: list[tuple[NDArray, Array]] = []
        """Copies, and what they are of."""
        each = zip(reads, likes, dtypes, strict=True)
        self.arrays = [[self._laid(a, like, dtype) for a in of] for of, like, dtype in each]

    def __bool__(self) -> bool:
        """Whether there are copies."""
        return bool(self._copies)

    def _laid(self, given: Array, like: NDArray, dtype: Any) -> NDArray:
        view = self._library.numpy_view(given)
        if view is None or view.dtype != dtype or not view.flags.aligned or not _in_order(view, like):
            return self._copy(given, like, dtype)
        return view.view()

    def _copy(self, given: Array, like: NDArray, dtype: Any) -> NDArray:
        copy = np.empty_like(like, dtype=dtype, subok=False)
        self._copies.append((copy, given))
        return copy

    def detach(self, reads: Sequence[Sequence[Array]], overlaps: Callable[[NDArray], bool]) -> None:
        """Take copies of what lies where something else is written to."""
        known = {id(copy) for copy, _ in self._copies}
        for of, given in zip(self.arrays, reads, strict=True):
            for j, a in enumerate(of):
                if id(a) not in known and a.size and overlaps(a):
                    of[j] = self._copy(given[j], a, a.dtype)

    def load(self) -> None:
        """Bring the copies up to date."""
        with quiet():
            for copy, given in self._copies:
                copy[...] = self._library.to_host(self._library.local(given))


def _in_order(a: NDArray, like: NDArray) -> bool:
    """Whether elements lie in the order of those of an array, if that is contiguous."""
    if like.flags.c_contiguous:
        return a.flags.c_contiguous
    return a.flags.f_contiguous if like.flags.f_contiguous else True


class BesideOnDevice:
    """The same for parameters on a CUDA device, of which there are the addresses."""

    def __init__(self, library: Library, leaves: Sequence[Any], dtype: str) -> None:
        """Lay out what is read beside leaves, in the dtype of this name."""
        self._library, self._leaves, self._dtype = library, leaves, dtype
        self._copies: dict[tuple[int, int], Array] = {}
        self.addresses: list[list[int]] = [[0] * len(leaf.reads) for leaf in leaves]
        for i, leaf in enumerate(leaves):
            orders = {axis_order(library.memory(a)) for a in (leaf.p, *leaf.slots)} - {ANY_ORDER}
            for j, a in enumerate(leaf.reads):
                memory = library.memory(a)
                order = axis_order(memory)
                fits = order == ANY_ORDER or (order is not None and orders <= {order})
                if library.dtype(a) == dtype and fits:
                    self.addresses[i][j] = 0 if memory is None else memory.address
                else:
                    self._copy(i, j)

    def _copy(self, i: int, j: int) -> None:
        library, p = self._library, self._leaves[i].p
        with library.on_device_of(p):
            copy = self._copies[i, j] = library.xp.empty_like(p, dtype=getattr(library.xp, self._dtype))
        memory = library.memory(copy)
        self.addresses[i][j] = 0 if memory is None else memory.address

    def detach(self, stretches: tuple[list[int], list[int]]) -> bool:
        """Take copies of what lies where something else is written to, and say whether there was any."""
        found = []
        for i, leaf in enumerate(self._leaves):
            for j, a in enumerate(leaf.reads):
                memory = self._library.memory(a)
                if (i, j) not in self._copies and memory is not None and may_overlap(memory, stretches):
                    found.append((i, j))
        for place in found:
            self._copy(*place)
        return bool(found)

    def load(self) -> None:
        """Bring the copies up to date, on the library's current stream."""
        library = self._library
        for (i, j), copy in self._copies.items():
            with quiet(), library.on_device_of(copy):
                library.write(copy, library.xp.astype(self._leaves[i].reads[j], copy.dtype))
