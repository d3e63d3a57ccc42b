"""The engine that compiles one Numba loop over all parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence

from anyoptim._arrays import COMPUTE, Array, Library
from anyoptim._engines._base import HostEngine, Leaf, NDArray, Pass, Plan, host_view
from anyoptim._engines.compiled import _plan
from anyoptim._engines.compiled._reductions import TOTALS_TEXT
from anyoptim._machine import _machine_code, _warmup
from anyoptim._machine._generated import Text
from anyoptim._trace._program import Coefficients, Program, static_options

__all__ = ["Compiled"]


class Compiled(HostEngine):
    """An engine for contiguous arrays whose dtype is that of the arithmetic."""

    name = "compiled"
    generates = True
    package, without = "numba", "numba can't be found (pip install numba)"

    def broken(self) -> str | None:
        """Why Numba does not work: it may be too old for the NumPy beside it, or have no right to make code."""
        return _broken()

    def unavailable(self) -> str | None:
        return self.missing() or self.broken()

    def host_refusal(self, program: Program, leaf: Leaf, p: NDArray, g: NDArray) -> str | None:
        if p.dtype.name != COMPUTE[p.dtype.name] or not p.dtype.isnative:
            return f"its dtype {p.dtype} is cast on load"
        if g.dtype != p.dtype:
            return f"its gradient has another dtype, {g.dtype}"
        orders = {*_plan.memory_orders([p, *(host_view(leaf.library, slot) for slot in leaf.slots)])}
        if program.reductions:
            orders &= {"C"}  # a reduction goes by logical order
        if not orders:
            return "it isn't contiguous in C order" if program.reductions else "it isn't contiguous"
        if not orders & {*_plan.memory_orders([g])}:
            return "its gradient isn't contiguous in the same order"
        return None

    def premature(self, program: Program, leaf: Leaf) -> str | None:
        # Where engines differ in bits, results must not depend on when compiling begins to pay.
        return _warmup.premature(program, leaf.library.dtype(leaf.p)) if program.exact else None

    def group(self, leaf: Leaf, x: Array) -> Hashable:
        return leaf.library.dtype(leaf.p)

    def plan(self, program: Program, leaves: Sequence[Leaf]) -> Plan:
        return _plan.CompiledPlan(program, leaves)

    def precompile(self, program: Program, row: Coefficients, library: Library, p: Array) -> None:
        dtype = library.dtype(p)
        if COMPUTE[dtype] == dtype:
            for k in _passes(program):
                _plan.load(program, k, static_options(row[:k]), dtype)
            _warmup.warm(program, dtype)

    def begin(self, program: Program, rows: Sequence[Coefficients], dtype: str) -> Callable[[], bool]:
        from anyoptim._machine._elsewhere import Compilation  # noqa: PLC0415 - once in a training

        return Compilation(self._texts(program, rows, dtype)).done

    def kept(self, program: Program, rows: Sequence[Coefficients], dtype: str) -> bool:
        try:
            return all(map(_machine_code.known, self._texts(program, rows, dtype)))
        except Exception:  # of an llvmlite that can't be imported, say: `broken` tells, when compiling pays
            return False

    def _texts(self, program: Program, rows: Sequence[Coefficients], dtype: str) -> list[Text]:
        """All that is compiled for a program."""
        kinds = dict.fromkeys((k, static_options(row[:k])) for row in rows for k in _passes(program))
        keys = [(program, k, static, dtype) for k, static in kinds]
        loops = [_plan.text(*key).module for key in keys]
        totals = [TOTALS_TEXT] if program.reductions else []
        return [*map(_plan.intrinsic_text, _plan.INTRINSICS), *totals, *loops]

    def source(self, passes: Sequence[Pass], dtype: str) -> str:
        texts = [_plan.text(program, k, static_options(row), dtype).module.text for program, k, row in passes]
        return "\n\n".join(dict.fromkeys(texts))


def _passes(program: Program) -> Sequence[int | None]:
    """The passes over all elements: reductions, and the step, if there is one."""
    return (*program.reductions, *((None,) if program.writes else ()))


@functools.cache
def _broken() -> str | None:
    try:
        _plan.intrinsic("no_overlap")
    except ImportError as error:
        return f"Numba can't be imported: {error}"
    except Exception as error:
        return f"Numba can't compile: {error}"
    return None
