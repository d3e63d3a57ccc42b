"""Rules as Python functions of NumPy calls, and the arguments of such functions."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy._core import umath

from anyoptim._engines._base import NDArray
from anyoptim._engines.blocked._source import UFUNCS, BlockSource, blocked, blocked_reduction
from anyoptim._machine._generated import executed
from anyoptim._machine._scratch import Scratch
from anyoptim._machine._threads import Call, run
from anyoptim._trace._expressions import Scalars
from anyoptim._trace._graph import Graph, graph_of
from anyoptim._trace._program import Program, StaticOptions

__all__ = ["BlockFunction", "BoundFunction", "block_function", "text"]


class BlockFunction(NamedTuple):
    """A rule, which gives calls, or what a reduction is of, which makes them, for blocks of arrays."""

    call: Callable[..., Any]
    scalars: Scalars
    temporaries: int
    masks: int
    graph: Graph
    joint: bool
    """Whether the graph is of complex elements as a whole, as it says itself, if slowly."""
    arrays: Sequence[int]
    """Of a reduction the arrays that it is given, by their places among p, x and the slots."""

    def views(self, *arrays: NDArray) -> list[NDArray]:
        """Its arguments of p, x and the slots: in a joint graph the parts of complex ones."""
        views = [(arrays[of.array], of.part) for of in self.graph.inputs]
        return [a if part is None else a.imag if part else a.real for a, part in views]


class BoundFunction(NamedTuple):
    """A function with the dtype of its arithmetic and the values of its scalars."""

    function: BlockFunction
    dtype: np.dtype[Any]
    table: NDArray
    numbers: Sequence[NDArray]
    """Views of the elements of the table."""

    def __call__(self, scratch: Scratch, *arrays: NDArray) -> Any:
        """The calls, or what is reduced, for one block of p, x and the slots, all in the dtype of the arithmetic."""
        call, _, temporaries, masks, *_ = self.function
        if not temporaries + masks:
            return call(*arrays, *self.numbers)
        return call(*arrays, *self.numbers, *scratch.arrays(self.dtype, temporaries, masks, arrays[0].shape))

    def reserve(self, scratch: Scratch, *block: NDArray) -> None:
        """Have the scratch that `cast` takes for blocks of these dtypes allocate its memory."""
        scratch.arrays(self.dtype, self.function.temporaries, self.function.masks, (0,))
        if others := sum(a.dtype != self.dtype for a in block):
            scratch.arrays(self.dtype, others, 0, (0,), "cast")

    def cast(self, scratch: Scratch, *block: NDArray) -> list[Call]:
        """The calls for one block, of which p and x may be of other dtypes: half precision, say, and float64."""
        dtype, set_ = self.dtype, functools.partial(functools.partial, operator.setitem)
        others = [i for i, a in enumerate(block) if a.dtype != dtype]
        if not others:
            calls: list[Call] = self(scratch, *block)
            return calls
        wide = dict(zip(others, scratch.arrays(dtype, len(others), 0, block[0].shape, "cast"), strict=True))
        calls = self(scratch, *(wide.get(i, a) for i, a in enumerate(block)))
        inputs = self.function.graph.inputs
        before = [set_(wide[i], ..., block[i]) for i in others]
        return [*before, *calls, *(set_(block[i], ..., wide[i]) for i in others if inputs[i].array == 0)]


def text(program: Program, k: int | None, static: StaticOptions, of_complex: bool = False) -> BlockSource:
    """The text of the step, or of what the reduction that is part `k` is of."""
    graph, _ = _graph(program, k, static, of_complex)
    return blocked(graph) if k is None else blocked_reduction(graph)


def _graph(program: Program, k: int | None, static: StaticOptions, of_complex: bool) -> tuple[Graph, Sequence[int]]:
    """The graph, of a reduction with no other arrays than it reads, and the places of these."""
    graph = graph_of(program, k, static, of_complex)
    return (graph, ()) if k is None else graph.condensed()


@functools.lru_cache(maxsize=256)
def block_function(program: Program, k: int | None, static: StaticOptions, of_complex: bool = False) -> BlockFunction:
    """The step, or what is reduced as part `k`: traced, written and compiled to Python once for each set of options."""
    graph, arrays = _graph(program, k, static, of_complex)
    if of_complex and not graph.joint:
        return block_function(program, k, static)
    source = text(program, k, static, of_complex)
    file = f"<anyoptim blocked {source.name} {hash(source.text):x}>"
    # `np.clip` and the method of arrays are functions of Python around this one.
    called = {"partial": functools.partial, "setitem": operator.setitem, "clip": vars(umath)["clip"]}
    namespace = executed(source.text, file, {**called, **{name: getattr(np, name) for name in UFUNCS}})
    function = BlockFunction(
        namespace[source.name], source.scalars, source.temporaries, source.masks, graph, graph.joint, arrays
    )
    # On no elements, so that what NumPy refuses it refuses now, and not when half of the parameters have moved.
    none, mask = np.empty(0), np.empty(0, bool)
    made = function.call(
        *[none] * len(graph.inputs),
        *[np.ones(())] * len(function.scalars),
        *[none] * function.temporaries,
        *[mask] * function.masks,
    )
    if k is None:
        run(made)
    return function
