"""Vectors: arrays like the parameters, which the engines of steps add, scale and multiply."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anyoptim._arrays import COMPUTE, Array
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._quiet import quiet
from anyoptim._engines import CoefficientTable, Dispatch, Leaf
from anyoptim._engines._chunks import plans
from anyoptim._machine._completed import completed
from anyoptim._trace._program import Flow, Part, Program, Rule, Values, on_nothing
from anyoptim._trace._reductions import Count, Dot, Max, Reduction

__all__ = ["COPY", "Kernel", "Question", "Space", "Vector"]

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

    def __init__(self, rule: Rule, names: Sequence[str], *, takes: bool = False) -> None:
        """Take the names of the vectors; `takes` says that it makes another point the one where an iteration ends."""
        _, *slots = names
        self.takes = takes
        self.program: Program = Program((Part(_on_vectors, rule, tuple(slots)),))


def _element(k: int, xp: Any, p: Array, x: Array, *slots: Array) -> Array:
    """That of x, whose number is -1, or of a vector."""
    return x if k < 0 else (p, *slots)[k]


@functools.cache
def _of(k: int) -> Callable[..., Array]:
    """What gives that element. The same function each time, so that programs are equal."""
    return functools.partial(_element, k)


def _size(xp: Any, p: Array, x: Array, *slots: Array) -> Array:
    return xp.abs(x)


@functools.cache
def _products(count: int, pairs: Sequence[tuple[int, int]], largest: bool) -> Program:
    """The inner products of pairs among x, whose number is -1, and so many vectors; and then the largest |x|."""
    seen = (None, count - 1)
    asked: list[Reduction] = [Dot(_of(a), _of(b)) for a, b in pairs]
    asked += [Max(_size)] * largest
    parts = [Part(on_nothing, _same, reduction=of, what="an inner product", seen=seen) for of in asked]
    return Program((*parts, Part(on_nothing, _same, tuple(f"v{k}" for k in range(1, count)))))


def _magnitude(xp: Any, p: Array, x: Array) -> Array:
    """That of an element; of a complex one those of its parts."""
    return xp.abs(p)


def _other(xp: Any, p: Array, x: Array) -> Array:
    """Whether an element differs in both; NaN from itself, too."""
    return ~(p == x)


def _copied(xp: Any, x: Array, p: Array, c: Any) -> Array:
    """`p <- x`."""
    return x


COPY = Kernel(_copied, ("p",))


class Question:
    """A reduction of vectors: of functions `f(xp, p, x, *others)` of an element of each."""

    def __init__(self, what: str, of: Reduction, others: Sequence[str] = ()) -> None:
        part = Part(on_nothing, _same, reduction=of, what=what, seen=(None, len(others)))
        own = (Part(on_nothing, _same, tuple(others)),) if others else ()
        self.program: Program = Program((part, *own))
        self.reduction: Reduction = of


def _same(xp: Any) -> None:
    """What stands for the rule of a program that only asks."""


def _difference(xp: Any, p: Array, x: Array) -> Array:
    """How far an element is apart in both."""
    return p - x


def _of_x(xp: Any, p: Array, x: Array) -> Array:
    return x


_APART = Question("a distance", Dot(_difference, _difference))
_SQUARE = Question("a sum of squares", Dot(_of_x, _of_x))
_DIFFERENCES = Question("a comparison", Count(_other))
_LARGEST = Question("a largest element", Max(_magnitude))


_KEPT = 512
"""The most plans that are kept: vectors that are made anew each time would keep theirs, and be kept by them."""


class Space:
    """The parameters that move, with what is kept ready to compute with vectors like them."""

    def __init__(self, ps: Sequence[Parameter], engine: str | None) -> None:
        self.ps: Sequence[Parameter] = ps
        self.engine: str | None = engine
        self.params: Vector = [p.array for p in ps]
        """The parameters themselves, in dtypes of their own: where they can't be written to, the newest arrays."""
        self.unsettled: bool = False
        """Whether a point was taken of which not all is known yet: so it stays where an exception comes in between."""
        self._dispatches: dict[Any, Dispatch] = {}

    @property
    def size(self) -> int:
        """How many elements there are."""
        return sum(functools.reduce(operator.mul, p.array.shape, 1) for p in self.ps)

    @property
    def rounding(self) -> float:
        """The relative rounding of the coarsest parameters."""
        digits = {"float16": 10, "bfloat16": 7, "float32": 23, "complex64": 23}
        return 2.0 ** -min((digits.get(p.dtype, 52) for p in self.ps), default=52)

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
        self.unsettled = self.unsettled or kernel.takes
        results = completed(commit)
        if not dispatch.in_place:
            for i, (first, slots) in enumerate(results):
                for vector, new in zip(vectors, (first, *slots), strict=True):
                    vector[i] = new

    def products(self, *pairs: tuple[Sequence[Array], Sequence[Array]]) -> list[float]:
        """The inner product Re<a, b> of each pair, all in one pass.

        The second of the first pair may be gradients, in dtypes of their own; all others are vectors.
        """
        return self._asked(pairs, largest=False)

    def measured(self, *pairs: tuple[Sequence[Array], Sequence[Array]]) -> list[float]:
        """The largest magnitude of an element of the second of the first pair, and then all inner products."""
        *found, largest = self._asked(pairs, largest=True)
        return [0.0 if largest < 0 else largest, *found]

    def _asked(self, pairs: Sequence[tuple[Sequence[Array], Sequence[Array]]], *, largest: bool) -> list[float]:
        if not self.ps:
            return [0.0] * (len(pairs) + largest)
        x = pairs[0][1]
        own = {id(a): a for pair in pairs for a in pair if a is not x} or {id(self.params): self.params}
        place = {id(x): -1} | {key: k for k, key in enumerate(own)}
        program = _products(len(own), tuple((place[id(a)], place[id(b)]) for a, b in pairs), largest)
        leaves = self._leaves([*own.values()])
        dispatch, gathered = self._dispatch((program, *own), program, leaves, x)
        rows = CoefficientTable([({},) * len(program.parts)], [0] * len(leaves))
        with quiet():
            return [float(value) for value in dispatch.values(program.reductions, gathered, rows)]

    def squared(self, arrays: Sequence[Array]) -> float:
        """The sum of |a|**2 of arrays like the parameters, in dtypes of their own."""
        return self.answer(_SQUARE, arrays, self.params)

    def distance(self, vector: Vector, arrays: Sequence[Array]) -> float:
        """|a - b|, the 2-norm: b may be parameters, in dtypes of their own."""
        return math.sqrt(self.answer(_APART, arrays, vector))

    def largest(self, vector: Vector) -> float:
        """The largest magnitude of an element, or of a part of a complex one; 0 of none, and NaN where one is NaN."""
        return 0.0 if (found := self.answer(_LARGEST, vector, vector)) < 0 else found

    def differ(self, vector: Vector, arrays: Sequence[Array]) -> bool:
        """Whether some arrays, parameters say, have other elements than a vector."""
        return self.answer(_DIFFERENCES, arrays, vector) > 0

    def answer(self, question: Question, x: Sequence[Array], *vectors: Vector) -> float:
        """The answer of a question, of x and vectors."""
        return self.answers(question, [(x, *vectors)])[0]

    def answers(self, question: Question, asked: Sequence[tuple[Sequence[Array], *tuple[Vector, ...]]]) -> list[float]:
        """The answers of one question, of x and vectors each. Each parameter of each is a leaf of its own."""
        n, reduction = len(self.ps), question.reduction
        if n == 0:
            return [0.0] * len(asked)
        leaves = [leaf for _, *vectors in asked for leaf in self._leaves(vectors)]
        key = question, *(id(a) for _, *vectors in asked for a in vectors)
        dispatch, gathered = self._dispatch(key, question.program, leaves, [x for xs, *_ in asked for x in xs])
        with quiet():
            rows = CoefficientTable([({}, {})], [0] * len(leaves))
            if dispatch.waiting:
                dispatch.count(rows)
            found = dispatch.reduced(reduction.kind, {id(question.program): 0}, gathered, rows)
            each = [{j: found[j] for j in range(k, k + n)} for k in range(0, len(leaves), n)]
            return [float(dispatch.value_of(reduction, of_leaves)) for of_leaves in each]

    def _leaves(self, vectors: Sequence[Sequence[Array]]) -> list[Leaf]:
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
                if len(self._dispatches) >= _KEPT:
                    self._dispatches.clear()
                self._dispatches[key] = dispatch
        return dispatch, dispatch.gather(xs)


def _same_arrays(some: Sequence[Leaf], others: Sequence[Leaf]) -> bool:
    """Whether these are leaves of the very same arrays."""
    pairs = (zip((a.p, *a.slots), (b.p, *b.slots), strict=True) for a, b in zip(some, others, strict=True))
    return all(a is b for pair in pairs for a, b in pair)


def _widened(p: Parameter, a: Array, *, copy: bool) -> Array:
    library = p.library
    with quiet(), library.on_device_of(p.array):
        wide = library.xp.astype(a, getattr(library.xp, COMPUTE[p.dtype]), copy=False)
        return library.sharded_like(library.copied(wide) if copy else wide, p.array)


def _zeros(p: Parameter) -> Array:
    with p.library.on_device_of(p.array):
        return p.library.sharded_like(p.library.xp.zeros_like(_widened(p, p.array, copy=False)), p.array)
