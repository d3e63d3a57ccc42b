"""A program run at once, on arrays of any library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from anyoptim._arrays import COMPUTE, Array, Library
from anyoptim._trace._expressions import elementary, range_of
from anyoptim._trace._joint import Joint, JointOperations, each_part, parts_of
from anyoptim._trace._operations import Operations
from anyoptim._trace._program import Coefficients, Part, Program, Rule, Static, check_numbers

__all__ = ["kept", "moved", "terms"]


_NAMES = {"power": "pow"}
"""The operations that the Array API calls otherwise."""


class _Eager(Operations):
    """The operations on arrays of a library, and on numbers of the host."""

    def __init__(self, library: Library, like: Array) -> None:
        self._library, self._like = library, like

    def of_arrays(self, part: Part) -> tuple[Rule, Any]:
        """A rule of whole arrays, and the namespace for it: the library's own."""
        return part.rule, self._library.xp

    def join(self, re: Array, im: Array) -> Array:
        """The complex array with these parts."""
        dtype = {"float32": "complex64", "float64": "complex128"}[self._library.dtype(re)]
        return self._library.join_complex(re, im, getattr(self._library.xp, dtype))

    def sqrt(self, a: Any) -> Any:
        return math.sqrt(a) if isinstance(a, int | float) else self._library.xp.sqrt(a)

    def abs(self, a: Any) -> Any:
        return abs(a) if isinstance(a, int | float) else self._library.xp.abs(a)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        if isinstance(condition, bool):
            chosen, other = (a, b) if condition else (b, a)
            number = isinstance(chosen, int | float) and not isinstance(other, int | float)
            return self._library.xp.full_like(other, chosen) if number else chosen
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


class _Given:
    """p, x, the slots and what is read in the compute dtype, of complex ones both parts; and the namespace for them."""

    def __init__(self, library: Library, p: Array, x: Array, slots: Sequence[Array], reads: Sequence[Array]) -> None:
        xp, dtype = library.xp, library.dtype(p)
        self.library, self.of_complex, self.compute = library, dtype.startswith("complex"), getattr(xp, COMPUTE[dtype])
        p, x = (xp.astype(a, self.compute, copy=False) for a in (p, x))
        self.p, self.x, *self.slots = map(self._parts if self.of_complex else library.read_only, (p, x, *slots))
        self.like: Array = self.p.parts[0] if self.of_complex else self.p
        wide = [library.read_only(xp.astype(a, self.like.dtype, copy=False)) for a in reads]
        self.reads = [*map(Joint, wide)] if self.of_complex else wide
        each = _Eager(library, self.like)
        self.operations: Any = JointOperations(each) if self.of_complex else each

    def _parts(self, a: Array) -> Joint:
        xp, is_complex = self.library.xp, self.library.dtype(a).startswith("complex")
        return Joint(*map(self.library.read_only, (xp.real(a), xp.imag(a)) if is_complex else (a,)))

    @property
    def arrays(self) -> tuple[Any, Any, Sequence[Any], Sequence[Any]]:
        """What a program is given of arrays."""
        return self.p, self.x, self.slots, self.reads

    def row(self, row: Coefficients) -> Coefficients:
        """The coefficients, as they fit the compute dtype."""
        library, like = self.library, self.like
        within = range_of(library.dtype(like), normal=library.flushes_subnormals)

        def fitted(c: Any) -> Any:
            if type(c) is float:
                return within.fitted(c)
            # A traced coefficient may be wider than the compute dtype, and would widen everything.
            return c if isinstance(c, float | Static) else library.xp.astype(c, like.dtype)

        return tuple({k: fitted(c) for k, c in part.items()} for part in row)


def moved(
    program: Program,
    library: Library,
    p: Array,
    x: Array,
    slots: Sequence[Array],
    reads: Sequence[Array],
    row: Coefficients,
) -> tuple[Array, ...]:
    """The new parameter, in its own dtype, and the new slots, in the compute dtype."""
    given = _Given(library, p, x, slots, reads)
    before = [given.p, *given.slots]
    after: Sequence[Any] = program.moved(given.operations, *given.arrays, given.row(row))
    arguments, counts = (given.p, given.x), [1] * len(before)
    if given.of_complex:
        counts = [len(a.parts) for a in before]
        arguments = (*given.p.parts, *given.x.parts)
        after = [part for a, n in zip(after, counts, strict=True) for part in parts_of(a, n, program.name)]
        before = [part for a in before for part in a.parts]
    found = iter(kept(program.name, tuple(after), [tuple(a.shape) for a in before], library, arguments))
    join = library.join_complex
    new, *rest = (next(found) if n == 1 else join(next(found), next(found), given.compute) for n in counts)
    return library.xp.astype(new, p.dtype, copy=False), *rest  # a complex parameter may have another byte order


def terms(
    program: Program,
    k: int,
    library: Library,
    p: Array,
    x: Array,
    slots: Sequence[Array],
    reads: Sequence[Array],
    row: Coefficients,
) -> list[list[Array]]:
    """What the reduction that is part `k` is of: one array, or two factors; of complex numbers for each part."""
    given = _Given(library, p, x, slots, reads)
    found = each_part(program.terms(k, given.operations, *given.arrays, given.row(row)))
    for a in [a for factors in found for a in factors]:
        check_numbers(program.parts[k].what, a, hasattr(a, "dtype") and library.dtype(a) == "bool")
    return [[*map(library.array, factors)] for factors in found]


def kept(
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
    own = []
    for a in arrays:
        own.append(library.xp.asarray(a, copy=True) if id(a) in taken else library.unaliased(a))
        taken.add(id(a))
    return tuple(own)
