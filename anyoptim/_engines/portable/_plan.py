"""The plans of the portable engine: the rules themselves, called on arrays of any library, give new arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from anyoptim._arrays import Array, Library
from anyoptim._engines._base import Commit, Leaf, Plan, Result
from anyoptim._trace._coefficients import CoefficientTable
from anyoptim._trace._eager import moved
from anyoptim._trace._eager import terms as reduced_terms
from anyoptim._trace._exact_sum import Kind
from anyoptim._trace._exact_sum import rows as reduced
from anyoptim._trace._graph import trace, trace_reduction
from anyoptim._trace._program import MOVE, Coefficients, Program, static_options

__all__ = ["LazyPlan", "PortablePlan", "explained", "rows_of", "terms"]

TILE = 1 << 18
"""The elements that are reduced at a time, lest there be many intermediate results of an array's size."""


@contextmanager
def explained(program: Program, k: int | None, rows: CoefficientTable, of_complex: bool) -> Iterator[None]:
    """Within it, a rule that fails is told what is wrong in the words of the engines that trace it."""
    try:
        yield
    except Exception:
        if program.array_rule is None and MOVE in program.parts:  # without that it is no step
            for static in {static_options(row) for row in rows.distinct}:
                if k is None:
                    trace(program, static, of_complex=of_complex)
                else:
                    trace_reduction(program, k, static, of_complex=of_complex)
        raise


class PortablePlan(Plan):
    """A plan for leaves of any kind."""

    def gather(self, xs: Sequence[Array]) -> Sequence[Array]:
        return xs

    def reduced(self, k: int, gathered: Any, rows: CoefficientTable) -> list[Array]:
        kind, library = self.program.reduction(k).kind, self.leaves[0].library
        # XLA compiles them all together: so their parts on several devices are reduced together, too.
        together = library.compiled_by_xla and any(map(library.traced, (*gathered, *(leaf.p for leaf in self.leaves))))
        found: list[Any] = []
        for i, (leaf, x) in enumerate(zip(self.leaves, gathered, strict=True)):
            with library.on_device_of(leaf.p), explained(self.program, k, rows, leaf.of_complex):
                parts = terms(self.program, k, leaf, x, rows.row(i))
                one: Any = parts if together else rows_of(library, kind, parts)
                found.append(one if together or library.traced(one) else library.to_host(one))
        if together:
            table = reduced(library, kind, found)
            return [table[i : i + 1] for i in range(len(found))]
        return found

    def prepare_anew(self, gathered: Sequence[Array], rows: CoefficientTable) -> Commit:
        computed = []
        for i, (leaf, x) in enumerate(zip(self.leaves, gathered, strict=True)):
            with explained(self.program, None, rows, leaf.of_complex), leaf.library.on_device_of(leaf.p):
                computed.append(self.result(leaf, x, rows.row(i)))
        results = self._materialized(computed)

        def commit() -> list[Result]:
            for leaf, result in zip(self.leaves, results, strict=True):
                if leaf.destination is not None:
                    with leaf.library.on_device_of(leaf.p):
                        leaf.library.write(leaf.destination, result.p)
            return results

        return commit

    def result(self, leaf: Leaf, x: Array, row: Coefficients) -> Result:
        """The new parameter and the new slots of a leaf."""
        return (_result if self.program.array_rule is None else _whole)(self.program, leaf, x, row)

    def _materialized(self, results: list[Result]) -> list[Result]:
        """The results, with nothing left to compute."""
        arrays = iter(self.leaves[0].library.materialize([a for p, slots in results for a in (p, *slots)]))
        return [Result(next(arrays), tuple(next(arrays) for _ in slots)) for _, slots in results]


class LazyPlan(PortablePlan):
    """A plan that computes nothing that is lazy: for the pure form, whose results wait until they are asked for."""

    def _materialized(self, results: list[Result]) -> list[Result]:
        return results


def _result(program: Program, leaf: Leaf, x: Array, row: Coefficients) -> Result:
    p, *slots = moved(program, leaf.library, leaf.p, x, leaf.slots, leaf.reads, row)
    return Result(p, tuple(slots))


def _whole(program: Program, leaf: Leaf, x: Array, row: Coefficients) -> Result:
    """The result of a rule of whole arrays, whose operations may leave its results in other pieces."""
    library, like = leaf.library, Result(leaf.p, leaf.slots)

    def call(p: Array, slots: tuple[Array, ...], reads: tuple[Array, ...], x: Array, row: Coefficients) -> Result:
        return _result(program, Leaf(library, p, slots, reads=reads), x, row)

    result = library.auto_sharded(call, like, leaf.p, leaf.slots, leaf.reads, x, row)
    return Result(library.sharded_like(result.p, leaf.p), tuple(map(library.sharded_like, result.slots, leaf.slots)))


def terms(program: Program, k: int, leaf: Leaf, x: Array, row: Coefficients) -> list[list[Array]]:
    """What the reduction that is part `k` is of: one array, or two factors; of complex numbers for each part."""
    return reduced_terms(program, k, leaf.library, leaf.p, x, leaf.slots, leaf.reads, row)


def rows_of(library: Library, kind: Kind, terms: Sequence[Sequence[Array]]) -> Array:
    """The rows of what `terms` gave: one for each piece, so that intermediate results are small, but under XLA."""
    xp, parts = library.xp, list[list[Array]]()
    for factors in terms:
        arrays = [*map(library.local, factors)]
        n = math.prod(arrays[0].shape)
        if library.compiled_by_xla or n <= TILE:
            parts.append(arrays)
        else:
            flat = [xp.reshape(a, (-1,)) for a in arrays]
            parts += [[a[i : min(i + TILE, n)] for a in flat] for i in range(0, n, TILE)]
    return reduced(library, kind, [parts] if len(parts) <= 2 else [[part] for part in parts])  # a complex array has two
