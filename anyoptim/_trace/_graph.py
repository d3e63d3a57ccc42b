"""A rule, called once with values that record what is done to them, becomes a graph."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from anyoptim._trace._operations import Operations
from anyoptim._trace._program import Coefficients, MisuseError, Options, Program, RuleError, wrong

__all__ = [
    "LOGICAL",
    "OPERATORS",
    "Graph",
    "Node",
    "Range",
    "Scalar",
    "Scalars",
    "Symbol",
    "evaluate",
    "operation",
    "range_of",
    "symbol",
    "trace",
    "trace_measure",
]

LOGICAL = frozenset({"less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "and", "or", "not"})
"""The operations whose results are true or false; the others are add, subtract, multiply, divide, negative, sqrt,
abs, where and bound, which takes both its limits."""

OPERATORS: Mapping[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "negative": operator.neg,
    "abs": abs,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "equal": operator.eq,
    "not_equal": operator.ne,
}
"""Those that are Python's operators, for numbers and for arrays."""

_HOST: Mapping[str, Callable[..., Any]] = {
    **OPERATORS,
    "sqrt": math.sqrt,
    "where": lambda condition, a, b: a if condition else b,
    "fitted": lambda c, *within: Range(*within).fitted(c),
    "bound": lambda a, low, high: low if a < low else high if a > high else a,
    "and": lambda a, b: bool(a) and bool(b),
    "or": lambda a, b: bool(a) or bool(b),
}


_OF_DTYPE: Mapping[str, Callable[[Any], float]] = {
    "smallest_normal": functools.cache(lambda dtype: float(np.finfo(dtype).smallest_normal)),
    "largest": functools.cache(lambda dtype: float(np.finfo(dtype).max)),
}
"""What depends on the compute dtype alone."""


class Scalar(NamedTuple):
    """A host expression: a coefficient (`given`: of which part, its name), a number, or an operation on others."""

    op: str
    arguments: tuple[Any, ...]


class Node(NamedTuple):
    """An operation on elements: each argument is the number of an earlier array, or a `Scalar`."""

    op: str
    arguments: tuple[int | Scalar, ...]


class Graph(NamedTuple):
    """What a rule does to one element, each operation as it was written, once, and no other.

    Arrays are numbered: the inputs `p`, `x` and the slots, then the nodes in the order of the rule. Scalar with
    scalar is never a node but one host expression, evaluated in float64; only its result is rounded to the
    compute dtype.
    """

    name: str
    inputs: tuple[str, ...]
    """Names for a reader: two stages may both have a slot `m`."""
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    """The new p, then the new slots; or what is measured."""

    @property
    def read(self) -> list[int]:
        """The inputs whose elements go into anything."""
        used = {a for node in self.nodes for a in node.arguments if isinstance(a, int)} | {*self.outputs}
        return [i for i in range(len(self.inputs)) if i in used]

    @property
    def scalars(self) -> Scalars:
        """The host expressions that enter the nodes, each once."""
        return Scalars(a for node in self.nodes for a in node.arguments if isinstance(a, Scalar))


def trace(program: Program, options: Options) -> Graph:
    """Run the program once on values that record what is done to them: from p, x and the slots to their new values.

    A static option, a bool or a string, is handed to the rule as it is, and the rule may branch on it. Raises
    TypeError, naming the rule, where it branches on anything else, mixes in what is no value of the trace, or gives
    another number of slots than it takes.
    """
    tape = _Tape(program)
    p, x, *slots = tape.inputs
    return tape.graph(tape.call(lambda xp, row: program.moved(xp, p, x, slots, row), options))


def trace_measure(program: Program, k: int, options: Options) -> Graph:
    """The same up to what part `k` measures, which is the only output."""
    tape = _Tape(program)
    p, x, *slots = tape.inputs
    return tape.graph(tape.call(lambda xp, row: (program.measured(k, xp, p, x, slots, row),), options))


def _coefficients(scalar: Scalar) -> list[Scalar]:
    """Those that a host expression is made of; a constant depends on none, but at most on the dtype."""
    if scalar.op == "given":
        return [scalar]
    return [c for a in scalar.arguments if isinstance(a, Scalar) for c in _coefficients(a)]


class Range(NamedTuple):
    """The magnitudes that a dtype can hold, beside 0 and infinity."""

    least: float
    largest: float

    def holds(self, c: float) -> bool:
        """Whether it becomes neither 0 nor infinite in this dtype, unless it is."""
        return self.least <= c <= self.largest or -self.largest <= c <= -self.least or not c or c - c != 0

    def fitted(self, c: float) -> float:
        """`c`, or the nearest number of its sign that the dtype holds and that is neither 0 nor infinite."""
        return c if self.holds(c) else math.copysign(min(max(abs(c), self.least), self.largest), c)


@functools.cache
def range_of(dtype: Any, *, normal: bool = False) -> Range:
    """That of a compute dtype; of its normal numbers, where subnormal ones are flushed to 0."""
    finfo = np.finfo(dtype)
    # Python's own numbers have the range of float64.
    subnormal = 0.0 if finfo.bits == 64 else math.ldexp(1.0, int(finfo.minexp - finfo.nmant))
    return Range(float(finfo.smallest_normal) if normal else subnormal, float(finfo.max))


class Scalars(tuple[Scalar, ...]):
    """Host expressions, each once: first the coefficients, then what is made of some of them, then constants.

    What is made of coefficients is remembered until one of these is another, since they seldom are.
    """

    def __new__(cls, found: Iterable[Scalar]) -> Self:
        """Put them in order."""
        return super().__new__(cls, sorted(dict.fromkeys(found), key=lambda s: (s.op != "given", not _coefficients(s))))

    def __init__(self, _: Iterable[Scalar]) -> None:
        self.given = [s.arguments for s in self if s.op == "given"]
        """Of each coefficient the part and the name."""
        self._of = [s.arguments for s in {c: None for s in self[len(self.given) :] for c in _coefficients(s)}]
        self.derived = bool(self._of)
        """Whether any are made of coefficients."""
        self._last: dict[Any, tuple[list[Any], list[float]]] = {}

    def values(self, row: Coefficients, dtype: Any, within: Range | None = None) -> list[float]:
        """Their values at one step: a coefficient is fitted to the dtype, or `within` another range."""
        fitted = (within or range_of(dtype)).fitted
        found = [fitted(row[k][name]) for k, name in self.given]
        return [*found, *self.made(row, dtype, within)] if len(found) < len(self) else found

    def made(self, row: Coefficients, dtype: Any, within: Range | None = None) -> list[float]:
        """The values of those that are no coefficients."""
        now = [row[k][name] for k, name in self._of]
        before, found = self._last.get((dtype, within), (None, []))
        if now != before:
            found = [float(evaluate(s, row, dtype, within)) for s in self[len(self.given) :]]
            self._last[dtype, within] = now, found
        return found


def evaluate(scalar: Scalar, row: Coefficients, dtype: Any, within: Range | None = None) -> Any:
    """The value of a host expression at one step, in Python's own float64, of fitted coefficients.

    A symbol, where it is of symbols.
    """
    if scalar.op == "given":
        part, name = scalar.arguments
        value, within = row[part][name], within or range_of(dtype)
        if not isinstance(value, Symbol):
            return within.fitted(float(value))
        return operation("fitted", value, *within) if within.least else value  # of float64 all fit
    if scalar.op == "number":
        return float.fromhex(scalar.arguments[0])
    if scalar.op in _OF_DTYPE:
        return _OF_DTYPE[scalar.op](dtype)
    arguments = [evaluate(a, row, dtype, within) for a in scalar.arguments]
    if Symbol in map(type, arguments):
        return operation(scalar.op, *(a if isinstance(a, Symbol) else float(a) for a in arguments))
    return _HOST[scalar.op](*arguments)


class _Tape:
    """What a rule has done so far: equal operations on equal arguments are one."""

    def __init__(self, program: Program) -> None:
        self.name = program.name
        self.names = ("p", "x", *(slot for part in program.parts for slot in part.slots))
        self.count = len(self.names)
        self.inputs = [_Array(self, i) for i in range(self.count)]
        self.numbers: dict[Node, int] = {}
        self.ops: list[str] = []

    def call(self, program: Callable[[Any, Coefficients], tuple[Any, ...]], options: Options) -> list[int]:
        """Run the program on this tape, and return the numbers of what it gives."""
        row = tuple(
            {
                **{name: Symbol(self, Scalar("given", (k, name))) for name in names},
                **dict(given),
            }
            for k, (names, given) in enumerate(options)
        )
        try:
            results = program(_Recording(self), row)
        except RuleError:
            raise
        except (AttributeError, TypeError) as error:
            raise wrong(self.name, error) from error
        for a in results:
            if not isinstance(a, _Array) or self.is_mask(a.number):
                raise RuleError(
                    f"{self.name} gave a {type(a).__name__}; wanted an array of numbers made of p, x and its slots"
                )
        return [a.number for a in results]

    def record(self, op: str, *operands: Any) -> _Array:
        node = Node(op, tuple(self.argument(a) for a in operands))
        masks = [isinstance(a, int) and self.is_mask(a) for a in node.arguments]
        arrays = [isinstance(a, int) for a in node.arguments]
        wanted = (
            arrays if op in {"and", "or", "not"} else [op == "where" and arrays[0], *[False] * len(masks)][: len(masks)]
        )
        if masks != wanted:
            raise MisuseError(
                f"its {op!r} mixes truth values and numbers; wanted x > 0 to enter xp.where, & , | and ~ only"
            )
        if node not in self.numbers:
            self.numbers[node] = self.count + len(self.numbers)
            self.ops.append(op)
        return _Array(self, self.numbers[node])

    def is_mask(self, number: int) -> bool:
        """Whether this array holds truth values."""
        return number >= self.count and self.ops[number - self.count] in LOGICAL

    def argument(self, a: Any) -> int | Scalar:
        if isinstance(a, _Array | Symbol) and a.tape is self:
            return a.number if isinstance(a, _Array) else a.scalar
        if isinstance(a, int | float):
            return Scalar("number", (float(a).hex(),))  # -0.0 and 0.0 are two numbers
        raise MisuseError(f"it uses {a!r}; wanted its own arrays, its coefficients and Python numbers")

    @staticmethod
    def branch() -> TypeError:
        return MisuseError(
            "it branches on a value that is known only when it runs; wanted xp.where(...), "
            "or a coefficient that is a bool or a string, which is a static option"
        )

    def graph(self, outputs: list[int]) -> Graph:
        """The nodes that the outputs need, numbered anew."""
        nodes = list(self.numbers)
        needed = set(outputs)
        for i in reversed(range(len(nodes))):
            if self.count + i in needed:
                needed.update(a for a in nodes[i].arguments if isinstance(a, int))
        kept = [i for i in range(len(nodes)) if self.count + i in needed]
        renumbered = {
            **{i: i for i in range(self.count)},
            **{self.count + i: self.count + k for k, i in enumerate(kept)},
        }

        def moved(a: int | Scalar) -> int | Scalar:
            return renumbered[a] if isinstance(a, int) else a

        return Graph(
            self.name,
            self.names,
            tuple(Node(nodes[i].op, tuple(moved(a) for a in nodes[i].arguments)) for i in kept),
            tuple(renumbered[o] for o in outputs),
        )


def _binary(op: str) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
    def left(self: Any, other: Any) -> Any:
        return _operation(self.tape, op, self, other)

    def right(self: Any, other: Any) -> Any:
        return _operation(self.tape, op, other, self)

    return left, right


class _Value:
    """The operators of both kinds of value."""

    __array_ufunc__ = None  # a NumPy scalar beside it leaves the operation to it
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, tape: _Tape) -> None:
        self.tape = tape

    __add__, __radd__ = _binary("add")
    __sub__, __rsub__ = _binary("subtract")
    __mul__, __rmul__ = _binary("multiply")
    __truediv__, __rtruediv__ = _binary("divide")
    __and__, __rand__ = _binary("and")
    __or__, __ror__ = _binary("or")
    __lt__, _ = _binary("less")
    __le__, _ = _binary("less_equal")
    __gt__, _ = _binary("greater")
    __ge__, _ = _binary("greater_equal")
    __eq__, _ = _binary("equal")
    __ne__, _ = _binary("not_equal")

    def __neg__(self) -> Any:
        return _operation(self.tape, "negative", self)

    def __abs__(self) -> Any:
        return _operation(self.tape, "abs", self)

    def __invert__(self) -> Any:
        return _operation(self.tape, "not", self)

    def __bool__(self) -> bool:
        raise self.tape.branch()

    __float__ = __int__ = __index__ = __bool__

    def __pow__(self, other: Any) -> Any:
        raise MisuseError("it uses **; wanted x*x for x**2, xp.sqrt, or a coefficient that is the power of others")

    __rpow__ = __pow__

    def __getitem__(self, key: Any) -> Any:
        raise MisuseError(f"it takes [{key!r}] of an array; wanted a rule of one element, or array_rule = True")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name if name.startswith("__") else f"it uses .{name}")

    def __iadd__(self, other: Any) -> Any:
        raise MisuseError("it writes to what it was given; wanted m = m + x, and not m += x")

    __isub__ = __imul__ = __itruediv__ = __iadd__


class _Array(_Value):
    """An element of an array."""

    def __init__(self, tape: _Tape, number: int) -> None:
        super().__init__(tape)
        self.number = number


class Symbol(_Value):
    """A number whose value is not known yet: a coefficient in a trace, or what only a device knows."""

    def __init__(self, tape: _Tape, scalar: Scalar) -> None:
        super().__init__(tape)
        self.scalar = scalar


def _operation(tape: _Tape, op: str, *operands: Any) -> Any:
    """With an array among the operands it goes on the tape; of scalars alone it is a host expression."""
    if any(isinstance(a, _Array) for a in operands):
        return tape.record(op, *operands)
    if op == "not":  # Python's ~True is -2, and true
        raise MisuseError("it uses ~ on coefficients alone; wanted the opposite comparison")
    return Symbol(tape, Scalar(op, tuple(tape.argument(a) for a in operands)))


class _Recording(Operations):
    """The rule's namespace while it is traced."""

    def __init__(self, tape: _Tape) -> None:
        self._tape = tape

    def sqrt(self, a: Any) -> Any:
        return self._of("sqrt", a)

    def abs(self, a: Any) -> Any:
        return self._of("abs", a)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return self._of("where", condition, a, b)

    def smallest_normal(self, a: Any) -> Any:
        return Symbol(self._tape, Scalar("smallest_normal", ()))

    def largest(self, a: Any) -> Any:
        return Symbol(self._tape, Scalar("largest", ()))

    def bound(self, a: Any, limit: Any) -> Any:
        return self._of("bound", a, -limit, limit)

    def _of(self, op: str, *operands: Any) -> Any:
        return _operation(self._tape, op, *operands)


_OPEN = _Tape(Program(()))
"""Of no rule: of numbers that a device knows."""


def symbol(place: int) -> Symbol:
    """The number that stands in this place on the device: a norm, a count of replays."""
    return Symbol(_OPEN, Scalar("device", (place,)))


def operation(op: str, *operands: Any) -> Any:
    """An operation that is no operator, on such numbers and others of the host."""
    return _operation(_OPEN, op, *operands)
