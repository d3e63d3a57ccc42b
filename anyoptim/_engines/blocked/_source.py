"""Graphs as NumPy calls on blocks of elements.

For Adam, `blocked` writes::

    def Adam_rule(p, x, m, v, a1, a2, lr_t, eps, t0, t1):
        subtract(x, m, t0)
        multiply(a1, t0, t0)
        add(m, t0, m)
        ...
        divide(t0, t1, t1)
        subtract(p, t1, p)
"""

from __future__ import annotations

from typing import NamedTuple

from anyoptim._trace._expressions import Scalars
from anyoptim._trace._graph import Graph, Node
from anyoptim._trace._operations import LOGICAL
from anyoptim._trace._symbols import Scalar
from anyoptim._trace._text import function_name, input_names, scalar_names

__all__ = ["UFUNCS", "Source", "blocked", "blocked_measure"]

_UFUNC = {"abs": "absolute", "and": "logical_and", "or": "logical_or", "not": "logical_not"}

UFUNCS = (
    *("add", "subtract", "multiply", "divide", "negative", "sqrt", "absolute", "copyto"),
    *("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"),
    *("logical_and", "logical_or", "logical_not"),
)
"""What the text calls, by its name in NumPy."""


class Source(NamedTuple):
    """A function as text, and what it is to be called with."""

    name: str
    text: str
    scalars: Scalars
    temporaries: int
    """How many scratch arrays of the compute dtype it takes after its scalars."""
    masks: int
    """And how many of booleans after those."""


def blocked(graph: Graph) -> Source:
    """One NumPy ufunc call for each node, into `out`: p and the slots hold the results, x is left alone.

    A result goes straight to its place where nobody needs the old value any more, else to scratch and there at the
    end. Scratch is taken from what is free, so that a rule needs few temporaries, all in the cache.
    """
    p, _, *slots = input_names(graph)
    return _Blocked(graph, [p, *slots]).source()


def blocked_measure(graph: Graph) -> Source:
    """The same for what is measured, which it returns, in scratch or one of its arguments; all of these are read."""
    return _Blocked(graph, []).source()


class _Blocked:
    def __init__(self, graph: Graph, homes: list[str]) -> None:
        self.graph = graph
        self.first = len(graph.inputs)
        self.inputs = input_names(graph)
        self.names = scalar_names(graph)
        self.homes = list(zip(graph.outputs, homes, strict=False))
        self.place: dict[int, str] = dict(enumerate(self.inputs))
        self.last = {a: i for i, node in enumerate(graph.nodes) for a in node.arguments if isinstance(a, int)}
        self.last.update(dict.fromkeys(graph.outputs, len(graph.nodes)))
        self.free: dict[str, list[str]] = {"t": [], "k": []}
        self.made = {"t": 0, "k": 0}
        self.lines: list[str] = []

    def source(self) -> Source:
        for i, node in enumerate(self.graph.nodes):
            self.emit(i, node)
        if self.homes:
            self.bring_home()
        else:
            self.lines.append(f"return {self.place[self.graph.outputs[0]]}")
        name = function_name(self.graph, "rule" if self.homes else "measure")
        scratch = [f"{kind}{i}" for kind in ("t", "k") for i in range(self.made[kind])]
        arguments = ", ".join([*self.inputs, *self.names.values(), *scratch])
        text = "\n".join([f"def {name}({arguments}):", *(f"    {line}" for line in self.lines), ""])
        return Source(name, text, self.graph.scalars, self.made["t"], self.made["k"])

    def emit(self, i: int, node: Node) -> None:
        arguments = [self.place[a] if isinstance(a, int) else self.names[a] for a in node.arguments]
        if node.op != "where":  # which writes before it has read everything
            self.release(i, node)
        out = self.target(i, node)
        if node.op == "where":
            condition, a, b = arguments
            if isinstance(node.arguments[0], Scalar):
                self.lines.append(f"copyto({out}, {a} if {condition} else {b})")
            else:
                self.lines += [f"copyto({out}, {b})", f"copyto({out}, {a}, where={condition})"]
            self.release(i, node)
        elif node.op == "bound":
            self.lines.append(f"{arguments[0]}.clip({', '.join([*arguments[1:], out])})")
        else:
            self.lines.append(f"{_UFUNC.get(node.op, node.op)}({', '.join([*arguments, out])})")
        self.place[self.first + i] = out

    def release(self, i: int, node: Node) -> None:
        """Give back the scratch of arguments that are not needed after node `i`."""
        for a in {a for a in node.arguments if isinstance(a, int) and self.last[a] == i}:
            if self.place[a] not in self.inputs:
                self.free[self.place[a][0]].append(self.place[a])

    def target(self, i: int, node: Node) -> str:
        """Where the result of node `i` goes: home, if it is a result and the old value has had its last use."""
        number = self.first + i
        for output, home in self.homes:
            old = self.inputs.index(home)
            if output == number and self.last.get(old, -1) <= i - (node.op == "where"):
                return home
        kind = "k" if node.op in LOGICAL else "t"
        if self.free[kind]:
            return self.free[kind].pop()
        self.made[kind] += 1
        return f"{kind}{self.made[kind] - 1}"

    def bring_home(self) -> None:
        """Copy results to their places, by way of scratch where one lies in another's place."""
        moves = [(self.place[output], home) for output, home in self.homes if self.place[output] != home]
        targets = {home for _, home in moves}
        for k, (source, home) in enumerate(moves):
            if source in targets:
                self.made["t"] += 1
                scratch = f"t{self.made['t'] - 1}"
                self.lines.append(f"copyto({scratch}, {source})")
                moves[k] = (scratch, home)
        self.lines += [f"copyto({home}, {source})" for source, home in moves]
