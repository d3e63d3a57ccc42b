"""Windows of several updates of which one is a step: the others gather gradients, `total <- total + g`.

The engines of a step do that, too. A parameter that has gathered something takes part in the step, whether or not it
has a gradient then; how many gradients it has gathered is counted beside its total, whose values are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from anyoptim._arrays import Array
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._quiet import quiet
from anyoptim._engines import CoefficientTable, Dispatch, Leaf, Plans
from anyoptim._stage._stage import Stage
from anyoptim._stage._state import FlatState
from anyoptim._trace._program import MOVE, Part, Program, on_value
from anyoptim._trace._scalars import following, where

__all__ = ["accumulation", "cleared", "closed_empty", "contributions", "joined"]


def _negative(xp: Any, p: Array, x: Array, c: Any) -> Array:
    return -x


_ADD = Program((Part(on_value, _negative), MOVE))
"""A step whose parameter is the total, and which subtracts the negative gradient from it."""


def accumulation(
    engine: str | None,
    ps: Sequence[Parameter | None],
    xs: Sequence[Array | None],
    flat: FlatState,
    owner: Sequence[int],
    plans: Plans | None = None,
    *,
    write: bool = True,
) -> Callable[[], FlatState]:
    """What adds the gradients to the totals, which are each parameter's first slot, and gives the state with them.

    It writes in place if `write`; and called again after an exception came in its middle, it goes on with what is left.
    """
    leaves, some, moving = [], [], []
    for i, (p, x) in enumerate(zip(ps, xs, strict=True)):
        if p is not None and x is not None:
            total = (flat.slots[i] or ())[0]
            total = total if write else p.library.copied(total)
            leaves.append(Leaf(p.library, total, (), total if p.library.writable(total) else None))
            some.append(x)
            moving.append(i)
    dispatch = Dispatch(engine, [_ADD] * len(leaves), leaves, some, plans)
    if dispatch.capturing():
        raise RuntimeError("gradients are accumulated by the host's count, and can't be captured in a CUDA graph")
    with quiet():
        commit = dispatch.prepare(dispatch.gather(some), CoefficientTable([({}, {})], [0] * len(leaves)))

    def gather() -> FlatState:
        with quiet():
            both = zip(leaves, commit(), strict=True)
        arrays = [result.p if leaf.destination is None else leaf.p for leaf, result in both]  # a step's plan has it
        totals = dict(zip(moving, arrays, strict=True))
        counts = zip(flat.pending, owner, strict=True)
        pending = [n if n is None or o not in totals else following(n) for n, o in counts]
        return _counted(flat, 1)._replace(slots=_with_totals(totals, flat, owner), pending=pending)

    return gather


def joined(flat: FlatState) -> FlatState:
    """The state before a step of what is gathered alone: its last gradients are in the totals and counted already.

    Such a step takes the place of the update that gathered last, and so divides by the right number.
    """
    n = flat.scalars[0]["gathered"]
    return _counted(flat, where(n < 1, 0, -1))


def _counted(flat: FlatState, more: Any) -> FlatState:
    first, *others = flat.scalars
    return flat._replace(scalars=({**first, "gathered": first["gathered"] + more}, *others))


def contributions(
    ps: Sequence[Parameter | None],
    xs: Sequence[Array | None],
    flat: FlatState,
    owner: Sequence[int],
    resting: Collection[int],
) -> tuple[list[Array | None], dict[int, Any]]:
    """The gradients of a step, and for some parameters a traced bool that says whether they contribute to it at all.

    A parameter that has no gradient now but has gathered some gets a gradient of 0.
    """
    gradients, unsure = list(xs), {}
    for i, p in enumerate(ps):
        if p is not None and xs[i] is None and owner[i] == i and i not in resting:
            has_gathered = flat.pending[i] > 0
            if has_gathered is not False:
                with p.library.on_device_of(p.array):
                    gradients[i] = p.library.sharded_like(p.library.xp.zeros_like(p.array), p.array)
                if has_gathered is not True:
                    unsure[i] = has_gathered
    return gradients, unsure


def closed_empty(stage: Stage, flat: FlatState) -> FlatState:
    """The state after a window in which no parameter gathered anything, which makes no step."""
    first, *others = flat.scalars
    return flat._replace(scalars=(stage._updated_scalars(following(flat.step), first, {}), *others))


def cleared(
    ps: Sequence[Parameter | None], moving: Sequence[int], flat: FlatState, owner: Sequence[int], *, write: bool = True
) -> FlatState:
    """The state with totals of 0, after a step was called off: what was not finite may be in the totals."""
    totals = {i: (p.library, (flat.slots[i] or ())[0]) for i in moving if (p := ps[i]) is not None}
    zeros = {}
    for i, (library, total) in totals.items():
        with library.on_device_of(total):
            zeros[i] = library.xp.zeros_like(total)
    for i, (library, total) in totals.items():
        if write and library.writable(total):
            with library.on_device_of(total):
                library.write(total, zeros[i])
            zeros[i] = total
    return flat._replace(slots=_with_totals(zeros, flat, owner), pending=flat.nothing_pending())


def _with_totals(totals: Mapping[int, Array], flat: FlatState, owner: Sequence[int]) -> list[tuple[Array, ...] | None]:
    """The slots of all leaves, with these totals as the first slot of their owners."""
    both = zip(owner, flat.slots, strict=True)
    return [slots if slots is None or o not in totals else (totals[o], *slots[1:]) for o, slots in both]
