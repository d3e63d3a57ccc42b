"""What the generated texts have in common: names, those of the rule as far as they may be, expressions, templates."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Mapping, Sequence

import numpy as np

from anyoptim._trace._graph import Graph, Node
from anyoptim._trace._symbols import Scalar

__all__ = ["INFIX", "Writer", "filled", "function_name", "input_names", "scalar_names"]

INFIX = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "and": "&",
    "or": "|",
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
    "equal": "==",
    "not_equal": "!=",
}
"""The operators of two operands, in Python and in C."""

_OURS = re.compile(r"_.*|[knst]\d+")
"""What the renderers call masks, nodes, scalars, scratch, and all else."""

_CALLED = {
    *("alike", "bits", "carray", "clip", "exponent", "float32", "float64", "number", "partial", "pointer"),
    *("power_of_two", "prefetch", "setitem", "uint64"),
}
"""And what they call beside NumPy's universal functions."""


def function_name(graph: Graph, what: str = "rule") -> str:
    """`Adam_rule`; of a chain `ClipGlobalNorm_Adam_EMA_rule`."""
    names = [rule.rpartition("<locals>.")[2].removesuffix(".rule") for rule in graph.name.split(", ")]
    return re.sub(r"\W", "_", "_".join(names)) + f"_{what}"


def input_names(graph: Graph) -> tuple[str, ...]:
    """The inputs as identifiers, each once: two stages may both have a slot `m`."""
    taken: list[str] = []
    for of in graph.inputs:
        plain = re.sub(r"\W", "_", of.name)
        plain = plain if _free(plain) else f"slot_{plain}"
        number = sum(re.fullmatch(re.escape(plain) + r"(_\d+)?", other) is not None for other in taken)
        taken.append(f"{plain}_{number + 1}" if number else plain)
    return tuple(taken)


def scalar_names(graph: Graph) -> dict[Scalar, str]:
    """A coefficient keeps its name, unless that is taken; the others are numbered."""
    taken = {*input_names(graph)}
    names: dict[Scalar, str] = {}
    for k, scalar in enumerate(graph.scalars):
        given = scalar.arguments[1] if scalar.op == "coefficient" else ""
        names[scalar] = given if _free(given) and given not in taken else f"s{k}"
        taken.add(given)
    return names


class Writer:
    """A graph as source text, of a rule or a reduction: the names of its values, and its nodes as expressions."""

    operations: Mapping[str, str] = {
        **{op: f"{{}} {sign} {{}}" for op, sign in INFIX.items()},
        "negative": "-{}",
        "not": "not {}",
        "sqrt": "sqrt({})",
        "abs": "abs({})",
        "exp": "exp({})",
        "log": "log({})",
        "power": "pow({}, {})",
        "where": "{1} if {0} else {2}",
        "bound": "{1} if {0} < {1} else {2} if {0} > {2} else {0}",
    }
    """A template of each operation."""

    def __init__(self, graph: Graph, what: str) -> None:
        self.graph = graph
        self.name = function_name(graph, what)
        self.inputs: Sequence[str] = input_names(graph)
        self.scalars = scalar_names(graph)
        self.homes: list[int] = [] if what == "reduction" else graph.homes
        """The inputs that take the outputs: of a step p and the slots."""
        both = zip(self.homes, graph.outputs, strict=what != "reduction")
        self.moved: dict[int, int] = {home: output for home, output in both if output != home}
        """For each of these inputs that changes, the output that it becomes."""

    def value(self, a: int | Scalar) -> str:
        """The name of an array's element or of a scalar."""
        if isinstance(a, Scalar):
            return self.scalars[a]
        return self.inputs[a] if a < len(self.inputs) else f"n{a - len(self.inputs)}"

    def expression(self, node: Node) -> str:
        """What a node does to its arguments. A scalar that stands for a truth value is a number."""
        a = [self.value(argument) for argument in node.arguments]
        if node.op in {"and", "or", "not"}:
            a = [f"({v} != 0)" if isinstance(of, Scalar) else v for v, of in zip(a, node.arguments, strict=True)]
        elif node.op == "where" and isinstance(node.arguments[0], Scalar):
            a[0] += " != 0"
        return self.operations[node.op].format(*a)


def _free(name: str) -> bool:
    """Whether this is an identifier that means nothing else."""
    means = keyword.iskeyword(name) or hasattr(builtins, name) or name in _CALLED or _OURS.fullmatch(name)
    return name.isidentifier() and not means and not isinstance(getattr(np, name, None), np.ufunc)


def filled(template: str, **values: str | list[str]) -> str:
    """The template with each line that is a list's placeholder replaced by the lines of that list, as far in."""
    lines = []
    for line in template.splitlines():
        within = line.strip()[1:-1]
        if line.strip() == f"{{{within}}}" and isinstance(values.get(within), list):
            indent = line[: len(line) - len(line.lstrip())]
            lines += [indent + each for each in values[within]]
        else:
            lines.append(line.format(**{k: v for k, v in values.items() if isinstance(v, str)}))
    return "\n".join([*lines, ""])
