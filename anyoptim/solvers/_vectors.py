"""Vectors: arrays like the parameters, which the engines of steps add, scale and multiply."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

from anyoptim._arrays import COMPUTE, Array
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._quiet import quiet
from anyoptim._engines import CoefficientTable, Dispatch, Leaf
from anyoptim._engines._chunks import plans
from anyoptim._machine._completed import completed
from anyoptim._trace._program import Flow, Part, Program, Rule, Values, on_nothing
from anyoptim._trace._reductions import Count, Dot, Max, Reduction

__all__ = ["COPY", "Kernel", "Question", "Space", "Vector"]

R = TypeVar("R")

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
        self._ready: dict[Any, _Ready] = {}
        self._one_row: Sequence[int] = [0] * len(ps)

    @functools.cached_property
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
        rows = CoefficientTable([(dict(zip(numbers, map(float, numbers.values()), strict=True)),)], self._one_row)
        key = kernel, *map(id, vectors)
        ready = self._known(key)
        commit = None if ready is None else ready.dispatch.replay(x, rows)
        results = None if commit is None else self._done(kernel, commit)
        if ready is None or results is None:
            ready = self._suited(ready, key, kernel.program, [vectors], x)
            with quiet():
                commit = ready.dispatch.prepare(ready.dispatch.gather(x), rows)
            results = self._done(kernel, commit)
        if not ready.dispatch.in_place:
            for i, (first, slots) in enumerate(results):
                for vector, new in zip(vectors, (first, *slots), strict=True):
                    vector[i] = new

    def _done(self, kernel: Kernel, commit: Callable[[], R]) -> R:
        self.unsettled = self.unsettled or kernel.takes
        return completed(commit)

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
        # That x may be another each time; whichever of the others are asked of what is part of the key.
        ids = [*map(id, chain.from_iterable(pairs))]
        key = largest, *map({id(x): 0}.get, ids, ids)
        ready = self._known(key)
        gathered = None if ready is None else ready.dispatch.regather(x)
        if ready is None or gathered is None:
            own = {id(a): a for pair in pairs for a in pair if a is not x} or {id(self.params): self.params}
            place = {id(x): -1} | {of: k for k, of in enumerate(own)}
            program = _products(len(own), tuple((place[id(a)], place[id(b)]) for a, b in pairs), largest)
            ready = self._suited(ready, key, program, [list(own.values())], x)
            gathered = ready.dispatch.gather(x)
        return [*map(float, ready.dispatch.values(ready.reductions, gathered, ready.rows))]

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
        key, xs = (question, *(id(a) for _, *vectors in asked for a in vectors)), [x for of, *_ in asked for x in of]
        ready = self._known(key)
        gathered = None if ready is None else ready.dispatch.regather(xs)
        if ready is None or gathered is None:
            ready = self._suited(ready, key, question.program, [vectors for _, *vectors in asked], xs)
            gathered = ready.dispatch.gather(xs)
        dispatch, rows = ready.dispatch, ready.rows
        with quiet():
            if dispatch.waiting:
                dispatch.count(rows)
            found = dispatch.reduced(reduction.kind, {id(question.program): 0}, gathered, rows)
            each = [{j: found[j] for j in range(k, k + n)} for k in range(0, len(rows.row_of_leaf), n)]
            return [float(dispatch.value_of(reduction, of_leaves)) for of_leaves in each]

    def _leaves(self, vectors: Sequence[Sequence[Array]]) -> list[Leaf]:
        """For each parameter its arrays of some vectors, as engines take them."""
        leaves = []
        for p, first, *slots in zip(self.ps, *vectors, strict=True):
            own = p.given if vectors[0] is self.params else first
            leaves.append(Leaf(p.library, first, tuple(slots), own if p.library.writable(own) else None))
        return leaves

    def _known(self, key: Any) -> _Ready | None:
        """What is laid ready for this, made to be of the arrays that are in its vectors now; None if it can't be."""
        ready = self._ready.get(key)
        if ready is None or ready.same():
            return ready
        if ready.dispatch.in_place:
            return None
        ready.dispatch.rebind([leaf for of in ready.vectors for leaf in self._leaves(of)])
        return ready

    def _suited(
        self,
        ready: _Ready | None,
        key: Any,
        program: Program,
        vectors: Sequence[Sequence[Sequence[Array]]],
        xs: Sequence[Array],
    ) -> _Ready:
        """What is laid ready, if it suits these gradients, or else is laid now."""
        if ready is None or ready.dispatch.waiting.due() or not ready.dispatch.suits(xs):
            leaves = [leaf for of in vectors for leaf in self._leaves(of)]
            dispatch = Dispatch(self.engine, [program] * len(leaves), leaves, xs, plans(self.engine))
            ready = _Ready(dispatch, program, vectors)
            if dispatch.rebindable:  # any other would keep arrays alive that are replaced
                if len(self._ready) >= _KEPT:
                    self._ready.clear()
                self._ready[key] = ready
        return ready


class _Ready:
    """What is laid ready for one program and some vectors: it holds these, by whose ids it is found."""

    def __init__(self, dispatch: Dispatch, program: Program, vectors: Sequence[Sequence[Sequence[Array]]]) -> None:
        self.dispatch, self.vectors = dispatch, vectors
        self.reductions = program.reductions
        self.rows = CoefficientTable([({},) * len(program.parts)], [0] * len(dispatch.leaves))
        self._all = [*chain.from_iterable(vectors)]
        self._arrays = [*chain.from_iterable(self._all)] if dispatch.in_place else None
        """The arrays in the vectors; None where others come and go."""

    def same(self) -> bool:
        """Whether the very same arrays are in the vectors as when it was laid."""
        if self._arrays is None:
            return False
        return all(map(operator.is_, chain.from_iterable(self._all), self._arrays))


def _widened(p: Parameter, a: Array, *, copy: bool) -> Array:
    library = p.library
    with quiet(), library.on_device_of(p.array):
        wide = library.xp.astype(a, getattr(library.xp, COMPUTE[p.dtype]), copy=False)
        return library.sharded_like(library.copied(wide) if copy else wide, p.array)


def _zeros(p: Parameter) -> Array:
    with p.library.on_device_of(p.array):
        return p.library.sharded_like(p.library.xp.zeros_like(_widened(p, p.array, copy=False)), p.array)
