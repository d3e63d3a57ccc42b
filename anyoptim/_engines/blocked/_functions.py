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
from anyoptim._machine._scratch import Scratch
from anyoptim._machine._threads import Call, run
from anyoptim._trace._expressions import Scalars
from anyoptim._trace._graph import trace, trace_reduction
from anyoptim._trace._program import Program, StaticOptions
from anyoptim._trace._text import executed

__all__ = ["BlockFunction", "BoundFunction", "block_function", "text"]


class BlockFunction(NamedTuple):
    """A rule, which gives calls, or what a reduction is of, which makes them, for blocks of arrays."""

    call: Callable[..., Any]
    scalars: Scalars
    temporaries: int
    masks: int


class BoundFunction(NamedTuple):
    """A function with the dtype of its arithmetic and the values of its scalars."""

    function: BlockFunction
    dtype: np.dtype[Any]
    table: NDArray
    numbers: Sequence[NDArray]
    """Views of the elements of the table."""

    def __call__(self, scratch: Scratch, *arrays: NDArray) -> Any:
        """The calls, or what is reduced, for one block of p, x and the slots, all in the dtype of the arithmetic."""
        call, _, temporaries, masks = self.function
        return call(*arrays, *self.numbers, *scratch.arrays(self.dtype, temporaries, masks, arrays[0].shape))

    def reserve(self, scratch: Scratch, p: NDArray, x: NDArray) -> None:
        """Have the scratch that `cast` takes for blocks of these dtypes allocate its memory."""
        scratch.arrays(self.dtype, self.function.temporaries, self.function.masks, (0,))
        if not p.dtype == x.dtype == self.dtype:
            scratch.arrays(self.dtype, 2, 0, (0,), "cast")

    def cast(self, scratch: Scratch, *block: NDArray) -> list[Call]:
        """The calls for one block whose p and x may be of other dtypes: half precision, say, and float64."""
        p, x, *slots = block
        dtype, set_ = self.dtype, functools.partial(functools.partial, operator.setitem)
        if p.dtype == x.dtype == dtype:
            calls: list[Call] = self(scratch, p, x, *slots)
            return calls
        wide_p, wide_x = scratch.arrays(dtype, 2, 0, p.shape, "cast")
        both = ((wide_p, p), (wide_x, x))
        p_or_wide, x_or_wide = (a if a.dtype == dtype else wide for wide, a in both)
        before = [set_(wide, ..., a) for wide, a in both if a.dtype != dtype]
        after = [set_(p, ..., wide_p)] if p.dtype != dtype else []
        return [*before, *self(scratch, p_or_wide, x_or_wide, *slots), *after]


def text(program: Program, k: int | None, static: StaticOptions) -> BlockSource:
    """The text of the step, or of what the reduction that is part `k` is of."""
    return blocked(trace(program, static)) if k is None else blocked_reduction(trace_reduction(program, k, static)[0])


@functools.lru_cache(maxsize=256)
def block_function(program: Program, k: int | None, static: StaticOptions) -> BlockFunction:
    """The step, or what is reduced as part `k`: traced, written and compiled to Python once for each set of options."""
    source = text(program, k, static)
    file = f"<anyoptim blocked {source.name} {hash(source.text):x}>"
    # `np.clip` and the method of arrays are functions of Python around this one.
    called = {"partial": functools.partial, "setitem": operator.setitem, "clip": vars(umath)["clip"]}
    namespace = executed(source.text, file, {**called, **{name: getattr(np, name) for name in UFUNCS}})
    function = BlockFunction(namespace[source.name], source.scalars, source.temporaries, source.masks)
    # On no elements, so that what NumPy refuses it refuses now, and not when half of the parameters have moved.
    none, mask = np.empty(0), np.empty(0, bool)
    made = function.call(
        *[none] * (2 + program.slots),
        *[np.ones(())] * len(function.scalars),
        *[none] * function.temporaries,
        *[mask] * function.masks,
    )
    if k is None:
        run(made)
    return function
