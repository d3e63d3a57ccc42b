"""The engine that makes NumPy calls over blocks that stay in the cache, in place."""

from __future__ import annotations

from collections.abc import Sequence

from anyoptim._engines._base import HostEngine, Leaf, Pass, Plan
from anyoptim._engines.blocked._functions import text
from anyoptim._engines.blocked._plan import BlockedPlan
from anyoptim._trace._program import Program, static_options

__all__ = ["Blocked"]


class Blocked(HostEngine):
    """An engine for all that NumPy can read and write, of any layout and dtype."""

    name = "blocked"
    generates = True

    def plan(self, program: Program, leaves: Sequence[Leaf]) -> Plan:
        return BlockedPlan(program, leaves)

    def source(self, passes: Sequence[Pass], dtype: str) -> str:
        of_complex = dtype.startswith("complex")
        texts = (text(program, k, static_options(row), of_complex).text for program, k, row in passes)
        return "\n\n".join(dict.fromkeys(texts))
