"""What an optimizer remembers, as lists over leaves and as the containers that a user sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import Array, library
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._tree import Tree
from anyoptim._stage._stage import Stage
from anyoptim._trace._hyperparameters import number
from anyoptim._trace._scalars import count, following

__all__ = [
    "FlatState",
    "LiveState",
    "SlotNames",
    "State",
    "chosen",
    "flattened",
    "pack",
    "row_counts",
    "signatures",
    "stepped",
    "unpack",
]


class State(NamedTuple):
    """What an optimizer remembers between steps, as plain containers: any tree library can walk it.

    >>> optimizer = ao.Momentum(lr=0.5)
    >>> state = optimizer.init((1.0,))
    >>> params, state = optimizer.step((1.0,), (1.0,), state)
    >>> params, state.step, state.slots
    ((0.5,), 1, {'v': (array(-0.5),)})
    """

    step: Any
    """The number of steps taken. Schedules are called with the number of the step at hand, one more.

    Where `jax.jit` traces it, it has 32 bits without x64, as `t` has, and stays at 2**31 - 1.
    """
    t: Any
    """For each parameter the number of steps that it took part in, in a container like `params`.

    A NumPy array of such numbers, one for each row, where `update` has moved some rows alone (`at`).
    """
    slots: Any
    """For each slot a container like `params` of arrays in the compute dtype: `state.slots["m"]["W1"]`.

    Of a chain a tuple of these, one for each stage: `state.slots[1]["m"]["W1"]`. None stands for a parameter that does
    not go through the stage.
    """
    scalars: Any = ()
    """The numbers that are kept for all parameters together, by name; of a chain a tuple of these; () for none."""
    pending: Any = ()
    """For each parameter how many gradients its total has gathered since the last step, in a container like `params`;
    () where no stage gathers any."""


class FlatState(NamedTuple):
    """A `State` as lists over leaves; the slots of all stages stand in a row."""

    step: Any
    t: list[Any]
    """The count of each parameter; an array with that of each of its rows, where they were updated by themselves."""
    slots: list[tuple[Array, ...] | None]
    scalars: tuple[Mapping[str, Any], ...]
    """The scalars of each stage."""
    pending: Sequence[Any] = ()

    def by_row(self, xs: Sequence[Array | None]) -> bool:
        """Whether the rows of any parameter with a gradient have counts of their own."""
        return any(x is not None and isinstance(n, np.ndarray) for x, n in zip(xs, self.t, strict=True))

    def moved_counts(self, moving: Sequence[int], steps: int = 1) -> list[Any]:
        """The step count of each parameter after so many steps of those that move."""
        t = list(self.t)
        for i in moving:
            t[i] += steps
        return t

    def nothing_pending(self) -> Sequence[Any]:
        """`pending` after a step: no parameter has gathered a gradient."""
        return [None if n is None else 0 for n in self.pending]


SlotNames = Sequence[Sequence[tuple[int, str]]]
"""For each parameter its slots: the place of the stage, and the slot's name."""

Signature = tuple[str, tuple[int, ...], str, bool]
"""What may not change of a parameter: library, shape, dtype, and whether it is another name of an earlier one."""


class LiveState:
    """The state that `update` keeps, and what the parameters were that it belongs to."""

    def __init__(self, spec: Any, signatures: list[Signature | None], flat: FlatState, names: SlotNames) -> None:
        self.spec, self.signatures, self.flat, self.names = spec, signatures, flat, names
        self.moving: Sequence[int] = ()
        self.behind = 0
        """The number of steps, in which the parameters `moving` moved, that `flat` has not counted yet."""

    def catch_up(self) -> FlatState:
        """The state with all steps counted."""
        if self.behind:
            step, t = self.flat.step + self.behind, self.flat.moved_counts(self.moving, self.behind)
            vars(self).update(flat=self.flat._replace(step=step, t=t), behind=0)  # both, whatever signals come
        return self.flat

    def after(self, flat: FlatState) -> LiveState:
        """Another state of the same parameters."""
        return LiveState(self.spec, self.signatures, flat, self.names)

    def matched(
        self, tree: Tree, ps: Sequence[Parameter | None], signatures: list[Signature | None], names: SlotNames
    ) -> LiveState:
        """The same in the order of parameters that are met again, which have these signatures.

        Raises ValueError if these are other parameters than those of the state.
        """
        order = tree.order(self.spec)
        before, t, slots = ([values[i] for i in order] for values in (self.signatures, self.flat.t, self.flat.slots))
        for i, (was, now) in enumerate(zip(before, signatures, strict=True)):
            if was != now:
                part = was is not None and now is not None and was[1] != now[1] and was[0::2] == now[0::2]
                raise ValueError(
                    f"{tree.name(i)} is {_described(now)}, but was {_described(was)} at the first update; "
                    f"wanted a new optimizer{', or, for a part of that array, the array itself and at=...' * part}"
                )
        for i, (p, slots_of) in enumerate(zip(ps, slots, strict=True)):
            for (_, name), s in zip(names[i], slots_of or (), strict=slots_of is not None):
                if p is not None and not checks.on_one_device(p, s):
                    raise ValueError(
                        f"{tree.name(i)} is on device {p.library.device(p.array)} but its slot {name!r} is on "
                        f"{p.library.device(s)}; wanted a new optimizer after a move"
                    )
        pending = [self.flat.pending[i] for i in order] if self.flat.pending else ()
        return LiveState(tree.spec, signatures, self.flat._replace(t=t, slots=slots, pending=pending), names)


def pack(stages: Sequence[Stage], nested: bool, spec: Any, flat: FlatState, names: SlotNames) -> State:
    """Lists over leaves as a state; slots and scalars are nested by stage, or not where there is one stage alone."""
    build = spec.unflatten
    columns = {(k, name): [None] * len(flat.slots) for k, stage in enumerate(stages) for name in stage.slots}
    for i, slots in enumerate(flat.slots):
        for key, slot in zip(names[i], slots or (), strict=slots is not None):
            columns[key][i] = slot
    by_stage = [{name: build(columns[k, name]) for name in stage.slots} for k, stage in enumerate(stages)]
    scalars: Any = ()
    if any(flat.scalars):
        scalars = tuple(map(dict, flat.scalars)) if nested else dict(flat.scalars[0])
    pending = build(flat.pending) if _accumulates(stages) else ()
    return State(flat.step, build(flat.t), tuple(by_stage) if nested else by_stage[0], scalars, pending)


def unpack(
    stages: Sequence[Stage],
    nested: bool,
    tree: Tree,
    ps: Sequence[Parameter | None],
    state: State,
    names: SlotNames,
) -> FlatState:
    """A state as lists over leaves. Raises ValueError or TypeError if it does not fit these stages and parameters."""
    columns = _columns(stages, nested, tree, state)
    counted = {"state.t": state.t, **({"state.pending": state.pending} if _accumulates(stages) else {})}
    t, *pending = (_counts(tree, ps, root, counts) for root, counts in counted.items())
    slots: list[tuple[Array, ...] | None] = []
    for i, p in enumerate(ps):
        if p is None:
            slots.append(None)
            continue
        own = []
        for k, name in names[i]:
            root, column = columns[k, name]
            shape = dict(zip(stages[k].slots, stages[k].slot_shapes(tuple(p.array.shape)), strict=True))[name]
            real = name in stages[k].real_slots
            own.append(checks.slot(tree.name(i, root), column[i], tree.name(i), p, shape, real))
        slots.append(tuple(own))
    flat = FlatState(count("state.step", state.step), t, slots, _scalars(stages, nested, state.scalars), *pending)
    if pending and any(isinstance(n, np.ndarray) for n in t):
        raise ValueError(f"state.t has counts by row, but {stages[0]!r} gathers gradients of whole parameters")
    return flat


def flattened(stages: Sequence[Stage], nested: bool, state: Any) -> tuple[Any, FlatState, SlotNames]:
    """The structure of a state, the state as lists over leaves, and which slots each leaf has.

    Raises ValueError or TypeError if it is no state of these stages.
    """
    tree = Tree("state.t", _checked(state).t)
    columns = _columns(stages, nested, tree, state)
    names = [[key for key, (_, column) in columns.items() if column[i] is not None] for i in range(len(tree.leaves))]
    slots: list[tuple[Array, ...] | None] = []
    for i, keys in enumerate(names):
        own = [(tree.name(i, root), column[i]) for root, column in (columns[key] for key in keys)]
        slots.append(tuple(checks.admit(name, slot, "an array")[1] for name, slot in own))
    pending = tree.match("state.pending", state.pending) if _accumulates(stages) else ()
    flat = FlatState(state.step, tree.leaves, slots, _scalars(stages, nested, state.scalars), pending)
    return tree.spec, flat, names


def _accumulates(stages: Sequence[Stage]) -> bool:
    return stages[0].is_step is not None


def _checked(state: Any) -> State:
    if not isinstance(state, State):
        raise TypeError(f"state is a {type(state).__qualname__}; wanted the State that init(params) gives")
    return state


def _by_stage(field: str, values: Any, stages: Sequence[Stage], nested: bool) -> list[tuple[str, Any, Stage]]:
    """What a field of a state has for each stage, and how it is reached."""
    values = values if nested else (values,)
    if not isinstance(values, tuple | list) or len(values) != len(stages):
        raise ValueError(f"state.{field} is not a tuple of {len(stages)}, one for each stage of {list(stages)}")
    roots = [f"state.{field}[{k}]" if nested else f"state.{field}" for k in range(len(stages))]
    return list(zip(roots, values, stages, strict=True))


def _counts(tree: Tree, ps: Sequence[Parameter | None], root: str, counts: Any) -> list[Any]:
    leaves = tree.match(root, counts)
    return [
        None if p is None else _count(str(tree.name(i, root)), leaves[i], tuple(p.array.shape))
        for i, p in enumerate(ps)
    ]


def _count(name: str, n: Any, shape: tuple[int, ...]) -> Any:
    """A count, or one for each row of a parameter of this shape. Raises TypeError or ValueError for what is neither."""
    if not isinstance(n, np.ndarray) or not n.ndim:
        return count(name, n)
    if n.shape != shape[:1]:
        raise ValueError(f"{name} has shape {n.shape}; wanted one count, or one for each row of shape {shape}")
    return row_counts(name, n)


def row_counts(name: str, n: Any) -> np.ndarray[Any, Any]:
    """Counts of rows. Raises TypeError or ValueError with their name for what is none."""
    counts = library(n).to_host(n)
    if counts.dtype.kind not in "iu" or counts.ndim != 1:
        raise TypeError(f"{name} has shape {counts.shape} and dtype {counts.dtype}; wanted integers, one for each row")
    if counts.min(initial=0) < 0 or counts.max(initial=0) >= 1 << 63:
        raise ValueError(f"{name} has counts from {counts.min()} to {counts.max()}; wanted at least 0 and below 2**63")
    return counts.astype(np.int64)


def _columns(
    stages: Sequence[Stage], nested: bool, tree: Tree, state: Any
) -> dict[tuple[int, str], tuple[str, list[Any]]]:
    """Each slot, by the place of its stage and its name: how it is reached, and its leaves."""
    columns = {}
    for k, (root, slots, stage) in enumerate(_by_stage("slots", _checked(state).slots, stages, nested)):
        if not isinstance(slots, Mapping):
            raise TypeError(f"{root} is a {type(slots).__qualname__}; wanted a dict with {sorted(stage.slots)}")
        if set(slots) != set(stage.slots):
            raise ValueError(f"{root} has {[*slots]}; wanted {sorted(stage.slots)} for {stage!r}")
        columns.update({(k, name): (at := f"{root}[{name!r}]", tree.match(at, slots[name])) for name in stage.slots})
    return columns


def _scalars(stages: Sequence[Stage], nested: bool, scalars: Any) -> tuple[Mapping[str, Any], ...]:
    if not any(stage.scalars for stage in stages):
        return tuple({} for _ in stages)
    checked = []
    for root, own, stage in _by_stage("scalars", scalars, stages, nested):
        if not isinstance(own, Mapping) or set(own) != set(stage.scalars):
            raise ValueError(f"{root} is {own!r}; wanted a dict with {sorted(stage.scalars)} for {stage!r}")
        checked.append({name: stage.ranges.get(name, number).value(f"{root}[{name!r}]", own[name]) for name in own})
    return tuple(checked)


def stepped(
    flat: FlatState,
    t: Sequence[Any],
    scalars: tuple[Mapping[str, Any], ...],
    slots: Mapping[int, tuple[Array, ...]],
    owner: Sequence[int],
) -> FlatState:
    """The state after a step, with new slots of the leaves that moved.

    A leaf that is another name of an earlier one shares its count and its slots.
    """
    after = [slots[o] if o in slots else flat.slots[o] for o in owner]
    return FlatState(following(flat.step), [t[o] for o in owner], after, scalars, flat.nothing_pending())


def chosen(
    taken: Array, new: tuple[list[Any], FlatState], old: tuple[list[Any], FlatState]
) -> tuple[list[Any], FlatState]:
    """The new leaves and state where the traced bool `taken` is true, and the old ones where it is not."""

    def either(a: Any, b: Any) -> Any:
        if a is b or a is None:
            return b
        xp = library(a if not isinstance(a, int | float) else taken).xp
        return xp.where(taken, xp.asarray(a), xp.asarray(b))

    (leaves, flat), (leaves_before, before) = new, old
    slots = [
        None if now is None or was is None else tuple(map(either, now, was))
        for now, was in zip(flat.slots, before.slots, strict=True)
    ]
    t = list(map(either, flat.t, before.t))
    scalars = tuple(
        {name: either(now[name], was[name]) for name in now}
        for now, was in zip(flat.scalars, before.scalars, strict=True)
    )
    step, pending = either(flat.step, before.step), list(map(either, flat.pending, before.pending))
    return list(map(either, leaves, leaves_before)), FlatState(step, t, slots, scalars, pending)


def signatures(ps: Sequence[Parameter | None], owner: Sequence[int]) -> list[Signature | None]:
    """What may not change of each parameter."""
    return [
        None if p is None else (p.library.name, tuple(p.array.shape), p.dtype, owner[i] != i) for i, p in enumerate(ps)
    ]


def _described(signature: Signature | None) -> str:
    """A signature in words."""
    if signature is None:
        return "None"
    library, shape, dtype, tied = signature
    return f"a {library} array of shape {shape} and dtype {dtype}{' under a second name' if tied else ''}"
