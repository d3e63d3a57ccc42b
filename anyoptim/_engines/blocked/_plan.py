"""The plans of the blocked engine: the traced rules as NumPy calls over blocks that stay in the cache, in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from anyoptim._arrays import COMPUTE, Array, host_memory
from anyoptim._arrays._memory import may_overlap, merged_ranges
from anyoptim._arrays._quiet import quiet, quietly
from anyoptim._engines import _threads
from anyoptim._engines._base import Commit, Leaf, NDArray, Plan, Result, Written, host_view, real
from anyoptim._engines.blocked._functions import BoundFunction, block_function
from anyoptim._engines.blocked._packs import packs
from anyoptim._engines.blocked._scratch import Scratch, give, retake, scratch
from anyoptim._engines.blocked._tiles import add_up, tiles
from anyoptim._trace._coefficients import CoefficientTable, Replay
from anyoptim._trace._program import Coefficients, Program, all_floats, static_options

__all__ = ["BlockedPlan"]

BLOCK = 1 << 16
"""The elements in a block. With fewer the calls cost more than the arithmetic, with more scratch leaves the cache."""

THREADED = 32
"""The fewest blocks that threads share out. With fewer, waking the threads costs what they save."""

Arrays = Sequence[NDArray]


class BlockedPlan(Plan):
    """A plan for arrays that NumPy can read and write, where the parameter is to be written where it lies."""

    in_place = True

    def __init__(self, program: Program, leaves: Sequence[Leaf]) -> None:
        super().__init__(program, leaves)
        self.arrays = [[host_view(leaf.library, a) for a in (leaf.p, *leaf.slots)] for leaf in leaves]
        # The dtypes of the arithmetic: of complex arrays those of their parts.
        self.dtypes = [real(COMPUTE[leaf.library.dtype(leaf.p)]) for leaf in leaves]
        self.kinds = list(dict.fromkeys(self.dtypes))
        self.functions: dict[Any, BoundFunction] = {}
        self.packs = packs(leaves, self.arrays, self.dtypes, BLOCK)
        self.alone = [i for i, (p, *_) in enumerate(self.arrays) if p.size]
        slots = [leaf.slots for leaf in leaves]
        for pack in self.packs:
            for i, views in zip(pack.leaves, pack.views, strict=True):
                self.arrays[i][1:] = slots[i] = views
                self.alone.remove(i)
        self.results = [Result(leaf.p, own) for leaf, own in zip(leaves, slots, strict=True)]
        self.layouts = [(a[0], a[0].dtype, a[0].shape, a[0].strides) for a in self.arrays]

    @property
    def written(self) -> Written:
        packed = [slot for pack in self.packs for slot in pack.slots]
        return Written([*(p for p, *_ in self.arrays), *(s for i in self.alone for s in self.arrays[i][1:]), *packed])

    def avoid_aliasing(self, written: Written) -> None:
        super().avoid_aliasing(written)
        self._forbidden_ids = {id(a) for a in written.host}
        self._ranges = merged_ranges([host_memory(a) for a in written.host if a.size])
        # An array that owns its memory shares it with no other one that does.
        self._owners = all(a.base is None for a in written.host)
        self._user_arrays = all(leaf.destination is a[0] for leaf, a in zip(self.leaves, self.arrays, strict=True))

    def regather(self, xs: Sequence[Array]) -> Sequence[NDArray] | None:
        if not self._user_arrays:
            return None
        array, owners = np.ndarray, self._owners
        for (p, dtype, shape, strides), (x_dtype, x_strides), x in zip(self.layouts, self._forms, xs, strict=True):
            if (
                type(x) is not array
                or x.dtype is not x_dtype
                or x.shape != shape
                or x.strides != x_strides
                or p.shape != shape
                or p.strides != strides
                or p.dtype is not dtype
                or not p.flags.writeable
                or ((x.base is not None or not owners) and self._aliases(x))
            ):
                return None
        return xs if self._forbidden_ids.isdisjoint(map(id, xs)) else None

    def replay(self, xs: Sequence[Array], rows: list[Coefficients], row_of_leaf: Sequence[int]) -> bool:
        return bool(quietly(super().replay, xs, rows, row_of_leaf))

    def gather(self, xs: Sequence[Array]) -> Sequence[NDArray]:
        views = [host_view(leaf.library, x) for leaf, x in zip(self.leaves, xs, strict=True)]
        self._forms = [(x.dtype, x.strides) for x in views]
        if all(x.base is None for x in views) and self._owners and self._forbidden_ids.isdisjoint(map(id, views)):
            return views
        # A step may change what another parameter's gradient reads before it is read.
        return [x.copy() if self._aliases(x) else x for x in views]

    def _aliases(self, x: NDArray) -> bool:
        """Whether a gradient may lie in memory that the step writes to."""
        return bool(x.size) and may_overlap(host_memory(x), self._ranges)

    def squares(self, k: int, gathered: Sequence[NDArray], rows: CoefficientTable) -> list[NDArray]:
        leaves = zip(self._functions(k, rows), self.arrays, gathered, strict=True)
        pieces, sums = tiles((bound, (p, x, *slots)) for bound, (p, *slots), x in leaves)
        _spread(add_up, [(piece,) for piece in pieces])
        return sums

    def prepare(self, gathered: Sequence[NDArray], rows: CoefficientTable) -> Commit:
        functions = self._functions(None, rows)
        self.last_step = None
        alike = len(rows.distinct) == 1 and len({*map(id, functions)}) == 1
        if alike and not self.program.measures and all(map(all_floats, rows.distinct[0])):
            one, run = functions[0], self._replayed(functions[0])
            self.last_step = Replay(rows.distinct, one.function.scalars, one.dtype, [one.table], run)

        def commit() -> Sequence[Result]:
            self._run(functions, gathered)
            self.touch()
            return self.results

        return commit

    def _run(self, functions: Sequence[BoundFunction], gathered: Sequence[NDArray]) -> None:
        alone = self.alone
        for pack in self.packs:
            bound = functions[pack.leaves[0]]
            if all(functions[i] is bound for i in pack.leaves):
                pack.load(gathered)
                with scratch() as temporary:
                    bound.function.call(*bound.arguments(temporary, pack.p, pack.x, *pack.slots))
                pack.store()
            else:  # they have several rows of coefficients
                alone = [*alone, *pack.leaves]
        _spread(_block, [(functions[i], *block) for i in alone for block in _blocks(self.arrays[i], gathered[i])])

    def _replayed(self, bound: BoundFunction) -> Callable[[BlockedPlan, Sequence[NDArray]], None]:
        """What `_run` does for one row and such gradients as `regather` lets pass, with everything laid ready."""
        call, packs = bound.function.call, self.packs
        whole, rest = [], []
        for i in self.alone:
            p, *slots = self.arrays[i]
            if p.dtype is bound.dtype is self._forms[i][0] and p.size <= BLOCK:
                whole.append((i, p, slots))
            else:
                rest.append(i)

        def laid(temporary: Scratch) -> tuple[Scratch, list[Any], list[Any]]:
            packed = [(pack, bound.arguments(temporary, pack.p, pack.x, *pack.slots)) for pack in packs]
            return temporary, packed, [(i, p, bound.arguments(temporary, p, p, *slots)[2:]) for i, p, slots in whole]

        with scratch() as first:
            ready = laid(first)

        def run(plan: BlockedPlan, gathered: Sequence[NDArray]) -> None:
            nonlocal ready
            try:
                retake(ready[0])
            except ValueError:
                ready = laid(scratch())
            temporary, packed, alone = ready
            try:  # not by `with`, which costs two calls
                for pack, arguments in packed:
                    pack.load(gathered)
                    call(*arguments)
                    pack.store()
                for i, p, arguments in alone:
                    call(p, gathered[i], *arguments)
            finally:
                give(temporary)
            if rest:
                _spread(_block, [(bound, *block) for i in rest for block in _blocks(plan.arrays[i], gathered[i])])

        return run

    def _functions(self, k: int | None, rows: CoefficientTable) -> list[BoundFunction]:
        """For each leaf the step, or what part `k` measures."""
        if len(rows.distinct) == 1 and len(self.kinds) == 1:
            return [self._function(k, 0, rows.distinct[0], self.kinds[0])] * len(self.leaves)
        functions = {(i, d): self._function(k, i, row, d) for i, row in enumerate(rows.distinct) for d in self.kinds}
        return [functions[key] for key in zip(rows.row_of_leaf, self.dtypes, strict=True)]

    def _function(self, k: int | None, i: int, row: Coefficients, dtype: np.dtype[Any]) -> BoundFunction:
        """The function for row `i`, which is made once and given other numbers at every step."""
        key = k, static_options(row), i, dtype
        bound = self.functions.get(key)
        if bound is None:
            function = block_function(self.program, k, key[1])
            table = np.empty(len(function.scalars), dtype)
            # As arrays of no dimension, which NumPy takes in half the time of a Python or NumPy number.
            numbers = [table[j, ...] for j in range(len(table))]
            bound = self.functions[key] = BoundFunction(function, dtype, table, numbers)
        bound.table[...] = bound.function.scalars.values(row, dtype)
        return bound


def _spread(call: Callable[..., None], pieces: Sequence[tuple[Any, ...]]) -> None:
    """Make a call for each piece, by several threads if there are enough pieces."""
    if len(pieces) < THREADED:
        for piece in pieces:
            call(*piece)
    else:
        _threads.spread(call, pieces)


def _block(bound: BoundFunction, p: NDArray, x: NDArray, slots: Arrays) -> None:
    """Call a function on one block, in any thread. Half precision and gradients of another dtype are cast for it."""
    with quiet(), scratch() as temporary:
        wide_p, wide_x = p, x
        if p.dtype != bound.dtype or x.dtype != bound.dtype:
            wide_p, wide_x = temporary.arrays(bound.dtype, 2, 0, p.shape, "cast")
            np.copyto(wide_p, p, casting="same_kind")
            np.copyto(wide_x, x, casting="same_kind")
        bound.function.call(*bound.arguments(temporary, wide_p, wide_x, *slots))
        if wide_p is not p:
            np.copyto(p, wide_p, casting="same_kind")


def _blocks(leaf: Arrays, x: NDArray) -> Iterator[tuple[NDArray, NDArray, Arrays]]:
    """Blocks of a parameter with its slots, and of its gradient, along the memory; complex ones are two reals."""
    p, *slots = leaf
    if p.dtype.kind == "c":
        yield from _blocks([a.real for a in leaf], x.real)
        yield from _blocks([a.imag for a in leaf], x.imag)
        return
    arrays = [p, x, *slots]
    if p.flags.f_contiguous and not p.flags.c_contiguous:
        arrays = [a.T for a in arrays]
    if all(a.flags.c_contiguous for a in arrays):
        arrays = [a.reshape(-1) for a in arrays]
    for block in _cut(arrays):
        yield block[0], block[1], block[2:]


def _cut(arrays: Arrays) -> Iterator[Arrays]:
    first = arrays[0]
    if first.size <= BLOCK:
        yield arrays
        return
    rows = BLOCK * len(first) // first.size
    if rows:
        for i in range(0, len(first), rows):
            yield [a[i : i + rows] for a in arrays]
    else:
        for i in range(len(first)):
            yield from _cut([a[i] for a in arrays])
