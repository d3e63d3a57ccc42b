"""Rules as Python functions of NumPy calls, and what they are called with."""

from __future__ import annotations

import functools
import linecache
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._engines._base import NDArray
from anyoptim._engines.blocked._scratch import Scratch
from anyoptim._engines.blocked._source import UFUNCS, Source, blocked, blocked_measure
from anyoptim._trace._expressions import Scalars
from anyoptim._trace._graph import trace, trace_measure
from anyoptim._trace._program import Program, StaticOptions

__all__ = ["Kernel", "Work", "kernel", "text"]


class Kernel(NamedTuple):
    call: Callable[..., Any]
    scalars: Scalars
    temporaries: int
    masks: int


class Work(NamedTuple):
    """A kernel, for one compute dtype and one row of coefficients."""

    kernel: Kernel
    dtype: np.dtype[Any]
    table: NDArray
    numbers: Sequence[NDArray]
    """Views of the elements of the table."""

    def arguments(self, own: Scratch, *arrays: NDArray) -> list[NDArray]:
        """What the kernel is called with for one block of p, x and the slots, all of it in the compute dtype."""
        kernel = self.kernel
        return [*arrays, *self.numbers, *own.arrays(self.dtype, kernel.temporaries, kernel.masks, arrays[0].shape)]


def text(program: Program, k: int | None, static: StaticOptions) -> Source:
    """The step, or what part `k` measures."""
    return blocked(trace(program, static)) if k is None else blocked_measure(trace_measure(program, k, static))


@functools.lru_cache(maxsize=256)
def kernel(program: Program, k: int | None, static: StaticOptions) -> Kernel:
    """The rules, traced, written and compiled to Python: once for each set of static options."""
    source = text(program, k, static)
    namespace = {name: getattr(np, name) for name in UFUNCS}
    file = f"<anyoptim blocked {source.name} {hash(source.text):x}>"
    # So that tracebacks and debuggers show the lines.
    linecache.cache[file] = (len(source.text), None, source.text.splitlines(keepends=True), file)
    exec(compile(source.text, file, "exec"), namespace)  # noqa: S102 - text of our own, from names that were checked
    made = Kernel(namespace[source.name], source.scalars, source.temporaries, source.masks)
    # On no elements, so that what NumPy refuses it refuses now, and not when half of the parameters have moved.
    none, mask = np.empty(0), np.empty(0, bool)
    made.call(
        *[none] * (2 + program.slots),
        *[1.0] * len(made.scalars),
        *[none] * made.temporaries,
        *[mask] * made.masks,
    )
    return made
