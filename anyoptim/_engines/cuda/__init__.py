"""The engine that makes one launch for all parameters of a device and dtype; its machinery comes with its arrays."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Hashable, Sequence

from anyoptim._arrays import Array, Library
from anyoptim._arrays._memory import ANY_ORDER, axis_order
from anyoptim._engines._base import Engine, Leaf, Pass, Plan
from anyoptim._trace._program import Coefficients, Program

__all__ = ["Cuda"]


class Cuda(Engine):
    """An engine for contiguous arrays on a device, where the parameter is to be written where it lies."""

    name = "cuda"
    generates = True
    package = "cuda.core"
    without = "cuda.core can't be found (pip install 'cuda-core[cu13]': then one launch updates all)"

    def broken(self) -> str | None:
        return _broken()

    def reaches(self, leaf: Leaf) -> bool:
        return leaf.library.cuda(leaf.p) is not None

    def refusal(self, program: Program, leaf: Leaf, x: Array) -> str | None:
        library, p = leaf.library, leaf.p
        if leaf.destination is None:
            return "it can't be written to"
        if library.dtype(x) != library.dtype(p):
            return f"its gradient has another dtype, {library.dtype(x)}"
        if any(library.cuda(a) != library.cuda(p) for a in (x, *leaf.slots)):
            return "its gradient can't be read where it lies"
        orders = {axis_order(library.memory(a)) for a in (p, *leaf.slots)} - {ANY_ORDER}
        gaps = len(orders) > 1 or None in orders
        if gaps or (program.reductions and any(axes != tuple(sorted(axes or ())) for axes in orders)):
            return "it isn't contiguous" if gaps else "it isn't contiguous in C order"  # as a reduction goes
        if not orders | {ANY_ORDER} >= {axis_order(library.memory(x))}:
            return "its gradient isn't contiguous in the same order"
        return None

    def group(self, leaf: Leaf, x: Array) -> Hashable:
        return leaf.library.dtype(leaf.p), leaf.library.cuda(leaf.p)

    def plan(self, program: Program, leaves: Sequence[Leaf]) -> Plan:
        from anyoptim._engines.cuda._plan import CudaPlan  # noqa: PLC0415 - for those who have a device

        return CudaPlan(program, leaves)

    def precompile(self, program: Program, row: Coefficients, library: Library, p: Array) -> None:
        from anyoptim._engines.cuda._plan import precompile  # noqa: PLC0415 - for those who have a device

        precompile(program, row, library.dtype(p), library.cuda(p))

    def source(self, passes: Sequence[Pass], dtype: str) -> str:
        from anyoptim._engines.cuda._plan import source_of  # noqa: PLC0415 - for those who look

        return source_of(passes, dtype)


@functools.cache
def _broken() -> str | None:
    try:
        importlib.import_module("cuda.core")
        importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion()
    except Exception as error:
        return f"kernels can't be compiled: {error}"
    return None
