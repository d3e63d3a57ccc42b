"""Graphs as one loop over many arrays, for Numba to compile.

For Adam in float32, `loop` writes::

    def Adam_rule(_grads, _written, _leaves, _chunks, _which, _coefficients, _first, _last):
        if len(_grads) and not alike(_leaves, _grads, _written):
            return False
        for _c in range(_first, _last):
            _leaf, _begin, _n, _ = _chunks[_c]
            a1 = float32(_coefficients[_which[_leaf], 0])
            ...
            _at_p = carray(pointer(_leaves[_leaf, FIRST], 4 * _begin), _n, float32)
            ...
            for _i in range(_n):
                p = _at_p[_i]
                ...
                n0 = x - m
                n1 = a1 * n0
                n2 = m + n1
                ...
                _at_p[_i] = n11
                _at_m[_i] = n2
                _at_v[_i] = n6
        return True

A chunk is a stretch of one array, and one call does any run of chunks, so that threads can share them out.
"""

from __future__ import annotations

from typing import NamedTuple

from anyoptim._trace._expressions import Scalars
from anyoptim._trace._graph import Graph, Node
from anyoptim._trace._reduction import BLOCK
from anyoptim._trace._symbols import Scalar
from anyoptim._trace._text import INFIX, filled, function_name, input_names, scalar_names

__all__ = ["Loop", "loop", "loop_measure"]

_PREFIX = {"negative": "-{}", "not": "not {}", "sqrt": "sqrt({})", "abs": "abs({})"}

_TABLES = "uint64[:, ::1], int64[:, ::1], int64[::1], float64[:, ::1]"


class Loop(NamedTuple):
    """A module as text, with one function."""

    name: str
    text: str
    signature: str
    scalars: Scalars
    """What stands in a row of coefficients."""


def loop(graph: Graph, dtype: str) -> Loop:
    """The step: p and the slots are read and written, x is read, all in place."""
    p, _, *slots = input_names(graph)
    stores = [
        f"_at_{home}[_i] = {{{output}}}"
        for home, output in zip((p, *slots), graph.outputs, strict=True)
        if output >= len(graph.inputs) or input_names(graph)[output] != home
    ]
    signature = f"boolean(uint64[::1], uint64[:, ::1], {_TABLES}, int64, int64)"
    return _Writer(graph, dtype).module(
        "rule", "alike, pointer", signature, _STEP, stores, [0, *range(2, len(graph.inputs))]
    )


def loop_measure(graph: Graph, dtype: str) -> Loop:
    """The block sums of squares of what is measured; all arrays are read."""
    (output,) = graph.outputs
    stores = [f"_a = float64({{{output}}})", "_block[_i - _b] = _a * _a"]
    signature = f"void({_TABLES}, float64[::1], int64, int64)"
    return _Writer(graph, dtype).module("measure", "pointer", signature, _MEASURE, stores, [])


_HEAD = """\
from math import sqrt
from numba import carray
from numpy import empty, {types}
from anyoptim._engines.compiled._array_headers import FIRST
from anyoptim._engines.compiled._intrinsics import {calls}


"""

_STEP = """\
def {name}(_grads, _written, _leaves, _chunks, _which, _coefficients, _first, _last):
    if len(_grads) and not alike(_leaves, _grads, _written):
        return False
    for _c in range(_first, _last):
        _leaf, _begin, _n, _ = _chunks[_c]
        {coefficients}
        {arrays}
        for _i in range(_n):
            {body}
    return True
"""

_MEASURE = """\
def {name}(_leaves, _chunks, _which, _coefficients, _sums, _first, _last):
    _block = empty({block}, float64)
    for _c in range(_first, _last):
        _leaf, _begin, _n, _at = _chunks[_c]
        {coefficients}
        {arrays}
        for _b in range(0, _n, {block}):
            _end = min(_b + {block}, _n)
            for _i in range(_b, _end):
                {body}
            _half = {block}
            while _half // 2 >= _end - _b and _half > 1:
                _half //= 2
            for _i in range(_end - _b, _half):
                _block[_i] = 0.0
            while _half > 1:
                _half //= 2
                for _i in range(_half):
                    _block[_i] += _block[_half + _i]
            _sums[_at + _b // {block}] = _block[0]
"""


class _Writer:
    def __init__(self, graph: Graph, dtype: str) -> None:
        self.graph = graph
        self.dtype = dtype
        self.inputs = input_names(graph)
        self.first = len(self.inputs)
        self.scalars = scalar_names(graph)

    def module(self, what: str, calls: str, signature: str, template: str, stores: list[str], homes: list[int]) -> Loop:
        read = self.graph.read
        opened = [i for i in range(self.first) if i in read or i in homes]
        names = {**dict(enumerate(self.inputs)), **{self.first + i: f"n{i}" for i in range(len(self.graph.nodes))}}
        body = [
            *(f"{self.inputs[i]} = _at_{self.inputs[i]}[_i]" for i in read),
            *(f"n{i} = {self.expression(node, names)}" for i, node in enumerate(self.graph.nodes)),
            *(store.format(*(names[i] for i in range(len(names)))) for store in stores),
        ]
        # Numba would evaluate 2*x of a float32 x in float64: there are no literals, and every coefficient has its type.
        rows = [
            f"{name} = {self.dtype}(_coefficients[_which[_leaf], {k}])" for k, name in enumerate(self.scalars.values())
        ]
        size = {"float32": 4, "float64": 8}[self.dtype]
        arrays = [
            f"_at_{self.inputs[i]} = carray(pointer(_leaves[_leaf, FIRST + {i}], {size} * _begin), _n, {self.dtype})"
            for i in opened
        ]
        name = function_name(self.graph, what)
        text = filled(template, name=name, block=str(BLOCK), coefficients=rows, arrays=arrays, body=body)
        head = _HEAD.format(types=", ".join(dict.fromkeys([self.dtype, "float64"])), calls=calls)
        return Loop(name, head + text, signature, self.graph.scalars)

    def expression(self, node: Node, names: dict[int, str]) -> str:
        logical = node.op in {"and", "or", "not"}
        a = [
            names[a] if isinstance(a, int) else f"({self.scalars[a]} != 0)" if logical else self.scalars[a]
            for a in node.arguments
        ]
        if node.op == "where":
            condition = f"{a[0]} != 0" if isinstance(node.arguments[0], Scalar) else a[0]
            return f"{a[1]} if {condition} else {a[2]}"
        if node.op == "bound":
            return f"{a[1]} if {a[0]} < {a[1]} else {a[2]} if {a[0]} > {a[2]} else {a[0]}"
        if node.op in INFIX:
            return f"{a[0]} {INFIX[node.op]} {a[1]}"
        return _PREFIX[node.op].format(a[0])
