"""The guards that must hold for the next step to replay the last one. `Explanation.guards` says what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyoptim._arrays._tree import Tree

if TYPE_CHECKING:
    from anyoptim._core._pipeline import Pipeline
    from anyoptim._core._training import Training

__all__ = ["failed_guards"]


def failed_guards(training: Training, pipeline: Pipeline, comm: Any, tree: Tree, grads: Any) -> list[str | None]:
    """For each parameter the guard that keeps the next step from replaying the last one; None where all hold."""
    plan, state, n = training.plan, training.state, len(tree.leaves)
    if training.recorder is not None:
        return ["graph"] * n
    if comm is not None:
        return ["ranks"] * n
    if plan is None or state is None:
        return ["first step"] * n
    if not pipeline.is_step(state.flat) or (pipeline.accumulates and any(state.flat.pending[i] for i in plan.at_rest)):
        return ["gathering"] * n
    failed = plan.failed_guards(tree.container, grads, state.flat.slots)
    if isinstance(failed, str):
        return [failed] * n
    return [failed.get(i, "another" if failed else None) for i in range(n)]
