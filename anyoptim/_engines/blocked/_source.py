"""Graphs as NumPy calls on blocks of elements.

For Adam, `blocked` writes::

    def Adam_rule(p, x, m, v, a1, a2, lr_t, eps, t0, t1):
        return [
            partial(subtract, x, m, t0),
            partial(multiply, a1, t0, t0),
            partial(add, m, t0, m),
            ...
            partial(divide, t0, t1, t1),
            partial(subtract, p, t1, p),
        ]

The calls are given and not made, so that all of a step can be made in one loop of C, which no signal's handler cuts in
two. They are therefore functions of C too: NumPy's `copyto` and `clip` run some Python code first.
"""

from __future__ import annotations

from typing import NamedTuple

from anyoptim._trace._expressions import Scalars
from anyoptim._trace._graph import Graph, Node
from anyoptim._trace._operations import LOGICAL
from anyoptim._trace._symbols import Scalar
from anyoptim._trace._text import Writer

__all__ = ["UFUNCS", "BlockSource", "blocked", "blocked_reduction"]

_UFUNC = {"abs": "absolute", "and": "logical_and", "or": "logical_or", "not": "logical_not"}

UFUNCS = (
    *("add", "subtract", "multiply", "divide", "negative", "positive", "sqrt", "absolute", "exp", "log", "power"),
    *("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"),
    *("logical_and", "logical_or", "logical_not"),
)
"""The functions that the text calls, by their names in NumPy; and it calls `partial`, `setitem` and `clip`."""


class BlockSource(NamedTuple):
    """The text of a function, and what it takes beside arrays."""

    name: str
    text: str
    scalars: Scalars
    temporaries: int
    """The number of scratch arrays of the compute dtype, after the scalars."""
    masks: int
    """The number of scratch arrays of booleans, after those."""


def blocked(graph: Graph) -> BlockSource:
    """The calls of the step, one ufunc into `out` for each node: p and the slots hold the results, x is left alone.

    A result goes straight to its place where nobody needs the old value any more, else to scratch and there at the
    end. Scratch is taken from what is free, so that a rule needs few temporaries, all in the cache.
    """
    return _BlockWriter(graph, "rule").source()


def blocked_reduction(graph: Graph) -> BlockSource:
    """What a reduction is of, which the function returns in scratch or in arguments; it changes none of its arrays."""
    return _BlockWriter(graph, "reduction").source()


class _BlockWriter(Writer):
    def __init__(self, graph: Graph, what: str) -> None:
        super().__init__(graph, what)
        self.place: dict[int, str] = dict(enumerate(self.inputs))
        self.last = {a: i for i, node in enumerate(graph.nodes) for a in node.arguments if isinstance(a, int)}
        self.last.update(dict.fromkeys(graph.outputs, len(graph.nodes)))
        self.free: dict[str, list[str]] = {"t": [], "k": []}
        self.made = {"t": 0, "k": 0}
        self.calls: list[str] = []
        """Each with its arguments: `add, x, m, t0`."""

    def source(self) -> BlockSource:
        for i, node in enumerate(self.graph.nodes):
            self.emit(i, node)
        if self.homes:
            self.bring_home()
            lines = ["return [", *(f"    partial({call})," for call in self.calls), "]"]
        else:
            lines = ["{}({})".format(*call.split(", ", 1)) for call in self.calls]
            factors = [f"[{', '.join(self.place[output] for output in part)}]" for part in self.graph.terms]
            lines.append(f"return [{', '.join(factors)}]" if len(factors) > 1 else f"return {factors[0]}")
        scratch = [f"{kind}{i}" for kind in ("t", "k") for i in range(self.made[kind])]
        arguments = ", ".join([*self.inputs, *self.scalars.values(), *scratch])
        text = "\n".join([f"def {self.name}({arguments}):", *(f"    {line}" for line in lines), ""])
        return BlockSource(self.name, text, self.graph.scalars, self.made["t"], self.made["k"])

    def value(self, a: int | Scalar) -> str:
        return self.scalars[a] if isinstance(a, Scalar) else self.place[a]

    def emit(self, i: int, node: Node) -> None:
        arguments = [self.value(a) for a in node.arguments]
        if node.op != "where":  # which writes before it has read everything
            self.release(i, node)
        out = self.target(i, node)
        if node.op == "where":
            condition, a, b = arguments
            if isinstance(node.arguments[0], Scalar):
                # A truth value of the host is a number here, which the next step may change.
                condition = self.scratch("k")
                self.calls.append(f"not_equal, {arguments[0]}, 0, {condition}")
                self.free["k"].append(condition)
            self.calls += [f"setitem, {out}, ..., {b}", f"positive, {a}, {out}, where={condition}"]
            self.release(i, node)
        elif node.op == "bound":
            self.calls.append(f"clip, {', '.join([*arguments, out])}")
        else:
            self.calls.append(f"{_UFUNC.get(node.op, node.op)}, {', '.join([*arguments, out])}")
        self.place[len(self.inputs) + i] = out

    def release(self, i: int, node: Node) -> None:
        """Give back the scratch of arguments that are not needed after node `i`."""
        for a in {a for a in node.arguments if isinstance(a, int) and self.last[a] == i}:
            if self.place[a] not in self.inputs:
                self.free[self.place[a][0]].append(self.place[a])

    def target(self, i: int, node: Node) -> str:
        """Where the result of node `i` goes: home, if it is a result and the old value has had its last use."""
        for home, output in self.moved.items():
            if output == len(self.inputs) + i and self.last.get(home, -1) <= i - (node.op == "where"):
                return self.inputs[home]
        return self.scratch("k" if node.op in LOGICAL else "t")

    def scratch(self, kind: str) -> str:
        """A free array, or another one."""
        if self.free[kind]:
            return self.free[kind].pop()
        self.made[kind] += 1
        return f"{kind}{self.made[kind] - 1}"

    def bring_home(self) -> None:
        """Copy results to their places, by way of scratch where one lies in another's place."""
        both = [(self.place[output], self.inputs[home]) for home, output in self.moved.items()]
        moves = [(source, home) for source, home in both if source != home]
        targets = {home for _, home in moves}
        for k, (source, home) in enumerate(moves):
            if source in targets:
                self.made["t"] += 1
                scratch = f"t{self.made['t'] - 1}"
                self.calls.append(f"setitem, {scratch}, ..., {source}")
                moves[k] = (scratch, home)
        self.calls += [f"setitem, {home}, ..., {source}" for source, home in moves]
