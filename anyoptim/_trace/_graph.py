"""A rule, called once with values that record what is done to them, becomes a graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from anyoptim._trace._expressions import Scalars
from anyoptim._trace._joint import Joint, JointOperations, each_part, parts_of
from anyoptim._trace._operations import LOGICAL, Operations
from anyoptim._trace._program import Coefficients, MisuseError, Program, RuleError, StaticOptions, rule_error
from anyoptim._trace._symbols import Scalar, ScalarTape, Symbol, Value

__all__ = ["Graph", "Input", "Node", "graph_of", "trace", "trace_reduction"]


class Node(NamedTuple):
    """An operation on elements: each argument is the number of an earlier array, or a `Scalar`."""

    op: str
    arguments: tuple[int | Scalar, ...]


class Input(NamedTuple):
    """What a rule is given of one element of an array."""

    name: str
    """For a reader: two stages may both have a slot `m`."""
    array: int
    """The place of the array: p is 0, x is 1, and the slots follow, and what is read beside them."""
    part: int | None = None
    """In a joint graph which part of a complex element it is, 0 the real one and 1 the imaginary one; None for a real
    array. In any other graph None: there a complex array is one of twice as many reals."""


class Graph(NamedTuple):
    """What a rule does to one element: each operation as it was written, once, and no other.

    Arrays are numbered: the inputs, of `p`, `x` and the slots, then the nodes in the order of the rule. An operation on
    scalars alone is never a node but a host expression, evaluated in float64; only its result is rounded to the
    compute dtype.

    A joint graph is of a complex element as a whole, for rules that ask for its modulus: it has two inputs for each
    complex array, and one for a real one.
    """

    name: str
    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    """The new p, then the new slots, of a joint graph each part; or what a reduction is of."""
    parts: int = 1
    """Of what a reduction is of how many parts: 2 where a joint graph gives complex numbers."""

    @property
    def terms(self) -> list[tuple[int, ...]]:
        """What a reduction is of: one output, or two that are to be multiplied; of complex numbers for each part."""
        count = len(self.outputs) // self.parts
        return [self.outputs[k * count : (k + 1) * count] for k in range(self.parts)]

    @property
    def joint(self) -> bool:
        """Whether it is of complex elements as a whole."""
        return any(of.part is not None for of in self.inputs)

    def first(self, i: int) -> int:
        """The first input of the array that an input is of."""
        return i - (self.inputs[i].part or 0)

    @property
    def homes(self) -> list[int]:
        """The inputs that take the outputs of a step: p and the slots."""
        return [i for i, of in enumerate(self.inputs) if of.array != 1][: len(self.outputs)]

    @property
    def read(self) -> list[int]:
        """The inputs whose elements go into anything."""
        used = {a for node in self.nodes for a in node.arguments if isinstance(a, int)} | {*self.outputs}
        return [i for i in range(len(self.inputs)) if i in used]

    @property
    def arrays_read(self) -> list[int]:
        """The places of the arrays whose elements go into anything."""
        return sorted({self.inputs[i].array for i in self.read})

    @property
    def scalars(self) -> Scalars:
        """The host expressions that enter the nodes, each once."""
        return Scalars(a for node in self.nodes for a in node.arguments if isinstance(a, Scalar))

    def condensed(self) -> tuple[Graph, list[int]]:
        """The same of a reduction, with no other arrays than it reads, and the places of these.

        The arrays are numbered anew, and neither they nor it have a name of their own: so what is alike of others is
        equal, and compiled once.
        """
        # Of a joint graph p says that elements are complex.
        arrays = sorted({*self.arrays_read, *((0,) if self.joint else ())})
        kept = [i for i, of in enumerate(self.inputs) if of.array in arrays]
        places = {i: n for n, i in enumerate(kept)}

        def moved(i: int) -> int:
            return places.get(i, i - len(self.inputs) + len(kept))

        given = (self.inputs[i] for i in kept)
        inputs = [of._replace(array=arrays.index(of.array), name=f"a{n}") for n, of in enumerate(given)]
        both = ((op, [moved(a) if isinstance(a, int) else a for a in arguments]) for op, arguments in self.nodes)
        nodes = [Node(op, tuple(arguments)) for op, arguments in both]
        return Graph("array", tuple(inputs), tuple(nodes), tuple(map(moved, self.outputs)), self.parts), arrays


def trace(program: Program, static: StaticOptions, *, of_complex: bool = False) -> Graph:
    """Run the program once on values that record what is done to them: from p, x and the slots to their new values.

    A static option, a bool or a string, is handed to the rule as it is, and the rule may branch on it. Of a complex
    parameter the graph is joint where a rule asks for a modulus or keeps a real slot, else the same as of a real one,
    of twice as many elements. Raises TypeError, naming the rule, where it branches on anything else, mixes in what is
    no value of the trace, or gives another number of slots than it takes.
    """
    return _traced(program, None, static, of_complex)


def trace_reduction(program: Program, k: int, static: StaticOptions, *, of_complex: bool = False) -> Graph:
    """Run the program once up to what the reduction that is part `k` is of: one output of the graph, or two."""
    return _traced(program, k, static, of_complex)


@functools.lru_cache(maxsize=256)
def graph_of(program: Program, k: int | None, static: StaticOptions, of_complex: bool = False) -> Graph:
    """The graph of the step, or of the reduction that is part `k`, which is traced once."""
    return _traced(program, k, static, of_complex)


def _traced(program: Program, k: int | None, static: StaticOptions, of_complex: bool) -> Graph:
    tape = _Tape(program, joint=of_complex)
    xp: Any = JointOperations(_Recording(tape)) if of_complex else _Recording(tape)
    p, x, *more = tape.values
    slots, reads = more[: program.slots], more[program.slots :]
    what = program.name if k is None else program.parts[k].what

    def call(row: Coefficients) -> tuple[Any, ...]:
        arrays = xp, p, x, slots, reads
        return program.moved(*arrays, row) if k is None else program.terms(k, *arrays, row)

    results = tape.call(call, static)
    if not of_complex:
        return tape.graph(what, results)
    if k is None:
        both = zip(results, (p, *slots), strict=True)
        graph = tape.graph(what, [part for a, old in both for part in parts_of(a, len(old.parts), what)])
    else:
        terms = each_part(results)
        graph = tape.graph(what, [a for each in terms for a in each])._replace(parts=len(terms))
    joint = xp.asked or any(graph.inputs[i].part is None for i in {*graph.read, *(graph.homes if k is None else ())})
    return graph if joint else _traced(program, k, static, of_complex=False)


class _Tape(ScalarTape):
    """The record of what a rule has done to arrays so far: equal operations on equal arguments are one."""

    def __init__(self, program: Program, *, joint: bool) -> None:
        self.name = program.name
        self.inputs: list[Input] = []
        self.values: list[Any] = []
        """p, x, the slots, and what is read beside them."""
        for k, (name, real) in enumerate(program.arrays):
            first = len(self.inputs)
            parts = [("_real", 0), ("_imag", 1)] if joint and not real else [("", None)]
            self.inputs += [Input(name + ending, k, part) for ending, part in parts]
            arrays = [_Array(self, i) for i in range(first, len(self.inputs))]
            self.values.append(Joint(*arrays) if joint else arrays[0])
        self.count = len(self.inputs)
        self.numbers: dict[Node, int] = {}
        self.ops: list[str] = []

    def call(self, program: Callable[[Coefficients], tuple[Any, ...]], static: StaticOptions) -> tuple[Any, ...]:
        """Run the program on this tape, and return what it gives."""
        row = tuple(
            {**{name: Symbol(self, Scalar("coefficient", (k, name))) for name in names}, **dict(fixed)}
            for k, (names, fixed) in enumerate(static)
        )
        try:
            return program(row)
        except RuleError:
            raise
        except (AttributeError, TypeError) as error:
            raise rule_error(f"the rule {self.name}", error) from error

    def operation(self, op: str, *operands: Any) -> Any:
        arrays = any(isinstance(a, _Array) for a in operands)
        return self._record(op, *operands) if arrays else super().operation(op, *operands)

    def argument(self, a: Any) -> Any:
        return a.number if isinstance(a, _Array) and a.tape is self else super().argument(a)

    def _record(self, op: str, *operands: Any) -> _Array:
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

    def graph(self, what: str, results: Iterable[Any]) -> Graph:
        """The graph of these results, with no other nodes than they need, numbered anew; `what` is for errors."""
        outputs = []
        for a in results:
            if not isinstance(a, _Array) or self.is_mask(a.number):
                kind = "comparison" if isinstance(a, _Array) else type(a).__name__
                raise RuleError(f"{what} gave a {kind}; wanted an array of numbers made of p, x and its slots")
            outputs.append(a.number)
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
            tuple(self.inputs),
            tuple(Node(nodes[i].op, tuple(moved(a) for a in nodes[i].arguments)) for i in kept),
            tuple(renumbered[o] for o in outputs),
        )


class _Array(Value):
    """A value that is an element of an array, by the number of the array."""

    def __init__(self, tape: _Tape, number: int) -> None:
        super().__init__(tape)
        self.number = number


class _Recording(Operations):
    """The rule's namespace while it is traced."""

    def __init__(self, tape: _Tape) -> None:
        self._tape = tape

    def sqrt(self, a: Any) -> Any:
        return self._tape.operation("sqrt", a)

    def abs(self, a: Any) -> Any:
        return self._tape.operation("abs", a)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return self._tape.operation("where", condition, a, b)

    def smallest_normal(self, a: Any) -> Any:
        return Symbol(self._tape, Scalar("smallest_normal", ()))

    def largest(self, a: Any) -> Any:
        return Symbol(self._tape, Scalar("largest", ()))

    def bound(self, a: Any, limit: Any) -> Any:
        return self._tape.operation("bound", a, -limit, limit)

    def elementary(self, op: str, *operands: Any) -> Any:
        return self._tape.operation(op, *operands)
