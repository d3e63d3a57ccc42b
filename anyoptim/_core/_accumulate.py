"""Windows of updates of which one is a step: the others gather gradients, `total <- total + g`, by any step's engines.

Who has gathered something takes part in the step, whether or not it has a gradient then; how many gradients it has
gathered is counted beside the totals, whose values are nobody's to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from anyoptim._arrays import Array
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._quiet import quiet
from anyoptim._core._stage import Stage
from anyoptim._core._state import FlatState, nothing
from anyoptim._engines import ENGINES, CoefficientTable, Dispatch, Leaf
from anyoptim._engines._base import Plan
from anyoptim._trace._program import MOVE, Part, Program, on_value
from anyoptim._trace._scalars import following, where

__all__ = ["accumulated", "cleared", "ended", "joined", "taking"]


def _added(xp: Any, p: Array, x: Array, c: Any) -> Array:
    return -x


_ADD = Program((Part(on_value, _added), MOVE))
"""A step whose parameter is the total."""


def accumulated(
    engine: str | None,
    ps: Sequence[Parameter | None],
    xs: Sequence[Array | None],
    flat: FlatState,
    owner: Sequence[int],
    engines: Mapping[str, Callable[..., Plan]] = ENGINES,
    *,
    write: bool = True,
) -> FlatState:
    """The state with the gradients added to the totals, the first slot of each parameter: in place, if wanted."""
    leaves, some, moving = [], [], []
    for i, (p, x) in enumerate(zip(ps, xs, strict=True)):
        if p is not None and x is not None:
            total = (flat.slots[i] or ())[0]
            total = total if write else p.library.copied(total)
            leaves.append(Leaf(p.library, total, (), total if p.library.writable(total) else None))
            some.append(x)
            moving.append(i)
    dispatch = Dispatch(engine, [_ADD] * len(leaves), leaves, some, engines)
    if dispatch.capturing():
        raise RuntimeError("gradients are accumulated by the host's count, and can't be captured in a CUDA graph")
    with quiet():
        results = dispatch.prepare(dispatch.gather(some), CoefficientTable([({}, {})], [0] * len(leaves)))()
    both = zip(leaves, results, strict=True)
    kept = [result.p if leaf.destination is None else leaf.p for leaf, result in both]  # the plan of a step has it
    totals = dict(zip(moving, kept, strict=True))
    pending = [n if n is None or o not in totals else following(n) for n, o in zip(flat.pending, owner, strict=True)]
    return _counted(flat, 1)._replace(slots=_with(totals, flat, owner), pending=pending)


def joined(flat: FlatState) -> FlatState:
    """The state that makes a step of what is gathered: without the last gradients, which are in the totals, counted.

    A step with no gradients, in their place, then divides by the right number.
    """
    n = flat.scalars[0]["gathered"]
    return _counted(flat, where(n < 1, 0, -1))


def _counted(flat: FlatState, more: Any) -> FlatState:
    first, *others = flat.scalars
    return flat._replace(scalars=({**first, "gathered": first["gathered"] + more}, *others))


def taking(
    ps: Sequence[Parameter | None],
    xs: Sequence[Array | None],
    flat: FlatState,
    owner: Sequence[int],
    resting: Collection[int],
) -> tuple[list[Array | None], dict[int, Any]]:
    """The gradients of a step, 0 for those that have none now but have gathered some, and of whom that isn't known.

    Of these, under a tracing transformation, whether they have.
    """
    found, unsure = list(xs), {}
    for i, p in enumerate(ps):
        if p is not None and xs[i] is None and owner[i] == i and i not in resting:
            has = flat.pending[i] > 0
            if has is not False:
                with p.library.at(p.array):
                    found[i] = p.library.aligned(p.library.xp.zeros_like(p.array), p.array)
                if has is not True:
                    unsure[i] = has
    return found, unsure


def ended(stage: Stage, flat: FlatState) -> FlatState:
    """The state after a window in which nobody gathered anything, which makes no step."""
    first, *others = flat.scalars
    return flat._replace(scalars=(stage._updated_scalars(following(flat.step), first, {}), *others))


def cleared(
    ps: Sequence[Parameter | None], moving: Sequence[int], flat: FlatState, owner: Sequence[int], *, write: bool = True
) -> FlatState:
    """The state with totals of 0 where a step was called off: what it was called off for may be in them."""
    zeros = {}
    for i in moving:
        p = ps[i]
        if p is not None:
            total = (flat.slots[i] or ())[0]
            with p.library.at(total):
                zeros[i] = p.library.xp.zeros_like(total)
                if write and p.library.writable(total):
                    p.library.write(total, zeros[i])
                    zeros[i] = total
    return flat._replace(slots=_with(zeros, flat, owner), pending=nothing(flat))


def _with(totals: Mapping[int, Array], flat: FlatState, owner: Sequence[int]) -> list[tuple[Array, ...] | None]:
    slots = zip(owner, flat.slots, strict=True)
    return [of if of is None or o not in totals else (totals[o], *of[1:]) for o, of in slots]
