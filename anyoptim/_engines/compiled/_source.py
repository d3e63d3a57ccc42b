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

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from anyoptim._machine._generated import Text
from anyoptim._trace._exact_sum import Kind
from anyoptim._trace._exact_sum_text import LOOPS, loop_pieces
from anyoptim._trace._expressions import Scalars
from anyoptim._trace._graph import Graph
from anyoptim._trace._text import Writer, filled

__all__ = ["Loop", "loop", "loop_reduction"]

_TABLES = "uint64[:, ::1], int64[:, ::1], int64[::1], float64[:, ::1]"


class Loop(NamedTuple):
    """The text of a function to be compiled."""

    module: Text
    scalars: Scalars
    """The scalars in a row of coefficients."""
    arrays: Sequence[int] = ()
    """Of a reduction the arrays that it is given, by their places among p, x and the slots."""


def loop(graph: Graph, dtype: str) -> Loop:
    """The step: p and the slots are read and written, x is read, all in place."""
    writer = _LoopWriter(graph, "rule", dtype)
    stores = [f"{writer.element(home)} = {writer.value(output)}" for home, output in writer.moved.items()]
    signature = f"boolean(uint64[::1], uint64[:, ::1], {_TABLES}, int64, int64)"
    return writer.module("alike, pointer", signature, _STEP, stores)


def loop_reduction(graph: Graph, kind: Kind, dtype: str) -> Loop:
    """The rows of a reduction, one for each chunk, of which it is given the arrays that it reads alone.

    The code of the tile before is taken for that of the next, and only if that may be wrong the largest element is
    looked for. Rounded to a digit, a number has that digit in its last bits: sums of these are sums of integers, which
    LLVM may add in any order, hence by SIMD.
    """
    graph, arrays = graph.condensed()
    writer = _LoopWriter(graph, "reduction", dtype)
    signature = f"void({_TABLES}, int64[:, ::1], int64, int64)"
    terms = [[f"float64({writer.value(output)})" for output in term] for term in graph.terms]
    return writer.module(
        "pointer, prefetch, widest", signature, LOOPS[kind], [], loop_pieces(dtype, kind, terms)
    )._replace(arrays=arrays)


_HEAD = """\
from math import exp, log, pow, sqrt
from numba import carray
from numpy import {types}
from anyoptim._machine._array_headers import FIRST
from anyoptim._machine._intrinsics import {calls}


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


class _LoopWriter(Writer):
    def __init__(self, graph: Graph, what: str, dtype: str) -> None:
        super().__init__(graph, what)
        self.dtype = dtype

    def element(self, i: int) -> str:
        """What an input is in its array: of a complex one, which is one of pairs, a part."""
        at, part = f"_at_{self.inputs[self.graph.first(i)]}", self.graph.inputs[i].part
        return f"{at}[_i]" if part is None else f"{at}[_i, {part}]"

    def module(
        self,
        calls: str,
        signature: str,
        template: str,
        stores: list[str],
        pieces: Mapping[str, str | list[str]] = MappingProxyType({}),
    ) -> Loop:
        read = self.graph.read
        body = [
            *(f"{self.inputs[i]} = {self.element(i)}" for i in read),
            *(f"n{i} = {self.expression(node)}" for i, node in enumerate(self.graph.nodes)),
            *stores,
        ]
        # Numba would evaluate 2*x of a float32 x in float64: there are no literals, and every coefficient has its type.
        rows = [f"{s} = {self.dtype}(_coefficients[_which[_leaf], {k}])" for k, s in enumerate(self.scalars.values())]
        size = {"float32": 4, "float64": 8}[self.dtype]
        # A chunk is of reals: of half as many complex elements.
        arrays, ahead = ["_begin, _n = _begin // 2, _n // 2"] * self.graph.joint, []
        for i in sorted({self.graph.first(i) for i in (*read, *self.homes)}):
            wide, shape = (size, "_n") if self.graph.inputs[i].part is None else (2 * size, "(_n, 2)")
            at = f"_leaves[_leaf, FIRST + {self.graph.inputs[i].array}], {wide}"
            arrays.append(f"_at_{self.inputs[i]} = carray(pointer({at} * _begin), {shape}, {self.dtype})")
            ahead.append(f"prefetch({at} * (_begin + _n), {wide} * _n)")
        text = filled(template, name=self.name, coefficients=rows, arrays=arrays, ahead=ahead, body=body, **pieces)
        head = _HEAD.format(types=", ".join(dict.fromkeys([self.dtype, "float64", "uint64"])), calls=calls)
        return Loop(Text(self.name, head + text, signature), self.graph.scalars)
