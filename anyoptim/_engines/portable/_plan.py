"""The plans of the portable engine: the rules themselves, called on arrays of any library, give new arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from anyoptim._arrays import COMPUTE, Array, Library
from anyoptim._arrays._quiet import quiet
from anyoptim._engines._base import Commit, Leaf, Plan, Result
from anyoptim._trace._coefficients import CoefficientTable
from anyoptim._trace._eager import Eager
from anyoptim._trace._exact_sum import Kind
from anyoptim._trace._exact_sum import rows as reduced
from anyoptim._trace._expressions import range_of
from anyoptim._trace._graph import trace, trace_reduction
from anyoptim._trace._joint import Joint, JointOperations, each_part, parts_of
from anyoptim._trace._program import MOVE, Coefficients, Program, Static, check_numbers, static_options

__all__ = ["LazyPlan", "PortablePlan", "explained", "rows_of", "start", "terms"]

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


def start(stage: Any, library: Library, p: Array) -> tuple[Array, ...]:
    """The first slots of a parameter: a stage's `init_slots(xp, p)` of each of its parts, in the compute dtype.

    The real slots of a complex parameter are those of its real part, on which what they start as does not depend.
    """
    xp = library.xp
    name = COMPUTE[library.dtype(p)]
    if name.startswith("complex"):
        both = zip(stage.slots, *(start(stage, library, part(p)) for part in (xp.real, xp.imag)), strict=True)
        join, dtype = library.join_complex, getattr(xp, name)
        return tuple(re if slot in stage.real_slots else join(re, im, dtype) for slot, re, im in both)
    wide = library.read_only(xp.astype(p, getattr(xp, name), copy=False))
    with quiet(), library.on_device_of(p):
        init, shapes = stage.init_slots, stage.slot_shapes(tuple(p.shape))
        kept = _kept(init.__qualname__, init(xp, wide), shapes, library, (wide,))
        return tuple(library.replicated_like(a, p) for a in kept)


def _values(leaf: Leaf, x: Array) -> tuple[Any, Any, tuple[Any, ...], Array]:
    """p, x and the slots in the compute dtype, of complex ones both parts; and a real array that is like them."""
    library, p, slots, *_ = leaf
    xp = library.xp
    dtype = getattr(xp, COMPUTE[library.dtype(p)])
    if not leaf.of_complex:
        p, x = (library.read_only(xp.astype(a, dtype, copy=False)) for a in (p, x))
        return p, x, tuple(map(library.read_only, slots)), p

    def parts(a: Array) -> Joint:
        both = (xp.real(a), xp.imag(a)) if library.dtype(a).startswith("complex") else (a,)
        return Joint(*map(library.read_only, both))

    p, x = (parts(xp.astype(a, dtype, copy=False)) for a in (p, x))
    return p, x, tuple(map(parts, slots)), p.parts[0]


def _operations(library: Library, leaf: Leaf, like: Array) -> Any:
    """The namespace of the rules for the values of a leaf."""
    return JointOperations(Eager(library, like)) if leaf.of_complex else Eager(library, like)


def _reads(leaf: Leaf, like: Array) -> list[Any]:
    """The arrays that are read beside a leaf, which are real, in the dtype of its real arrays."""
    library = leaf.library
    reads = [library.read_only(library.xp.astype(a, like.dtype, copy=False)) for a in leaf.reads]
    return [*map(Joint, reads)] if leaf.of_complex else reads


def _row(library: Library, row: Coefficients, like: Array) -> Coefficients:
    within = range_of(library.dtype(like), normal=library.flushes_subnormals)

    def fitted(c: Any) -> Any:
        if type(c) is float:
            return within.fitted(c)
        # A traced coefficient may be wider than the compute dtype, and would widen everything.
        return c if isinstance(c, float | Static) else library.xp.astype(c, like.dtype)

    return tuple({k: fitted(c) for k, c in part.items()} for part in row)


def _result(program: Program, leaf: Leaf, x: Array, row: Coefficients) -> Result:
    library, xp = leaf.library, leaf.library.xp
    p, g, slots, like = _values(leaf, x)
    operations, coefficients = _operations(library, leaf, like), _row(library, row, like)
    new = program.moved(operations, p, g, slots, _reads(leaf, like), coefficients)
    if not leaf.of_complex:
        moved, *kept = _kept(program.name, new, [tuple(a.shape) for a in (p, *slots)], library, (p, g))
        return Result(xp.astype(moved, leaf.p.dtype, copy=False), tuple(kept))
    both = [(of.parts, parts_of(a, len(of.parts), program.name)) for of, a in zip((p, *slots), new, strict=True)]
    shapes = [tuple(a.shape) for old, _ in both for a in old]
    found = iter(_kept(program.name, tuple(a for _, now in both for a in now), shapes, library, (*p.parts, *g.parts)))
    compute = getattr(xp, COMPUTE[library.dtype(leaf.p)])
    moved, *kept = (
        next(found) if len(now) == 1 else library.join_complex(next(found), next(found), compute) for _, now in both
    )
    return Result(xp.astype(moved, leaf.p.dtype, copy=False), tuple(kept))  # the parameter may have another byte order


def _whole(program: Program, leaf: Leaf, x: Array, row: Coefficients) -> Result:
    """The result of a rule of whole arrays, whose operations may leave its results in other pieces."""
    library, like = leaf.library, Result(leaf.p, leaf.slots)

    def call(p: Array, slots: tuple[Array, ...], reads: tuple[Array, ...], x: Array, row: Coefficients) -> Result:
        return _result(program, Leaf(library, p, slots, reads=reads), x, row)

    result = library.auto_sharded(call, like, leaf.p, leaf.slots, leaf.reads, x, row)
    return Result(library.sharded_like(result.p, leaf.p), tuple(map(library.sharded_like, result.slots, leaf.slots)))


def terms(program: Program, k: int, leaf: Leaf, x: Array, row: Coefficients) -> list[list[Array]]:
    """What the reduction that is part `k` is of: one array, or two factors; of complex numbers for each part."""
    library = leaf.library
    p, g, slots, like = _values(leaf, x)
    operations, coefficients = _operations(library, leaf, like), _row(library, row, like)
    values = program.terms(k, operations, p, g, slots, _reads(leaf, like), coefficients)
    found = each_part(values)
    for a in [a for factors in found for a in factors]:
        check_numbers(program.parts[k].what, a, hasattr(a, "dtype") and library.dtype(a) == "bool")
    return [[*map(library.array, factors)] for factors in found]


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


def _kept(
    source: str, results: Any, shapes: Sequence[tuple[int, ...]], library: Library, arguments: tuple[Array, ...]
) -> tuple[Array, ...]:
    """The results of a user's function as arrays of their own. Raises TypeError, naming it, for what can't be kept."""
    like = arguments[0]
    if not isinstance(results, tuple) or len(results) != len(shapes):
        kind = f"{len(results)} arrays" if isinstance(results, tuple) else f"a {type(results).__name__}"
        raise TypeError(f"{source} gave {kind}; wanted a tuple of {len(shapes)}")
    arrays = tuple(map(library.array, results))
    for a, wanted in zip(arrays, shapes, strict=True):
        shape, dtype = getattr(a, "shape", None), getattr(a, "dtype", None)
        if shape is None or tuple(shape) != wanted or dtype != like.dtype:
            raise TypeError(
                f"{source} gave a {type(a).__name__} of shape {shape} and dtype {dtype}; "
                f"wanted the shape {wanted} and the dtype {like.dtype} of its parameter"
            )
    # Each slot is an array of its own: not the user's parameter or gradient, and not another slot.
    taken = {id(a) for a in arguments}
    kept = []
    for a in arrays:
        kept.append(library.xp.asarray(a, copy=True) if id(a) in taken else library.unaliased(a))
        taken.add(id(a))
    return tuple(kept)
