"""The plans of the portable engine: the rules themselves, called on arrays of any library, give new arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from anyoptim._arrays import COMPUTE, Array, Library
from anyoptim._arrays._quiet import quiet
from anyoptim._engines._base import Commit, Leaf, Plan, Result
from anyoptim._trace._coefficients import CoefficientTable
from anyoptim._trace._exact_sum import Kind
from anyoptim._trace._exact_sum import rows as reduced
from anyoptim._trace._expressions import elementary, range_of
from anyoptim._trace._graph import trace, trace_reduction
from anyoptim._trace._operations import Operations
from anyoptim._trace._program import MOVE, Coefficients, Program, Static, check_numbers, static_options

__all__ = ["LazyPlan", "PortablePlan", "explained", "rows_of", "start", "terms"]

TILE = 1 << 18
"""The elements that are reduced at a time, lest there be many intermediate results of an array's size."""


_NAMES = {"power": "pow"}
"""The operations that the Array API calls otherwise."""


class _Eager(Operations):
    """The operations on arrays of a library, and on numbers of the host."""

    def __init__(self, library: Library, like: Array) -> None:
        self._library, self._like = library, like

    @property
    def arrays(self) -> Any:
        """The library's own namespace, for rules of whole arrays."""
        return self._library.xp

    def sqrt(self, a: Any) -> Any:
        return math.sqrt(a) if isinstance(a, int | float) else self._library.xp.sqrt(a)

    def abs(self, a: Any) -> Any:
        return abs(a) if isinstance(a, int | float) else self._library.xp.abs(a)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        if isinstance(condition, bool):
            return a if condition else b
        if isinstance(condition, int | float) or self._library.dtype(condition) != "bool":
            raise TypeError(f"xp.where was given {condition!r}; wanted a comparison (of coefficients without ~)")
        return self._library.xp.where(condition, self._array(a), self._array(b))

    def elementary(self, op: str, *operands: Any) -> Any:
        if all(isinstance(a, int | float) for a in operands):
            return elementary(op, *operands)
        return getattr(self._library.xp, _NAMES.get(op, op))(*map(self._array, operands))

    def smallest_normal(self, a: Any) -> float:
        return float(self._library.xp.finfo(self._like.dtype).smallest_normal)

    def largest(self, a: Any) -> float:
        return float(self._library.xp.finfo(self._like.dtype).max)

    def _array(self, a: Any) -> Array:
        return self._library.scalar(a, self._like.dtype, self._like) if isinstance(a, int | float) else a


@contextmanager
def explained(program: Program, k: int | None, rows: CoefficientTable) -> Iterator[None]:
    """Within it, a rule that fails is told what is wrong in the words of the engines that trace it."""
    try:
        yield
    except Exception:
        if program.array_rule is None and MOVE in program.parts:  # without that it is no step
            for static in {static_options(row) for row in rows.distinct}:
                trace(program, static) if k is None else trace_reduction(program, k, static)
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
            with library.on_device_of(leaf.p), explained(self.program, k, rows):
                parts = terms(self.program, k, leaf, x, rows.row(i))
                one: Any = parts if together else rows_of(library, kind, parts)
                found.append(one if together or library.traced(one) else library.to_host(one))
        if together:
            table = reduced(library, kind, found)
            return [table[i : i + 1] for i in range(len(found))]
        return found

    def prepare_anew(self, gathered: Sequence[Array], rows: CoefficientTable) -> Commit:
        computed = []
        with explained(self.program, None, rows):
            for i, (leaf, x) in enumerate(zip(self.leaves, gathered, strict=True)):
                with leaf.library.on_device_of(leaf.p):
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


def start(
    init: Callable[[Any, Array], tuple[Array, ...]],
    shapes: Callable[[tuple[int, ...]], Sequence[tuple[int, ...]]],
    library: Library,
    p: Array,
) -> tuple[Array, ...]:
    """The first slots of a parameter: `init(xp, p)` of its real form in the compute dtype. `shapes` gives theirs."""
    xp = library.xp
    name = COMPUTE[library.dtype(p)]
    if name.startswith("complex"):
        real, imag = (start(init, shapes, library, part(p)) for part in (xp.real, xp.imag))
        return tuple(library.join_complex(re, im, getattr(xp, name)) for re, im in zip(real, imag, strict=True))
    wide = library.read_only(xp.astype(p, getattr(xp, name), copy=False))
    with quiet(), library.on_device_of(p):
        kept = _kept(init.__qualname__, init(xp, wide), shapes(tuple(p.shape)), library, (wide,))
        return tuple(library.replicated_like(a, p) for a in kept)


def _reals(leaf: Leaf, x: Array) -> list[tuple[Array, Array, tuple[Array, ...]]]:
    """The real arrays, in the compute dtype, of p, x and the slots: two of each where they are complex."""
    library, p, slots, *_ = leaf
    xp = library.xp
    if library.dtype(p).startswith("complex"):
        x = xp.astype(x, p.dtype, copy=False)
        parts = [(part(p), part(x), tuple(part(s) for s in slots)) for part in (xp.real, xp.imag)]
    else:
        parts = [(p, x, slots)]
    guarded = library.read_only
    reals = []
    for p, x, slots in parts:
        dtype = getattr(xp, COMPUTE[library.dtype(p)])
        wide_p, wide_x = (guarded(xp.astype(a, dtype, copy=False)) for a in (p, x))
        reals.append((wide_p, wide_x, tuple(map(guarded, slots))))
    return reals


def _reads(leaf: Leaf, like: Array) -> list[Array]:
    """The arrays that are read beside a leaf, which are real, in the dtype of its real arrays."""
    library = leaf.library
    return [library.read_only(library.xp.astype(a, like.dtype, copy=False)) for a in leaf.reads]


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
    parts = []
    for p, g, slots in _reals(leaf, x):
        new = program.moved(_Eager(library, p), p, g, slots, _reads(leaf, p), _row(library, row, p))
        shapes = [tuple(a.shape) for a in (p, *slots)]
        parts.append(_kept(program.name, new, shapes, library, (p, g)))
    if len(parts) == 1:
        moved, *kept = parts[0]
        return Result(xp.astype(moved, leaf.p.dtype, copy=False), tuple(kept))
    compute = getattr(xp, COMPUTE[library.dtype(leaf.p)])
    moved, *kept = (library.join_complex(re, im, compute) for re, im in zip(*parts, strict=True))
    return Result(xp.astype(moved, leaf.p.dtype, copy=False), tuple(kept))  # the parameter may have another byte order


def _whole(program: Program, leaf: Leaf, x: Array, row: Coefficients) -> Result:
    """The result of a rule of whole arrays, whose operations may leave its results in other pieces."""
    library, like = leaf.library, Result(leaf.p, leaf.slots)

    def call(p: Array, slots: tuple[Array, ...], reads: tuple[Array, ...], x: Array, row: Coefficients) -> Result:
        return _result(program, Leaf(library, p, slots, reads=reads), x, row)

    result = library.auto_sharded(call, like, leaf.p, leaf.slots, leaf.reads, x, row)
    return Result(library.sharded_like(result.p, leaf.p), tuple(map(library.sharded_like, result.slots, leaf.slots)))


def terms(program: Program, k: int, leaf: Leaf, x: Array, row: Coefficients) -> list[list[Array]]:
    """What the reduction that is part `k` is of: one array, or two factors; for a complex leaf twice."""
    library, found = leaf.library, []
    for p, g, slots in _reals(leaf, x):
        values = program.terms(k, _Eager(library, p), p, g, slots, _reads(leaf, p), _row(library, row, p))
        for a in values:
            check_numbers(program.parts[k].what, a, hasattr(a, "dtype") and library.dtype(a) == "bool")
        found.append([*map(library.array, values)])
    return found


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
