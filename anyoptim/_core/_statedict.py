"""A state as plain dicts, by the paths of parameters: to be saved, and to go on from, here or with another library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import COMPUTE, Array, Library, traced
from anyoptim._arrays._checks import Parameter, admit
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Tree
from anyoptim._core._groups import groups, having
from anyoptim._core._param_groups import GroupSpec, ParamGroups
from anyoptim._core._selection import Selection
from anyoptim._core._stage import Stage
from anyoptim._core._state import FlatState
from anyoptim._trace._hyperparameters import Hyper, number
from anyoptim._trace._scalars import integer

__all__ = ["Restored", "restored", "written"]

VERSION = 1
"""Of the format."""

_FIELDS = ("version", "step", "t", "stages", "groups", "pending")
_OF_STAGE = ("name", "constants", "hyperparameters", "scalars", "slots")


def written(
    stages: Sequence[Stage],
    group_spec: GroupSpec,
    paths: Sequence[str],
    names: Sequence[Sequence[tuple[int, str]]],
    flat: FlatState,
    kept: Callable[[Array], Array],
) -> dict[str, Any]:
    """The state, the hyperparameters and the constants; of each slot what `kept` makes of it."""
    slots: list[dict[str, dict[str, Array]]] = [{name: {} for name in stage.slots} for stage in stages]
    for path, own, of in zip(paths, names, flat.slots, strict=True):
        for (k, name), slot in zip(own, of or (), strict=of is not None):
            slots[k][name][path] = kept(slot)
    return {
        "version": VERSION,
        "step": integer("state.step", flat.step),
        "t": _by_path("state.t", paths, flat.t),
        "stages": [
            {
                "name": type(stage).__name__,
                "constants": constants,
                "hyperparameters": {name: _shown(getattr(stage, name)) for name in stage.hyperparameters},
                "scalars": {name: float(value) for name, value in scalars.items()},
                "slots": own,
            }
            for stage, constants, scalars, own in zip(
                stages, _constants(stages, group_spec), flat.scalars, slots, strict=True
            )
        ],
        "groups": {
            name: None if own is None else {key: _shown(value) for key, value in own.items()}
            for name, own in _by_name(group_spec.groups).items()
        },
        **({"pending": _by_path("state.pending", paths, flat.pending)} if flat.pending else {}),
    }


def _by_path(root: str, paths: Sequence[str], counts: Sequence[Any]) -> dict[str, int]:
    return {path: integer(root, n) for path, n in zip(paths, counts, strict=True) if n is not None}


def _constants(stages: Sequence[Stage], group_spec: GroupSpec) -> list[dict[str, Any]]:
    """What can't be changed of each stage, and in a partition for which parameters it is."""
    names = dict(zip(group_spec.partition or (), _by_name(group_spec.partition), strict=True))
    both = zip(stages, group_spec.selectors, strict=True)
    return [
        stage.constants if selector is None else {**stage.constants, "for": names[selector]} for stage, selector in both
    ]


class Restored(NamedTuple):
    """What a saved state says, all of it checked."""

    flat: FlatState | None
    """None for one of before the first update."""
    settings: list[Callable[[], None]]
    """What sets the hyperparameters."""
    left: list[str]
    """What differs, and was left as it is."""


class _Saved(NamedTuple):
    """What was saved of a stage."""

    root: str
    name: str
    constants: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    scalars: Mapping[str, float]
    slots: Mapping[str, Mapping[str, Array]]


def restored(
    stages: Sequence[Stage],
    group_spec: GroupSpec,
    tree: Tree,
    ps: Sequence[Parameter | None],
    owner: Sequence[int],
    param_groups: ParamGroups,
    fresh: FlatState,
    state: Any,
) -> Restored:
    """What `written` wrote, for these parameters: in their library, on their device, in the slots of `fresh`.

    Raises TypeError or ValueError for what no optimizer wrote. What another one wrote is what is left.
    """
    given = _with("state", {"pending": {}, **_mapping("state", state)}, _FIELDS)
    if not _equal(given["version"], VERSION):
        raise ValueError(f"state['version'] is {given['version']!r}; wanted {VERSION}, which this anyoptim reads")
    step = integer("state['step']", given["step"])
    counts, waiting = (
        {path: integer(f"state[{of!r}][{path!r}]", n) for path, n in _mapping(f"state[{of!r}]", given[of]).items()}
        for of in ("t", "pending")
    )
    if not isinstance(given["stages"], list | tuple):
        raise TypeError(f"state['stages'] is a {type(given['stages']).__qualname__}; wanted a list")
    left: list[str] = []
    saved = _matched(stages, [_saved(f"state['stages'][{k}]", one) for k, one in enumerate(given["stages"])], left)
    settings: list[Callable[[], None]] = []
    scalars = [dict(of) for of in fresh.scalars]
    for k, (stage, constants) in enumerate(zip(stages, _constants(stages, group_spec), strict=True)):
        own = saved[k]
        if own is not None:
            _same(f"{own.root}['constants']", own.constants, constants, left)
            settings += _settings(own, stage, left)
            scalars[k] |= {
                name: stage.ranges.get(name, number).value(f"{own.root}['scalars'][{name!r}]", own.scalars[name])
                for name in scalars[k]
                if name in own.scalars
            }
    settings += _of_groups(_mapping("state['groups']", given["groups"]), group_spec.groups, stages, left)
    if not step and not counts:
        return Restored(None, settings, left)
    t, slots = list(fresh.t), list(fresh.slots)
    for i, (p, path) in enumerate(zip(ps, tree.paths, strict=True)):
        if p is None:
            continue
        if owner[i] != i:
            t[i], slots[i] = t[owner[i]], slots[owner[i]]
            if not _alike(counts, saved, path, tree.paths[owner[i]]):
                left.append(f"{tree.name(owner[i])} and {tree.name(i)} are one array, in it two")
        elif path not in counts:
            left.append(f"{tree.name(i)} is not in it")
        else:
            t[i] = counts[path]
            both = zip(param_groups.branch(i).names, fresh.slots[i] or (), strict=True)
            slots[i] = tuple(_slot(saved[k], name, path, str(tree.name(i)), p, slot, left) for (k, name), slot in both)
    paths = {path for p, path in zip(ps, tree.paths, strict=True) if p is not None}
    seen = dict.fromkeys([*counts, *(path for own in saved if own for of in own.slots.values() for path in of)])
    left += [f"it has {path!r}, for which there is no parameter" for path in seen if path not in paths]
    pending = fresh.pending
    if scalars[0].get("gathered"):
        pending = _pending(pending, waiting, tree, owner, left)
    return Restored(FlatState(step, t, slots, tuple(scalars), pending), settings, left)


def _pending(
    fresh: Sequence[Any], waiting: Mapping[str, int], tree: Tree, owner: Sequence[int], left: list[str]
) -> Sequence[Any]:
    """How many gradients were gathered of each parameter, where some are."""
    known = [None if n is None else waiting.get(tree.paths[o]) for n, o in zip(fresh, owner[: len(fresh)], strict=True)]
    left += [
        f"state['pending'] has none of {tree.name(i)}"
        for i, (n, k) in enumerate(zip(fresh, known, strict=True))
        if n is not None and k is None
    ]
    return [k or n for n, k in zip(fresh, known, strict=True)]


def _alike(counts: Mapping[str, int], saved: Sequence[_Saved | None], path: str, other: str) -> bool:
    """Whether the same was saved under two paths, or nothing under the first."""
    if path not in counts:
        return True
    both = [
        [found.to_host(array) for _, found, array, _ in (_known(own, name, path), _known(own, name, other))]
        for own in saved
        if own is not None
        for name, of in own.slots.items()
        if path in of and other in of
    ]
    return counts[path] == counts.get(other) and all(np.array_equal(a, b, equal_nan=True) for a, b in both)


def _saved(root: str, stage: Any) -> _Saved:
    """What was saved of a stage, if it looks like one."""
    given = _with(root, stage, _OF_STAGE)
    if not isinstance(given["name"], str):
        raise TypeError(f"{root}['name'] is {given['name']!r}; wanted a string")
    parts = {of: _mapping(f"{root}[{of!r}]", given[of]) for of in _OF_STAGE[1:]}
    scalars = {name: number.value(f"{root}['scalars'][{name!r}]", n) for name, n in parts["scalars"].items()}
    slots = {name: _mapping(f"{root}['slots'][{name!r}]", of) for name, of in parts["slots"].items()}
    return _Saved(root, given["name"], parts["constants"], parts["hyperparameters"], scalars, slots)


def _matched(stages: Sequence[Stage], saved: list[_Saved], left: list[str]) -> list[_Saved | None]:
    """For each stage what was saved of it: in order, by the names of their classes."""
    names = [type(stage).__name__ for stage in stages]
    if [one.name for one in saved] != names:
        left.append(f"it is of the stages {', '.join(one.name for one in saved)}, not {', '.join(names)}")
    found = []
    for name in names:
        k = next((k for k, one in enumerate(saved) if one.name == name), None)
        found.append(None if k is None else saved.pop(k))
    return found


def _settings(own: _Saved, stage: Stage, left: list[str]) -> list[Callable[[], None]]:
    """What sets the hyperparameters of a stage to those that were saved."""
    for of, known in (("scalars", stage.scalars), ("slots", stage.slots), ("hyperparameters", stage.hyperparameters)):
        _keys(f"{own.root}[{of!r}]", getattr(own, of), known, left)
    found: list[Callable[[], None]] = []
    for name, value in own.hyperparameters.items():
        if name in stage.hyperparameters:
            at = f"{own.root}['hyperparameters'][{name!r}]"
            found += _setting(at, value, getattr(stage, name), partial(setattr, stage, name), left)
            if not isinstance(value, Mapping):
                stage.hyperparameters[name].value(at, value)
    return found


def _of_groups(
    given: Mapping[str, Any], groups: groups | None, stages: Sequence[Stage], left: list[str]
) -> list[Callable[[], None]]:
    """What sets the hyperparameters of groups."""
    present = _by_name(groups)
    _keys("state['groups']", given, present, left)
    found: list[Callable[[], None]] = []
    for name, own in present.items():
        if name not in given:
            continue
        at, values = f"state['groups'][{name!r}]", given[name]
        if (own is None) != (values is None):
            left.append(f"{at} is {values!r}, not {own!r}")
        elif own is not None:
            _keys(at, _mapping(at, values), own, left)
            for key, value in values.items():
                if key in own:
                    for k in having(key, stages) if not isinstance(value, Mapping) else ():
                        stages[k].hyperparameters[key.rpartition(".")[2]].value(f"{at}[{key!r}]", value)
                    found += _setting(f"{at}[{key!r}]", value, own[key], partial(own.__setitem__, key), left)
    return found


def _setting(
    at: str, value: Any, present: Hyper, put: Callable[[Any], None], left: list[str]
) -> list[Callable[[], None]]:
    """What sets one hyperparameter. A schedule stays the one that is there, and gets what the saved one was told."""
    if isinstance(value, Mapping) != callable(present):
        left.append(f"{at} is {value!r}, not {present!r}")
        return []
    if not isinstance(value, Mapping):
        return [partial(put, value)]
    states = _with(at, value, ("schedule", "states"))["states"]
    told = list(_told(present))
    if not isinstance(states, list | tuple) or len(states) != len(told):
        left.append(f"{at} has the states {states!r}, not those of {present!r}")
        return []
    for schedule, state in zip(told, states, strict=True):
        type(schedule)(**{**vars(schedule), "state": state})  # which checks it
    return [partial(schedule.state.update, state) for schedule, state in zip(told, states, strict=True)]


def _shown(value: Hyper) -> Any:
    """A hyperparameter as a number; a schedule as how it looks, and what it was told."""
    if callable(value):
        return {"schedule": repr(value), "states": [dict(schedule.state) for schedule in _told(value)]}
    return value if isinstance(value, int) else float(value)


def _told(schedule: Any, seen: tuple[Any, ...] = ()) -> Iterator[Any]:
    """The schedules, in this one or the one itself, that are made with a state, which they were told."""
    if any(schedule is one for one in seen):
        return
    if "state" in getattr(type(schedule), "arguments", ()):
        yield schedule
    for value in getattr(schedule, "__dict__", {}).values():
        for one in value if isinstance(value, tuple | list) else [value]:
            if callable(one):
                yield from _told(one, (*seen, schedule))


def _by_name(of: groups | Selection | None) -> dict[str, Any]:
    """Groups by their patterns; a function, which has no lasting name, by its place."""
    patterns = {selector for selector in of or () if isinstance(selector, str)}
    found: dict[str, Any] = {}
    for n, selector in enumerate(of or ()):
        name = selector if isinstance(selector, str) else "..." if selector is ... else f"<function {n}>"
        while selector not in patterns and name in patterns:
            name += "'"  # a pattern reads like this one's name
        found[name] = of[selector] if isinstance(of, groups) else None
    return found


def _slot(own: _Saved | None, name: str, path: str, of: str, p: Parameter, fresh: Array, left: list[str]) -> Array:
    """The fresh slot with what was saved of it."""
    if own is None or name not in own.slots:
        return fresh  # as was said
    if path not in own.slots[name]:
        left.append(f"{own.root}['slots'][{name!r}] has none of {of}")
        return fresh
    at, found, array, dtype = _known(own, name, path)
    wanted = COMPUTE[p.dtype]
    if tuple(array.shape) != tuple(fresh.shape):
        left.append(f"{at} has shape {tuple(array.shape)}, but that of {of} has {tuple(fresh.shape)}")
        return fresh
    if dtype != wanted:
        left.append(f"{at} has dtype {dtype}, but that of {of} has {wanted}")
        if dtype.startswith("complex") != wanted.startswith("complex"):
            return fresh
    with quiet():
        return p.library.with_values(fresh, found.to_host(array))


def _known(own: _Saved, name: str, path: str) -> tuple[str, Library, Array, str]:
    """What was saved as a slot: its name, library, array and dtype. Raises TypeError if it is no array of numbers."""
    at, given = f"{own.root}['slots'][{name!r}][{path!r}]", own.slots[name][path]
    if traced(given):
        raise TypeError(f"{at} is traced; wanted an array whose values are known")
    return at, *admit(at, given, "an array")


def _same(root: str, given: Mapping[str, Any], present: Mapping[str, Any], left: list[str]) -> None:
    _keys(root, given, present, left)
    left += [
        f"{root}[{name!r}] is {given[name]!r}, not {value!r}"
        for name, value in present.items()
        if name in given and not _equal(given[name], value)
    ]


def _equal(a: Any, b: Any) -> bool:
    """Whether they are; an array, of which that is no question, equals nothing."""
    try:
        return bool(a == b)
    except (ValueError, RuntimeError):
        return False


def _keys(root: str, given: Any, present: Any, left: list[str]) -> None:
    if set(given) != set(present):
        left.append(f"{root} has {sorted(given)}, not {sorted(present)}")


def _mapping(root: str, given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise TypeError(f"{root} is {_kind(given)}; wanted a dict with strings as keys")
    return given


def _with(root: str, given: Any, keys: Sequence[str]) -> Mapping[str, Any]:
    """`given`, if it is a dict with these keys."""
    found = _mapping(root, given)
    if set(found) != set(keys):
        raise ValueError(f"{root} has {sorted(found)}; wanted {sorted(keys)}")
    return found


def _kind(given: Any) -> str:
    return f"a {type(given).__qualname__}" + (f" with the keys {list(given)}" if isinstance(given, Mapping) else "")
