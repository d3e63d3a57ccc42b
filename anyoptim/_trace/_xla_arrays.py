"""Graphs run on whole arrays that XLA compiles, so that it melts no operations of a rule into one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anyoptim._arrays import Array, Library
from anyoptim._arrays._jax import loaded
from anyoptim._trace._graph import Graph
from anyoptim._trace._operations import OPERATORS

__all__ = ["joined", "parts_of"]

_OPERATIONS: Mapping[str, Callable[..., Any]] = {
    **OPERATORS,
    "and": operator.and_,
    "or": operator.or_,
    "not": operator.invert,
}

_FUNCTIONS = ("sqrt", "where", "exp", "log", "power")
"""The operations that are functions of the same name."""

_MELTS: Mapping[str, frozenset[str]] = {
    "multiply": frozenset(_OPERATIONS) - {"multiply", "divide"} | {"where", "bound"},
    "sqrt": frozenset({"multiply", "divide"}),
    "divide": frozenset({"divide"}),
}
"""The operations whose results XLA melts into one of these, with another rounding: a product and a sum become one
operation, a quotient by a root becomes a product with its inverse, and two quotients become one."""


def parts_of(library: Library, graph: Graph, arrays: Sequence[Array], numbers: Array) -> list[list[Array]]:
    """The results of a graph for p, x and the slots: for complex ones those of the real and of the imaginary parts.

    Of a joint graph those of both together.
    """
    xp, p = library.xp, arrays[0]
    if graph.joint:
        reals = [a if xp.iscomplexobj(a) else xp.astype(a, numbers.dtype) for a in arrays[2:]]
        given = [p, xp.astype(arrays[1], p.dtype), *reals]
        both = [(given[of.array], of.part) for of in graph.inputs if of.array < len(given)]
        return [_run(xp, graph, [a if part is None else (xp.real, xp.imag)[part](a) for a, part in both], numbers)]
    if xp.iscomplexobj(p):
        arrays = [xp.astype(a, p.dtype) for a in arrays]
        return [_run(xp, graph, [part(a) for a in arrays], numbers) for part in (xp.real, xp.imag)]
    return [_run(xp, graph, [xp.astype(a, numbers.dtype) for a in arrays], numbers)]


def joined(graph: Graph, parts: list[list[Array]]) -> list[Array]:
    """The results of a step as arrays: complex ones of both parts."""
    join = loaded().lax.complex
    if not graph.joint:
        return parts[0] if len(parts) == 1 else [*map(join, *parts)]
    results, of_homes = iter(parts[0]), [graph.inputs[i].part for i in graph.homes]
    return [next(results) if part is None else join(next(results), next(results)) for part in of_homes if part != 1]


def _run(xp: Any, graph: Graph, arrays: Sequence[Array], numbers: Array) -> list[Array]:
    """Run each node as it was written: -0.0, which changes no number, separates those that would melt together."""
    zero, *rest = (numbers[j] for j in range(1 + len(graph.scalars)))
    scalars = dict(zip(graph.scalars, rest, strict=True))
    into: dict[int, set[str]] = {}  # for each array the operations that it is an operand of
    for node in graph.nodes:
        for a in node.arguments:
            if isinstance(a, int):
                into.setdefault(a, set()).add(node.op)
    of_node = {**_OPERATIONS, "bound": xp.clip, **{op: getattr(xp, op) for op in _FUNCTIONS}}
    values = [*arrays, *[None] * (len(graph.inputs) - len(arrays))]
    for node in graph.nodes:
        operands = [values[a] if isinstance(a, int) else scalars[a] for a in node.arguments]
        if node.op == "where" and not isinstance(node.arguments[0], int):
            operands[0] = operands[0] != 0  # a truth value of the host is a number here
        result = of_node[node.op](*operands)
        if into.get(len(values), frozenset()) & _MELTS.get(node.op, frozenset()):
            result = result + zero
        values.append(result)
    return [values[o] for o in graph.outputs]
