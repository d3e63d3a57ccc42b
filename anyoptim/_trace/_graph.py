"""A rule, called once with values that record what is done to them, becomes a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from anyoptim._trace._expressions import Scalars
from anyoptim._trace._operations import LOGICAL, Operations
from anyoptim._trace._program import Coefficients, MisuseError, Program, RuleError, StaticOptions, rule_error
from anyoptim._trace._symbols import Scalar, ScalarTape, Symbol, Value

__all__ = ["Graph", "Node", "trace", "trace_reduction"]


class Node(NamedTuple):
    """An operation on elements: each argument is the number of an earlier array, or a `Scalar`."""

    op: str
    arguments: tuple[int | Scalar, ...]


class Graph(NamedTuple):
    """What a rule does to one element: each operation as it was written, once, and no other.

    Arrays are numbered: the inputs `p`, `x` and the slots, then the nodes in the order of the rule. An operation on
    scalars alone is never a node but a host expression, evaluated in float64; only its result is rounded to the
    compute dtype.
    """

    name: str
    inputs: tuple[str, ...]
    """The names of the inputs, for a reader: two stages may both have a slot `m`."""
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    """The new p, then the new slots; or what a reduction is of."""

    @property
    def read(self) -> list[int]:
        """The inputs whose elements go into anything."""
        used = {a for node in self.nodes for a in node.arguments if isinstance(a, int)} | {*self.outputs}
        return [i for i in range(len(self.inputs)) if i in used]

    @property
    def scalars(self) -> Scalars:
        """The host expressions that enter the nodes, each once."""
        return Scalars(a for node in self.nodes for a in node.arguments if isinstance(a, Scalar))


def trace(program: Program, static: StaticOptions) -> Graph:
    """Run the program once on values that record what is done to them: from p, x and the slots to their new values.

    A static option, a bool or a string, is handed to the rule as it is, and the rule may branch on it. Raises
    TypeError, naming the rule, where it branches on anything else, mixes in what is no value of the trace, or gives
    another number of slots than it takes.
    """
    tape = _Tape(program)
    p, x, slots, reads = tape.arrays(program)
    return tape.graph(tape.call(program.name, lambda xp, row: program.moved(xp, p, x, slots, reads, row), static))


def trace_reduction(program: Program, k: int, static: StaticOptions) -> Graph:
    """Run the program once up to what the reduction that is part `k` is of: one output of the graph, or two."""
    tape = _Tape(program)
    arrays = tape.arrays(program)
    return tape.graph(tape.call(program.parts[k].what, lambda xp, row: program.terms(k, xp, *arrays, row), static))


class _Tape(ScalarTape):
    """The record of what a rule has done to arrays so far: equal operations on equal arguments are one."""

    def __init__(self, program: Program) -> None:
        self.name = program.name
        self.names = ("p", "x", *(slot for part in program.parts for slot in part.slots), *program.reads)
        self.count = len(self.names)
        self.inputs = [_Array(self, i) for i in range(self.count)]
        self.numbers: dict[Node, int] = {}
        self.ops: list[str] = []

    def arrays(self, program: Program) -> tuple[_Array, _Array, list[_Array], list[_Array]]:
        """The values for p, x, the slots, and the arrays that are read beside them."""
        p, x, *rest = self.inputs
        return p, x, rest[: program.slots], rest[program.slots :]

    def call(
        self, what: str, program: Callable[[Any, Coefficients], tuple[Any, ...]], static: StaticOptions
    ) -> list[int]:
        """Run the program on this tape, and return the numbers of the arrays that it gives; `what` is for errors."""
        row = tuple(
            {**{name: Symbol(self, Scalar("coefficient", (k, name))) for name in names}, **dict(fixed)}
            for k, (names, fixed) in enumerate(static)
        )
        try:
            results = program(_Recording(self), row)
        except RuleError:
            raise
        except (AttributeError, TypeError) as error:
            raise rule_error(f"the rule {self.name}", error) from error
        for a in results:
            if not isinstance(a, _Array) or self.is_mask(a.number):
                kind = "comparison" if isinstance(a, _Array) else type(a).__name__
                raise RuleError(f"{what} gave a {kind}; wanted an array of numbers made of p, x and its slots")
        return [a.number for a in results]

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

    def graph(self, outputs: list[int]) -> Graph:
        """The graph of these outputs, with no other nodes than they need, numbered anew."""
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
