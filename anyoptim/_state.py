"""What an optimizer remembers, as lists over leaves and as the containers that a user sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from anyoptim import _checks as checks
from anyoptim._arrays import Array
from anyoptim._checks import Parameter
from anyoptim._engines import Result
from anyoptim._scalars import count
from anyoptim._stage import Stage
from anyoptim._tree import Tree

__all__ = ["Flat", "Memory", "State", "described", "pack", "signature", "stepped", "unpack"]


class State(NamedTuple):
    """What an optimizer remembers between steps, as plain containers: any tree library can walk it."""

    step: Any
    """The number of steps taken. Schedules are called with the number of the step at hand, one more."""
    t: Any
    """For each parameter the number of steps that it took part in, in a container like `params`."""
    slots: Any
    """For each slot a container like `params` of arrays in the compute dtype: `state.slots["m"]["W1"]`.

    Of a chain a tuple of these, one for each stage: `state.slots[1]["m"]["W1"]`.
    """


class Flat(NamedTuple):
    """A `State` as lists over leaves; the slots of all stages in a row."""

    step: Any
    t: list[Any]
    slots: list[tuple[Array, ...] | None]


@dataclass
class Memory:
    """What `update` keeps."""

    spec: Any
    signature: list[tuple[Any, ...] | None]
    """What may not change of each parameter."""
    flat: Flat
    alike: int = 0
    """How many steps `flat` is behind, which all parameters took."""

    def catch_up(self) -> Flat:
        """What is remembered, with all steps counted."""
        if self.alike:
            step, t, slots = self.flat
            self.flat = Flat(step + self.alike, [n + self.alike for n in t], slots)
            self.alike = 0
        return self.flat


def pack(stages: Sequence[Stage], nested: bool, spec: Any, flat: Flat) -> State:
    """The lists as a state; the slots are nested by stage or, of a single one, not."""
    build = spec.unflatten
    number = sum(len(stage.slots) for stage in stages)
    columns = iter([[None if of is None else of[k] for of in flat.slots] for k in range(number)])
    slots = [{name: build(next(columns)) for name in stage.slots} for stage in stages]
    return State(flat.step, build(flat.t), tuple(slots) if nested else slots[0])


def unpack(stages: Sequence[Stage], nested: bool, tree: Tree, ps: Sequence[Parameter | None], state: State) -> Flat:
    """The state as lists. Raises ValueError or TypeError if it is none for these stages and parameters."""
    if not isinstance(state, State):
        raise TypeError(f"state is a {type(state).__qualname__}; wanted the State that init(params) gives")
    given = state.slots if nested else (state.slots,)
    if not isinstance(given, tuple | list) or len(given) != len(stages):
        raise ValueError(f"state.slots is not a tuple of {len(stages)}, one for each stage of {list(stages)}")
    counts = tree.match("state.t", state.t)
    t = [None if p is None else count(str(tree.name(i, "state.t")), counts[i]) for i, p in enumerate(ps)]
    columns = []
    for k, (stage, slots) in enumerate(zip(stages, given, strict=True)):
        root = f"state.slots[{k}]" if nested else "state.slots"
        if not isinstance(slots, Mapping):
            raise TypeError(f"{root} is a {type(slots).__qualname__}; wanted a dict with {sorted(stage.slots)}")
        if set(slots) != set(stage.slots):
            raise ValueError(f"{root} has {sorted(slots)}; wanted {sorted(stage.slots)} for {stage!r}")
        names = [f"{root}[{name!r}]" for name in stage.slots]
        columns += [(name, tree.match(name, slots[key])) for name, key in zip(names, stage.slots, strict=True)]
    slots_of = [
        None if p is None else tuple(checks.slot(tree.name(i, name), of[i], tree.name(i), p) for name, of in columns)
        for i, p in enumerate(ps)
    ]
    return Flat(count("state.step", state.step), t, slots_of)


def stepped(flat: Flat, t: Sequence[Any], results: Mapping[int, Result], owner: Sequence[int]) -> Flat:
    """The counts and slots of all leaves, those of a tied one being its owner's."""
    slots = [results[o].slots if o in results else flat.slots[o] for o in owner]
    return Flat(flat.step + 1, [t[o] for o in owner], slots)


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
