"""A stage that keeps slots free of subnormal numbers, with which processors are slow."""

from __future__ import annotations

from typing import Any

from anyoptim._arrays import Array
from anyoptim._stage._stage import SlotStage

__all__ = ["FlushSubnormals"]


class FlushSubnormals(SlotStage):
    """Set what is subnormal in the slots of the stages before to 0.

    ::

        s <- 0 where |s| < the smallest normal number, else s

    Where gradients are 0 for long (embeddings that are not used, dead units), momenta decay until they are
    subnormal, and stay so: rounding keeps them from 0. Many processors are slower with such numbers, some many
    times. This stage takes them away, at the price of three operations for each slot, with the same bits on all
    engines; docs/benchmarks.md has figures. What is lost is below 1.2e-38 in float32, 2.2e-308 in float64.

    >>> w, optimizer = np.zeros(1), ao.chain(ao.Momentum(momentum=0.5), ao.FlushSubnormals())
    >>> for g in [1.0] + 1100 * [0.0]:
    ...     w = optimizer.update(w, np.array([g]))
    >>> optimizer.state.slots[0]["v"]  # and not 5e-324
    array([0.])
    """

    @staticmethod
    def rule(xp: Any, s: Array, c: Any) -> Array:
        return xp.where(xp.abs(s) < xp.smallest_normal(s), 0.0, s)
