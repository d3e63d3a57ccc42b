"""The plans for lazy arrays, Dask's: each of their blocks is a task of its own, with the engines of its own library."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import Array, library
from anyoptim._engines._base import Leaf, Plan, Result
from anyoptim._engines._choice import LAZY, Plans
from anyoptim._engines._dispatch import Dispatch
from anyoptim._engines.portable._plan import LazyPlan, PortablePlan, explained, rows_of, terms
from anyoptim._trace._coefficients import CoefficientTable
from anyoptim._trace._exact_sum import COLUMNS, Kind, as_words, no_rows, of_words, one_row, product
from anyoptim._trace._graph import trace, trace_reduction
from anyoptim._trace._program import MOVE, Coefficients, Program, Static, StaticOptions, static_options

__all__ = ["plans"]


def plans(engine: str | None, *, lazily: bool = False) -> Plans:
    """The plans of a step, with the engine of this name for blocks; `lazily` such as compute nothing that is lazy."""
    block_plan, other_plan = (LazyBlockPlan, LazyPlan) if lazily else (BlockPlan, PortablePlan)

    def portable(program: Program, leaves: Sequence[Leaf]) -> Plan:
        return block_plan(engine, program, leaves) if leaves[0].library.lazy else other_plan(program, leaves)

    return {**(LAZY if lazily else {}), "portable": portable}


class BlockPlan(PortablePlan):
    """A plan for lazy arrays, of which a rule of one element, or a reduction, takes one task for each block."""

    def __init__(self, engine: str | None, program: Program, leaves: Sequence[Leaf]) -> None:
        super().__init__(program, leaves)
        self.engine = engine
        self.numbers = itertools.count()

    def gather(self, xs: Sequence[Array]) -> list[Array]:
        return [*xs]

    def reduced(self, k: int, gathered: Any, rows: CoefficientTable) -> list[Array]:
        # Lazy gradients would be computed again for the step, and for each reduction.
        known, gathered[:] = self.leaves[0].library.rows_to_host(self.lazy_rows(k, gathered, rows), gathered)
        return known

    def reduced_all(self, ks: Sequence[int], gathered: Any, rows: CoefficientTable) -> list[list[Array]]:
        if self.program.array_rule is not None:
            return super().reduced_all(ks, gathered, rows)
        library, like, lazy = self.leaves[0].library, np.zeros((0, COLUMNS * len(ks)), np.int64), []
        for i, (leaf, x) in enumerate(zip(self.leaves, gathered, strict=True)):
            task, *arrays = self._task(ks, leaf, x, rows.row(i))
            lazy.append(library.rows_of_blocks(task.words, like, *arrays))
        known, gathered[:] = library.rows_to_host(lazy, gathered)
        tables = zip(*(np.split(table, len(ks), axis=1) for table in known), strict=True)
        kinds = [self.program.reduction(k).kind for k in ks]
        return [[of_words(kind, table) for table in each] for kind, each in zip(kinds, tables, strict=True)]

    def lazy_rows(self, k: int, xs: Sequence[Array], rows: CoefficientTable) -> list[Array]:
        """For each leaf the rows of its blocks, which are not computed."""
        found, kind = [], self.program.reduction(k).kind
        for i, (leaf, x) in enumerate(zip(self.leaves, xs, strict=True)):
            if self.program.array_rule is None:
                task, *arrays = self._task([k], leaf, x, rows.row(i))
                found.append(leaf.library.rows_of_blocks(task.row, no_rows(kind), *arrays))
                continue
            with explained(self.program, k, rows, leaf.of_complex):
                products = [product(leaf.library, factors) for factors in terms(self.program, k, leaf, x, rows.row(i))]
            found.append(leaf.library.rows_of_blocks(functools.partial(_row, kind), no_rows(kind), products))
        return found

    def result(self, leaf: Leaf, x: Array, row: Coefficients) -> Result:
        if self.program.array_rule is not None:
            return super().result(leaf, x, row)
        task, *arrays = self._task([], leaf, x, row)
        p, *slots = leaf.library.map_blocks(task.run, (leaf.p, *leaf.slots), *arrays)
        return Result(p, tuple(slots))

    def _task(
        self, ks: Sequence[int], leaf: Leaf, x: Array, row: Coefficients
    ) -> tuple[_Task, list[Array], list[Array]]:
        """The task of each block; the arrays whose blocks it is given, and the coefficients that are lazy."""
        lazy = [(j, name) for j, part in enumerate(row) for name, c in part.items() if not isinstance(c, _KNOWN)]
        known = [{name: c for name, c in part.items() if isinstance(c, _KNOWN)} for part in row]
        arrays = [leaf.p, x, *leaf.slots, *leaf.reads]
        read = _read(self.program, tuple(ks), static_options(row), leaf.of_complex)
        dtypes = [None if i in read else a.dtype for i, a in enumerate(arrays)]
        task = _Task(next(self.numbers), self.engine, self.program, ks, dtypes, known, lazy)
        return task, [arrays[i] for i in read], [row[j][name] for j, name in lazy]


class LazyBlockPlan(BlockPlan, LazyPlan):
    """The same, which computes nothing."""

    def reduced(self, k: int, gathered: Any, rows: CoefficientTable) -> list[Array]:
        return self.lazy_rows(k, gathered, rows)

    reduced_all = LazyPlan.reduced_all


_KNOWN = float | Static


@functools.lru_cache(maxsize=256)
def _read(program: Program, ks: Sequence[int], static: StaticOptions, of_complex: bool) -> Sequence[int]:
    """The numbers of the arrays among p, x, the slots and what is read beside them that a task is given.

    Raises for rules that can't be run.
    """
    if ks:
        graphs = (trace_reduction(program, k, static[:k], of_complex=of_complex) for k in ks)
        return sorted({i for graph in graphs for i in graph.arrays_read}) or [0]
    if MOVE in program.parts:  # otherwise it is no step
        trace(program, static, of_complex=of_complex)
    return range(2 + program.slots + len(program.reads))


class _Task(NamedTuple):
    """What is done to one block of each array: a step, or the reductions that are these parts."""

    number: int
    """What tells the results of equal parameters apart, which Dask would take for one array."""
    engine: str | None
    program: Program
    ks: Sequence[int]
    dtypes: Sequence[Any]
    """For p, x, the slots and what is read beside them None, or the dtype of one that is not read."""
    known: Sequence[Mapping[str, Any]]
    """The coefficients that were known beforehand."""
    lazy: Sequence[tuple[int, str]]
    """The number of the part and the name of each of the others."""

    def run(self, *arguments: Any) -> Any:
        """The new p and the new slots, or one row of each reduction: of blocks, and of the coefficients behind them."""
        row, n, own = [{**part} for part in self.known], len(arguments) - len(self.lazy), library(arguments[0])
        for (j, name), number in zip(self.lazy, arguments[n:], strict=True):
            row[j][name] = float(number)
        rows, blocks = CoefficientTable([row], [0]), [*map(own.array, arguments[:n])]
        with own.on_device_of(blocks[0]):
            given = iter(blocks)
            p, x, *more = [next(given) if d is None else own.xp.empty_like(blocks[0], dtype=d) for d in self.dtypes]
            slots, reads = more[: self.program.slots], tuple(more[self.program.slots :])
            if not self.ks:
                p, *slots = map(own.copied, (p, *slots))
            dispatch = Dispatch(self.engine, [self.program], [Leaf(own, p, tuple(slots), p, reads=reads)], [x])
            gathered = dispatch.gather([x])
            if self.ks:
                found = dispatch.assignments[0].plan.reduced_all(self.ks, gathered[0], rows)
                return [one_row(self.program.reduction(k).kind, of[0]) for k, of in zip(self.ks, found, strict=True)]
            ((p, kept),) = dispatch.prepare(gathered, rows)()
        return p, *kept

    def row(self, *arguments: Any) -> Array:
        """That of one reduction."""
        return self.run(*arguments)[0]

    def words(self, *arguments: Any) -> Array:
        """The rows of several side by side."""
        return np.concatenate([*map(as_words, self.run(*arguments))], axis=1)


def _row(kind: Kind, *blocks: Array) -> Array:
    """One row of the reduction of what has been computed."""
    own = library(blocks[0])
    return one_row(kind, own.to_host(rows_of(own, kind, [[own.array(block)] for block in blocks])))
