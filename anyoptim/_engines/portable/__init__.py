"""The engine that calls the rules themselves, on the arrays of any library."""

from __future__ import annotations

from collections.abc import Sequence

from anyoptim._engines._base import Engine, Leaf, Plan
from anyoptim._engines.portable._plan import PortablePlan
from anyoptim._trace._program import Program

__all__ = ["Portable"]


class Portable(Engine):
    """An engine for every leaf."""

    name = "portable"
    array_rules = True
    # It has read all it needs when it has prepared, but a gradient of another engine's may lie in the memory of a
    # parameter that this one will write to.
    commit_order = 1

    def reaches(self, leaf: Leaf) -> bool:
        return True

    def plan(self, program: Program, leaves: Sequence[Leaf]) -> Plan:
        return PortablePlan(program, leaves)
