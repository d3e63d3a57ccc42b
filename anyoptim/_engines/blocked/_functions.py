"""Rules as Python functions of NumPy calls, and the arguments of such functions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._engines._base import NDArray
from anyoptim._engines.blocked._scratch import Scratch
from anyoptim._engines.blocked._source import UFUNCS, BlockSource, blocked, blocked_measure
from anyoptim._trace._expressions import Scalars
from anyoptim._trace._graph import trace, trace_measure
from anyoptim._trace._program import Program, StaticOptions
from anyoptim._trace._text import executed

__all__ = ["BlockFunction", "BoundFunction", "block_function", "text"]


class BlockFunction(NamedTuple):
    """A rule, or a measure, of blocks of arrays."""

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

    def arguments(self, scratch: Scratch, *arrays: NDArray) -> list[NDArray]:
        """The arguments for one block of p, x and the slots, all of them in the dtype of the arithmetic."""
        _, _, temporaries, masks = self.function
        return [*arrays, *self.numbers, *scratch.arrays(self.dtype, temporaries, masks, arrays[0].shape)]


def text(program: Program, k: int | None, static: StaticOptions) -> BlockSource:
    """The text of the step, or of what part `k` measures."""
    return blocked(trace(program, static)) if k is None else blocked_measure(trace_measure(program, k, static))


@functools.lru_cache(maxsize=256)
def block_function(program: Program, k: int | None, static: StaticOptions) -> BlockFunction:
    """The step, or what part `k` measures: traced, written and compiled to Python once for each set of options."""
    source = text(program, k, static)
    file = f"<anyoptim blocked {source.name} {hash(source.text):x}>"
    namespace = executed(source.text, file, {name: getattr(np, name) for name in UFUNCS})
    function = BlockFunction(namespace[source.name], source.scalars, source.temporaries, source.masks)
    # On no elements, so that what NumPy refuses it refuses now, and not when half of the parameters have moved.
    none, mask = np.empty(0), np.empty(0, bool)
    function.call(
        *[none] * (2 + program.slots),
        *[1.0] * len(function.scalars),
        *[none] * function.temporaries,
        *[mask] * function.masks,
    )
    return function
