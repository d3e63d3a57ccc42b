"""What an optimizer remembers, as lists over leaves and as the containers that a user sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from anyoptim._arrays import Array, library
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._tree import Tree
from anyoptim._core._stage import Stage
from anyoptim._engines import Result
from anyoptim._trace._hyperparameters import number
from anyoptim._trace._scalars import count, following

__all__ = [
    "FlatState",
    "LiveState",
    "State",
    "chosen",
    "flattened",
    "nothing",
    "pack",
    "signature",
    "stepped",
    "unpack",
]


class State(NamedTuple):
    """What an optimizer remembers between steps, as plain containers: any tree library can walk it."""

    step: Any
    """The number of steps taken. Schedules are called with the number of the step at hand, one more.

    Where `jax.jit` traces it, it has 32 bits without x64, as `t` has, and stays at 2**31 - 1.
    """
    t: Any
    """For each parameter the number of steps that it took part in, in a container like `params`."""
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
    """A `State` as lists over leaves; the slots of all stages in a row."""

    step: Any
    t: list[Any]
    slots: list[tuple[Array, ...] | None]
    scalars: tuple[Mapping[str, Any], ...]
    """Of each stage."""
    pending: Sequence[Any] = ()


Names = Sequence[Sequence[tuple[int, str]]]
"""Of each parameter its slots: of which stage, their names."""


class LiveState:
    """What `update` keeps."""

    def __init__(self, spec: Any, signature: list[tuple[Any, ...] | None], flat: FlatState, names: Names) -> None:
        self.spec, self.flat, self.names = spec, flat, names
        self.signature = signature
        """What may not change of each parameter."""
        self.alike = 0
        """How many steps `flat` is behind, which all parameters took."""

    def catch_up(self) -> FlatState:
        """What is remembered, with all steps counted."""
        if self.alike:
            step, t = self.flat.step + self.alike, [n + self.alike for n in self.flat.t]
            self.flat = self.flat._replace(step=step, t=t)
            self.alike = 0
        return self.flat

    def met(
        self, tree: Tree, ps: Sequence[Parameter | None], now: list[tuple[Any, ...] | None], names: Names
    ) -> LiveState:
        """The same of parameters that are met again, of this signature, in the order of theirs.

        Raises ValueError if they are not those that this is remembered of.
        """
        order = tree.order(self.spec)
        before, t, slots = ([of[i] for i in order] for of in (self.signature, self.flat.t, self.flat.slots))
        for i, (was, this) in enumerate(zip(before, now, strict=True)):
            if was != this:
                raise ValueError(
                    f"{tree.name(i)} is {described(this)}, but was {described(was)} at the first update; "
                    "wanted a new optimizer"
                )
        for i, (p, slots_of) in enumerate(zip(ps, slots, strict=True)):
            for (_, name), s in zip(names[i], slots_of or (), strict=slots_of is not None):
                if p is not None and not checks.on_one_device(p, s):
                    raise ValueError(
                        f"{tree.name(i)} is on device {p.library.device(p.array)} but its slot {name!r} is on "
                        f"{p.library.device(s)}; wanted a new optimizer after a move"
                    )
        pending = [self.flat.pending[i] for i in order] if self.flat.pending else ()
        return LiveState(tree.spec, now, self.flat._replace(t=t, slots=slots, pending=pending), names)


def pack(stages: Sequence[Stage], nested: bool, spec: Any, flat: FlatState, names: Names) -> State:
    """The lists as a state; the slots are nested by stage or, of a single one, not."""
    build = spec.unflatten
    columns = {(k, name): [None] * len(flat.slots) for k, stage in enumerate(stages) for name in stage.slots}
    for i, of in enumerate(flat.slots):
        for key, slot in zip(names[i], of or (), strict=of is not None):
            columns[key][i] = slot
    slots = [{name: build(columns[k, name]) for name in stage.slots} for k, stage in enumerate(stages)]
    scalars: Any = ()
    if any(flat.scalars):
        scalars = tuple(map(dict, flat.scalars)) if nested else dict(flat.scalars[0])
    pending = build(flat.pending) if _accumulates(stages) else ()
    return State(flat.step, build(flat.t), tuple(slots) if nested else slots[0], scalars, pending)


def unpack(
    stages: Sequence[Stage],
    nested: bool,
    tree: Tree,
    ps: Sequence[Parameter | None],
    state: State,
    names: Names,
) -> FlatState:
    """The state as lists. Raises ValueError or TypeError if it is none for these stages and parameters."""
    if not isinstance(state, State):
        raise TypeError(f"state is a {type(state).__qualname__}; wanted the State that init(params) gives")
    given = state.slots if nested else (state.slots,)
    if not isinstance(given, tuple | list) or len(given) != len(stages):
        raise ValueError(f"state.slots is not a tuple of {len(stages)}, one for each stage of {list(stages)}")
    counted = {"state.t": state.t, **({"state.pending": state.pending} if _accumulates(stages) else {})}
    t, *pending = (_counts(tree, ps, root, counts) for root, counts in counted.items())
    columns = _columns(stages, nested, tree, given)
    slots_of: list[tuple[Array, ...] | None] = []
    for i, p in enumerate(ps):
        if p is None:
            slots_of.append(None)
            continue
        own = []
        for k, name in names[i]:
            at, column = columns[k, name]
            shape = dict(zip(stages[k].slots, stages[k].slot_shapes(tuple(p.array.shape)), strict=True))[name]
            own.append(checks.slot(tree.name(i, at), column[i], tree.name(i), p, shape))
        slots_of.append(tuple(own))
    return FlatState(count("state.step", state.step), t, slots_of, _scalars(stages, nested, state.scalars), *pending)


def _accumulates(stages: Sequence[Stage]) -> bool:
    return stages[0].is_step is not None


def _counts(tree: Tree, ps: Sequence[Parameter | None], root: str, counts: Any) -> list[Any]:
    found = tree.match(root, counts)
    return [None if p is None else count(str(tree.name(i, root)), found[i]) for i, p in enumerate(ps)]


def _columns(
    stages: Sequence[Stage], nested: bool, tree: Tree, given: Sequence[Any]
) -> dict[tuple[int, str], tuple[str, list[Any]]]:
    """Each slot, by the number of its stage and its name: how it is reached, and its leaves."""
    columns = {}
    for k, (stage, slots) in enumerate(zip(stages, given, strict=True)):
        root = f"state.slots[{k}]" if nested else "state.slots"
        if not isinstance(slots, Mapping):
            raise TypeError(f"{root} is a {type(slots).__qualname__}; wanted a dict with {sorted(stage.slots)}")
        if set(slots) != set(stage.slots):
            raise ValueError(f"{root} has {[*slots]}; wanted {sorted(stage.slots)} for {stage!r}")
        columns.update({(k, name): (at := f"{root}[{name!r}]", tree.match(at, slots[name])) for name in stage.slots})
    return columns


def flattened(stages: Sequence[Stage], nested: bool, state: Any) -> tuple[Any, FlatState, Names]:
    """The structure of a state, the state as lists, and of each parameter its slots: of which stage, their names.

    Raises ValueError or TypeError if it is none for these stages.
    """
    if not isinstance(state, State):
        raise TypeError(f"state is a {type(state).__qualname__}; wanted the State that init(params) gives")
    given = state.slots if nested else (state.slots,)
    if not isinstance(given, tuple | list) or len(given) != len(stages):
        raise ValueError(f"state.slots is not a tuple of {len(stages)}, one for each stage of {list(stages)}")
    tree = Tree("state.t", state.t)
    columns = _columns(stages, nested, tree, given)
    names = [[key for key, (_, column) in columns.items() if column[i] is not None] for i in range(len(tree.leaves))]
    slots: list[tuple[Array, ...] | None] = []
    for i, own in enumerate(names):
        places = [(tree.name(i, at), column[i]) for at, column in (columns[key] for key in own)]
        slots.append(tuple(checks.admit(name, slot, "an array")[1] for name, slot in places))
    pending = tree.match("state.pending", state.pending) if _accumulates(stages) else ()
    flat = FlatState(state.step, tree.leaves, slots, _scalars(stages, nested, state.scalars), pending)
    return tree.spec, flat, names


def _scalars(stages: Sequence[Stage], nested: bool, scalars: Any) -> tuple[Mapping[str, Any], ...]:
    if not any(stage.scalars for stage in stages):
        return tuple({} for _ in stages)
    given = scalars if nested else (scalars,)
    if not isinstance(given, tuple | list) or len(given) != len(stages):
        raise ValueError(f"state.scalars is not a tuple of {len(stages)}, one for each stage of {list(stages)}")
    found = []
    for k, (stage, own) in enumerate(zip(stages, given, strict=True)):
        root = f"state.scalars[{k}]" if nested else "state.scalars"
        if not isinstance(own, Mapping) or set(own) != set(stage.scalars):
            raise ValueError(f"{root} is {own!r}; wanted a dict with {sorted(stage.scalars)} for {stage!r}")
        found.append({name: stage.ranges.get(name, number).value(f"{root}[{name!r}]", own[name]) for name in own})
    return tuple(found)


def stepped(
    flat: FlatState,
    t: Sequence[Any],
    scalars: tuple[Mapping[str, Any], ...],
    results: Mapping[int, Result],
    owner: Sequence[int],
) -> FlatState:
    """The counts and slots of all leaves, those of a tied one being its owner's."""
    slots = [results[o].slots if o in results else flat.slots[o] for o in owner]
    return FlatState(following(flat.step), [t[o] for o in owner], slots, scalars, nothing(flat))


def nothing(flat: FlatState) -> Sequence[Any]:
    """That nothing is gathered for any parameter."""
    return [None if n is None else 0 for n in flat.pending]


def chosen(
    taken: Array, new: tuple[list[Any], FlatState], old: tuple[list[Any], FlatState]
) -> tuple[list[Any], FlatState]:
    """The new leaves and state where a step is taken, and the old ones where it is not."""

    def either(a: Any, b: Any) -> Any:
        if a is b or a is None:
            return b
        xp = library(a if not isinstance(a, int | float) else taken).xp
        return xp.where(taken, xp.asarray(a), xp.asarray(b))

    (leaves, flat), (leaves_before, before) = new, old
    slots = [
        None if of is None or was is None else tuple(map(either, of, was))
        for of, was in zip(flat.slots, before.slots, strict=True)
    ]
    t = list(map(either, flat.t, before.t))
    scalars = tuple(
        {name: either(own[name], was[name]) for name in own}
        for own, was in zip(flat.scalars, before.scalars, strict=True)
    )
    step, pending = either(flat.step, before.step), list(map(either, flat.pending, before.pending))
    return list(map(either, leaves, leaves_before)), FlatState(step, t, slots, scalars, pending)


def signature(ps: Sequence[Parameter | None], owner: Sequence[int]) -> list[tuple[Any, ...] | None]:
    """What may not change of each parameter."""
    return [
        None if p is None else (p.library.name, tuple(p.array.shape), p.dtype, owner[i] != i) for i, p in enumerate(ps)
    ]


def described(of: tuple[Any, ...] | None) -> str:
    """A signature in words."""
    if of is None:
        return "None"
    library, shape, dtype, tied = of
    return f"a {library} array of shape {shape} and dtype {dtype}{' under a second name' if tied else ''}"
