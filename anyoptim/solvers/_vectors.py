"""Vectors: arrays like the parameters, which the engines of steps add, scale and multiply."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from anyoptim._arrays import COMPUTE, Array
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._quiet import quiet
from anyoptim._engines import CoefficientTable, Dispatch, Leaf
from anyoptim._engines._chunks import plans
from anyoptim._machine._completed import completed
from anyoptim._trace._program import Flow, Part, Program, Rule, Values, on_nothing
from anyoptim._trace._reductions import Count, Dot, Max, Reduction

__all__ = ["Kernel", "Space", "Vector"]

Vector = list[Array]
"""An array for each parameter that moves, of its shape and in its compute dtype; one vector of all their elements."""


def _on_vectors(rule: Rule, xp: Any, flow: Flow, slots: Sequence[Any], coefficients: Mapping[str, Any]) -> Flow:
    """`p, *slots <- rule(xp, x, p, *slots, c)`: p and the slots are vectors like one another."""
    p, x, before, g = flow
    out = rule(xp, x, p, *slots, Values(coefficients))
    p, *new = out if isinstance(out, tuple) else (out,)
    return p, x, [*before, *new], g


class Kernel:
    """A rule of vectors, for one element: `rule(xp, x, *vectors, c)` gives the new element of each vector."""

    def __init__(self, rule: Rule, names: Sequence[str]) -> None:
        _, *slots = names
        self.program = Program((Part(_on_vectors, rule, tuple(slots)),))


def _of_p(xp: Any, p: Array, x: Array) -> Array:
    """The vector that is a leaf's parameter."""
    return p


def _of_x(xp: Any, p: Array, x: Array) -> Array:
    """The one that is its gradient."""
    return x


def _magnitude(xp: Any, p: Array, x: Array) -> Array:
    """That of an element; of a complex one those of its parts."""
    return xp.abs(p)


def _asking(what: str, of: Reduction) -> Program:
    return Program((Part(on_nothing, _of_p, reduction=of, what=what, seen=(None, 0)),))


def _other(xp: Any, p: Array, x: Array) -> Array:
    """Whether an element differs in both; NaN from itself, too."""
    return ~(p == x)


def _difference(xp: Any, p: Array, x: Array) -> Array:
    """How far an element is apart in both."""
    return p - x


_PRODUCT = _asking("an inner product", Dot(_of_p, _of_x))
_APART = _asking("a distance", Dot(_difference, _difference))
_SQUARE = _asking("a sum of squares", Dot(_of_x, _of_x))
_DIFFERENCES = _asking("a comparison", Count(_other))
_LARGEST = _asking("a largest element", Max(_magnitude))


class Space:
    """The parameters that move, with what is kept ready to compute with vectors like them."""

    def __init__(self, ps: Sequence[Parameter], engine: str | None) -> None:
        self.ps, self.engine = ps, engine
        self.params: Vector = [p.array for p in ps]
        """The parameters themselves, in dtypes of their own: where they can't be written to, the newest arrays."""
        self._dispatches: dict[Any, Dispatch] = {}

    @property
    def size(self) -> int:
        """How many elements there are."""
        return sum(functools.reduce(operator.mul, p.array.shape, 1) for p in self.ps)

    def zeros(self) -> Vector:
        """A vector of zeros."""
        return [_zeros(p) for p in self.ps]

    def copied(self, arrays: Sequence[Array]) -> Vector:
        """A vector of the values of some arrays, parameters or gradients."""
        return [_widened(p, a, copy=True) for p, a in zip(self.ps, arrays, strict=True)]

    def widened(self, arrays: Sequence[Array]) -> Vector:
        """A vector to read: the arrays themselves, where they have its dtypes."""
        return [_widened(p, a, copy=False) for p, a in zip(self.ps, arrays, strict=True)]

    def run(self, kernel: Kernel, x: Sequence[Array], vectors: Sequence[Vector], **numbers: float) -> None:
        """Change the vectors as the rule says. The first may be parameters, in dtypes of their own."""
        program = kernel.program
        dispatch, gathered = self._dispatch((program, *map(id, vectors)), program, self._leaves(vectors), x)
        with quiet():
            commit = dispatch.prepare(
                gathered, CoefficientTable([({k: float(c) for k, c in numbers.items()},)], [0] * len(self.ps))
            )
        results = completed(commit)
        if not dispatch.in_place:
            for i, (first, slots) in enumerate(results):
                for vector, new in zip(vectors, (first, *slots), strict=True):
                    vector[i] = new

    def products(self, *pairs: tuple[Vector, Sequence[Array]]) -> list[float]:
        """The inner product Re<a, b> of each pair, all in one pass: b may be gradients, in dtypes of their own."""
        return self._reduced(_PRODUCT, pairs)

    def squared(self, arrays: Sequence[Array]) -> float:
        """The sum of |a|**2 of arrays like the parameters, in dtypes of their own."""
        return self._reduced(_SQUARE, [(self.params, arrays)])[0]

    def distance(self, vector: Vector, arrays: Sequence[Array]) -> float:
        """|a - b|, the 2-norm: b may be parameters, in dtypes of their own."""
        return math.sqrt(self._reduced(_APART, [(vector, arrays)])[0])

    def largest(self, vector: Vector) -> float:
        """The largest magnitude of an element, or of a part of a complex one; 0 of none, and NaN where one is NaN."""
        (found,) = self._reduced(_LARGEST, [(vector, vector)])
        return 0.0 if found < 0 else found

    def differ(self, vector: Vector, arrays: Sequence[Array]) -> bool:
        """Whether some arrays, parameters say, have other elements than a vector."""
        return self._reduced(_DIFFERENCES, [(vector, arrays)])[0] > 0

    def _reduced(self, program: Program, pairs: Sequence[tuple[Vector, Sequence[Array]]]) -> list[float]:
        """A reduction of each pair of vectors. Each parameter of each pair is a leaf of its own."""
        n, reduction = len(self.ps), program.reduction(0)
        if n == 0:
            return [0.0] * len(pairs)
        leaves = [leaf for a, _ in pairs for leaf in self._leaves([a])]
        key = program, *(id(a) for a, _ in pairs)
        dispatch, gathered = self._dispatch(key, program, leaves, [x for _, b in pairs for x in b])
        with quiet():
            rows = CoefficientTable([()], [0] * len(leaves))
            if dispatch.waiting:
                dispatch.count(rows)
            found = dispatch.reduced(reduction.kind, {id(program): 0}, gathered, rows)
            each = [{j: found[j] for j in range(k, k + n)} for k in range(0, len(leaves), n)]
            return [float(dispatch.value_of(reduction, of_pair)) for of_pair in each]

    def _leaves(self, vectors: Sequence[Vector]) -> list[Leaf]:
        """For each parameter its arrays of some vectors, as engines take them."""
        leaves = []
        for p, first, *slots in zip(self.ps, *vectors, strict=True):
            own = p.given if vectors[0] is self.params else first
            leaves.append(Leaf(p.library, first, tuple(slots), own if p.library.writable(own) else None))
        return leaves

    def _dispatch(
        self, key: Any, program: Program, leaves: Sequence[Leaf], xs: Sequence[Array]
    ) -> tuple[Dispatch, list[Any]]:
        """The engines for these leaves, those of the last time if they suit, and the gradients as they take them."""
        dispatch = self._dispatches.get(key)
        if dispatch is not None and not _same_arrays(dispatch.leaves, leaves):
            if dispatch.in_place:
                dispatch = None
            else:
                dispatch.rebind(leaves)
        again = None if dispatch is None else dispatch.regather(xs)
        if dispatch is not None and again is not None:
            return dispatch, again
        if dispatch is None or dispatch.waiting.due() or not dispatch.suits(xs):
            dispatch = Dispatch(self.engine, [program] * len(leaves), leaves, xs, plans(self.engine))
            if dispatch.rebindable:  # any other would keep arrays alive that are replaced
                self._dispatches[key] = dispatch
        return dispatch, dispatch.gather(xs)


def _same_arrays(some: Sequence[Leaf], others: Sequence[Leaf]) -> bool:
    """Whether these are leaves of the very same arrays."""
    pairs = (zip((a.p, *a.slots), (b.p, *b.slots), strict=True) for a, b in zip(some, others, strict=True))
    return all(a is b for pair in pairs for a, b in pair)


def _widened(p: Parameter, a: Array, *, copy: bool) -> Array:
    library = p.library
    with quiet(), library.on_device_of(p.array):
        wide = library.xp.astype(a, getattr(library.xp, COMPUTE[p.dtype]), copy=copy)
        return library.sharded_like(library.copied(wide) if copy else wide, p.array)


def _zeros(p: Parameter) -> Array:
    with p.library.on_device_of(p.array):
        return p.library.sharded_like(p.library.xp.zeros_like(_widened(p, p.array, copy=False)), p.array)
