"""The engine that has XLA compile one function of all leaves; its machinery comes with its arrays."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from anyoptim._arrays import COMPUTE, Array
from anyoptim._engines._base import Engine, Leaf, Plan, real
from anyoptim._trace._program import Program

__all__ = ["Jax"]


class Jax(Engine):
    """An engine for JAX arrays whose values are known."""

    name = "jax"
    package, without = "jax", "JAX is not installed"
    commit_order = -1  # it compiles when it runs, which may fail

    def reaches(self, leaf: Leaf) -> bool:
        return leaf.library.compiled_by_xla

    def refusal(self, program: Program, leaf: Leaf, x: Array) -> str | None:
        return "it is traced" if any(map(leaf.library.traced, (leaf.p, x, *leaf.slots, *leaf.reads))) else None

    def group(self, leaf: Leaf, x: Array) -> Hashable:
        library = leaf.library
        # A leaf that is not bound to a place goes to that of its gradient.
        return real(COMPUTE[library.dtype(leaf.p)]), library.device_group(leaf.p) or library.device_group(x)

    def plan(self, program: Program, leaves: Sequence[Leaf]) -> Plan:
        from anyoptim._engines.jax._plan import JaxPlan  # noqa: PLC0415 - for those who have JAX

        return JaxPlan(program, leaves)
