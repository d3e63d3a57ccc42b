"""The blocked engine: the traced rules as NumPy calls over blocks that stay in the cache, in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from anyoptim._arrays import COMPUTE, Array, host_memory
from anyoptim._arrays._memory import may_overlap
from anyoptim._arrays._quiet import quiet, quietly
from anyoptim._engines import _threads
from anyoptim._engines._base import CoefficientTable, Commit, Leaf, NDArray, Plan, Replay, Result, Written, viewed
from anyoptim._engines.blocked._kernels import Work, kernel, text
from anyoptim._engines.blocked._packs import packs
from anyoptim._engines.blocked._scratch import Scratch, give, retake, scratch
from anyoptim._engines.blocked._tiles import add_up, tiles
from anyoptim._trace._program import Coefficients, Program, all_floats, static_options

__all__ = ["Blocked", "refusal", "source"]

BLOCK = 1 << 16
"""Elements at a time. Less, and the calls cost more than the arithmetic; more, and scratch falls out of the cache."""

THREADED = 32
"""From how many blocks on threads share them out. Fewer, and waking them costs what they save."""

Arrays = Sequence[NDArray]


def refusal(leaf: Leaf, x: Array) -> str | None:
    """Why the engine can't take this leaf with such a gradient, or None."""
    if leaf.destination is None:
        return "it can't be written to"
    if leaf.library.numpy_view(leaf.p) is None or leaf.library.numpy_view(x) is None:
        return f"NumPy can't read and write {leaf.library.name} arrays of dtype {leaf.library.dtype(leaf.p)}"
    return None


class Blocked(Plan):
    """Takes arrays that NumPy can read and write, where the parameter is to be written where it lies."""

    lasting = True

    def __init__(self, program: Program, leaves: Sequence[Leaf]) -> None:
        super().__init__(program, leaves)
        self.arrays = [[viewed(leaf.library, a) for a in (leaf.p, *leaf.slots)] for leaf in leaves]
        # Of complex arrays: of their parts.
        self.dtypes = [np.dtype(np.dtype(COMPUTE[leaf.library.dtype(leaf.p)]).char.lower()) for leaf in leaves]
        self.kinds = list(dict.fromkeys(self.dtypes))
        self.works: dict[Any, Work] = {}
        self.packs = packs(leaves, self.arrays, self.dtypes, BLOCK)
        self.alone = [i for i, (p, *_) in enumerate(self.arrays) if p.size]
        slots = [leaf.slots for leaf in leaves]
        for pack in self.packs:
            for i, views in zip(pack.leaves, pack.views, strict=True):
                self.arrays[i][1:] = slots[i] = views
                self.alone.remove(i)
        self.results = [Result(leaf.p, of) for leaf, of in zip(leaves, slots, strict=True)]
        self.seen = [(a[0], a[0].dtype, a[0].shape, a[0].strides) for a in self.arrays]

    @property
    def written(self) -> Written:
        packed = [slot for pack in self.packs for slot in pack.slots]
        return Written([*(p for p, *_ in self.arrays), *(s for i in self.alone for s in self.arrays[i][1:]), *packed])

    def avoid_aliasing(self, written: Written) -> None:
        super().avoid_aliasing(written)
        self._forbidden_ids = {id(a) for a in written.here}
        # Arrays that own their memory are in nobody else's.
        owners = all(a.base is None for a in written.here)
        same = all(leaf.destination is a[0] for leaf, a in zip(self.leaves, self.arrays, strict=True))
        self._simple = owners and same

    def quick(self, xs: Sequence[Array]) -> Sequence[NDArray] | None:
        if not self._simple:
            return None
        array = np.ndarray
        for (p, dtype, shape, strides), x in zip(self.seen, xs, strict=True):
            if (
                type(x) is not array
                or x.dtype is not dtype
                or x.shape != shape
                or x.base is not None
                or p.shape != shape
                or p.strides != strides
                or p.dtype is not dtype
                or not p.flags.writeable
            ):
                return None
        return xs if self._forbidden_ids.isdisjoint(map(id, xs)) else None

    def replay(self, xs: Sequence[Array], row: Coefficients) -> bool:
        return bool(quietly(super().replay, xs, row))

    def gather(self, xs: Sequence[Array]) -> Sequence[NDArray]:
        return _set_apart([viewed(leaf.library, x) for leaf, x in zip(self.leaves, xs, strict=True)], self._forbidden)

    def squares(self, k: int, gathered: Sequence[NDArray], rows: CoefficientTable) -> list[NDArray]:
        leaves = zip(self._works(k, rows), self.arrays, gathered, strict=True)
        pieces, sums = tiles((work, (p, x, *slots)) for work, (p, *slots), x in leaves)
        _spread(add_up, [(piece,) for piece in pieces])
        return sums

    def prepare(self, gathered: Sequence[NDArray], rows: CoefficientTable) -> Commit:
        works = self._works(None, rows)
        self.last_step = None
        if (
            len(rows.distinct) == 1
            and len({id(work) for work in works}) == 1
            and all(map(all_floats, rows.distinct[0]))
        ):
            work = works[0]
            self.last_step = Replay(rows.distinct[0], work.kernel.scalars, work.dtype, work.table, self._again(work))

        def commit() -> Sequence[Result]:
            self._run(works, gathered)
            self.touch()
            return self.results

        return commit

    def _run(self, works: Sequence[Work], gathered: Sequence[NDArray]) -> None:
        alone = self.alone
        for pack in self.packs:
            work = works[pack.leaves[0]]
            if all(works[i] is work for i in pack.leaves):
                pack.load(gathered)
                with scratch() as own:
                    work.kernel.call(*work.arguments(own, pack.p, pack.x, *pack.slots))
                pack.store()
            else:  # they have several rows of coefficients
                alone = [*alone, *pack.leaves]
        _spread(_block, [(works[i], *block) for i in alone for block in _blocks(self.arrays[i], gathered[i])])

    def _again(self, work: Work) -> Callable[[Blocked, Sequence[NDArray]], None]:
        """The same for one row and such gradients as `quick` lets pass, with everything laid ready."""
        call, packs = work.kernel.call, self.packs
        whole, rest = [], []
        for i in self.alone:
            p, *slots = self.arrays[i]
            if p.dtype is work.dtype and p.size <= BLOCK:
                whole.append((i, p, slots))
            else:
                rest.append(i)

        def laid(own: Scratch) -> tuple[Scratch, list[Any], list[Any]]:
            packed = [(pack, work.arguments(own, pack.p, pack.x, *pack.slots)) for pack in packs]
            return own, packed, [(i, p, work.arguments(own, p, p, *slots)[2:]) for i, p, slots in whole]

        with scratch() as first:
            ready = laid(first)

        def run(plan: Blocked, gathered: Sequence[NDArray]) -> None:
            nonlocal ready
            try:
                retake(ready[0])
            except ValueError:
                ready = laid(scratch())
            own, packed, alone = ready
            try:  # not by `with`, which costs two calls
                for pack, arguments in packed:
                    pack.load(gathered)
                    call(*arguments)
                    pack.store()
                for i, p, arguments in alone:
                    call(p, gathered[i], *arguments)
            finally:
                give(own)
            if rest:
                _spread(_block, [(work, *block) for i in rest for block in _blocks(plan.arrays[i], gathered[i])])

        return run

    def _works(self, k: int | None, rows: CoefficientTable) -> list[Work]:
        """For each leaf the kernel and its numbers."""
        if len(rows.distinct) == 1 and len(self.kinds) == 1:
            return [self._work(k, 0, rows.distinct[0], self.kinds[0])] * len(self.leaves)
        works = {(i, d): self._work(k, i, row, d) for i, row in enumerate(rows.distinct) for d in self.kinds}
        return [works[key] for key in zip(rows.row_of_leaf, self.dtypes, strict=True)]

    def _work(self, k: int | None, i: int, row: Coefficients, dtype: np.dtype[Any]) -> Work:
        """What row `i` needs; made once, with other numbers at every step."""
        key = k, static_options(row), i, dtype
        work = self.works.get(key)
        if work is None:
            made = kernel(self.program, k, key[1])
            table = np.empty(len(made.scalars), dtype)
            # As arrays of no dimension, which NumPy takes in half the time of a Python or NumPy number.
            work = self.works[key] = Work(made, dtype, table, [table[j, ...] for j in range(len(table))])
        work.table[...] = work.kernel.scalars.values(row, dtype)
        return work


def source(program: Program, k: int | None, row: Coefficients) -> str:
    """The text of the step, or of what part `k` measures."""
    return text(program, k, static_options(row)).text


def _set_apart(xs: Arrays, written: Arrays) -> Arrays:
    """The gradients, copied where another parameter's step might change them before they are read."""
    if all(a.base is None for a in (*written, *xs)) and not {*map(id, written)} & {*map(id, xs)}:
        return xs  # each owns its memory, so that none is in another's
    there = iter(may_overlap([host_memory(x) for x in xs if x.size], [host_memory(a) for a in written if a.size]))
    return [x.copy() if x.size and next(there) else x for x in xs]


def _spread(call: Callable[..., None], pieces: Sequence[tuple[Any, ...]]) -> None:
    """The calls, by several threads if there are enough."""
    if len(pieces) < THREADED:
        for piece in pieces:
            call(*piece)
    else:
        _threads.spread(call, pieces)


def _block(work: Work, p: NDArray, x: NDArray, slots: Arrays) -> None:
    """One block, in whatever thread. Half precision is widened and rounded again; a gradient of another dtype cast."""
    with quiet(), scratch() as own:
        wide_p, wide_x = p, x
        if p.dtype != work.dtype or x.dtype != work.dtype:
            wide_p, wide_x = own.arrays(work.dtype, 2, 0, p.shape, "cast")
            np.copyto(wide_p, p, casting="same_kind")
            np.copyto(wide_x, x, casting="same_kind")
        work.kernel.call(*work.arguments(own, wide_p, wide_x, *slots))
        if wide_p is not p:
            np.copyto(p, wide_p, casting="same_kind")


def _blocks(own: Arrays, x: NDArray) -> Iterator[tuple[NDArray, NDArray, Arrays]]:
    """Cut a parameter and its slots into blocks, along its memory; a complex one, with its gradient, is two reals."""
    p, *slots = own
    if p.dtype.kind == "c":
        yield from _blocks([a.real for a in own], x.real)
        yield from _blocks([a.imag for a in own], x.imag)
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
