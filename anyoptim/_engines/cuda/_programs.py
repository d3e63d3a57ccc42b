"""Programs as CUDA C: the kernels of their steps and measures, alone or as one text."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from anyoptim._engines.cuda._source import REDUCTION, Kernel, kernel, kernel_measure
from anyoptim._trace._graph import trace, trace_measure
from anyoptim._trace._program import Coefficients, Program, StaticOptions, static_options

__all__ = ["kernel_of", "source_of"]


@functools.lru_cache(maxsize=256)
def kernel_of(
    program: Program, k: int | None, static: StaticOptions, dtype: str, taken: tuple[str, ...] = ()
) -> Kernel:
    """The step, or what part `k` measures, by a name that is none of those taken."""
    if k is None:
        return kernel(trace(program, static), dtype, taken)
    return kernel_measure(trace_measure(program, k, static), dtype, taken)


def source_of(passes: Sequence[tuple[Program, int | None, Coefficients]], dtype: str) -> str:
    """One text of steps, and of what parts measure: types once, each kernel once and by a name of its own."""
    distinct = {
        kernel_of(program, k, static_options(row), dtype): (program, k, static_options(row))
        for program, k, row in passes
    }
    found: dict[str, Kernel] = {}
    for program, k, static in distinct.values():
        one = kernel_of(program, k, static, dtype, tuple(found))
        found[one.name] = one
    norms = [REDUCTION] if any(k is not None for _, k, _ in passes) else []
    return "\n".join([one.types, *(one.body for one in found.values()), *norms])
