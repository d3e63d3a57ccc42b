"""Reading back a state that was saved as plain dicts: all of it is checked before anything is set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import Array, Library, library, traced
from anyoptim._arrays._checks import Parameter, admit
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Tree
from anyoptim._core._pipeline import Params
from anyoptim._core._statedict import VERSION, by_name, constants, stateful
from anyoptim._stage._elements import Named, by_element, check_elements, is_array, real_array, spelled
from anyoptim._stage._groups import groups, having
from anyoptim._stage._param_groups import GroupSpec
from anyoptim._stage._stage import Stage
from anyoptim._stage._state import FlatState, row_counts
from anyoptim._trace._hyperparameters import Domain, Hyper, number
from anyoptim._trace._scalars import integer

__all__ = ["Restored", "restored"]

_FIELDS = ("version", "step", "t", "stages", "groups", "pending")
_STAGE_FIELDS = ("name", "constants", "hyperparameters", "scalars", "slots")

Setting = Callable[[], None]
"""Sets one hyperparameter to its saved value."""


class Restored(NamedTuple):
    """What a saved state says, all of it checked."""

    flat: FlatState | None
    """The state; None if it was saved before the first update."""
    settings: list[Setting]
    differences: list[str]
    """What differs from this optimizer or its parameters, and was left as it is."""


class _SavedStage(NamedTuple):
    """What was saved of one stage."""

    root: str
    name: str
    constants: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    scalars: Mapping[str, float]
    slots: Mapping[str, Mapping[str, Array]]


def restored(stages: Sequence[Stage], spec: GroupSpec, params: Params, fresh: FlatState, state: Any) -> Restored:
    """What `written` wrote, for these parameters: in their library, on their device, in the slots of `fresh`.

    Raises TypeError or ValueError for what no optimizer wrote. What another optimizer wrote is a difference.
    """
    saved = _with_keys("state", {"pending": {}, **_mapping("state", state)}, _FIELDS)
    if not _equal(saved["version"], VERSION):
        raise ValueError(f"state['version'] is {saved['version']!r}; wanted {VERSION}, which this anyoptim reads")
    step = integer("state['step']", saved["step"])
    counts, waiting = (_counts(f"state[{field!r}]", saved[field]) for field in ("t", "pending"))
    if not isinstance(saved["stages"], list | tuple):
        raise TypeError(f"state['stages'] is a {type(saved['stages']).__qualname__}; wanted a list")
    differences: list[str] = []
    all_saved = [_saved_stage(f"state['stages'][{k}]", one) for k, one in enumerate(saved["stages"])]
    of_stages = _matched(stages, all_saved, differences)
    settings: list[Setting] = []
    scalars = [dict(own) for own in fresh.scalars]
    for k, (stage, present) in enumerate(zip(stages, constants(stages, spec), strict=True)):
        own = of_stages[k]
        if own is not None:
            _compare(f"{own.root}['constants']", own.constants, present, differences)
            settings += _settings(own, stage, differences)
            scalars[k] |= {
                name: stage.ranges.get(name, number).value(f"{own.root}['scalars'][{name!r}]", own.scalars[name])
                for name in scalars[k]
                if name in own.scalars
            }
    settings += _group_settings(_mapping("state['groups']", saved["groups"]), spec.groups, stages, differences)
    if not step and not counts:
        return Restored(None, settings, differences)
    t, slots = _leaves(params, fresh, counts, of_stages, differences)
    pending = fresh.pending
    if scalars[0].get("gathered"):
        pending = _pending(pending, waiting, params, differences)
    return Restored(FlatState(step, t, slots, tuple(scalars), pending), settings, differences)


def _leaves(
    params: Params,
    fresh: FlatState,
    counts: Mapping[str, Any],
    of_stages: Sequence[_SavedStage | None],
    differences: list[str],
) -> tuple[list[Any], list[tuple[Array, ...] | None]]:
    """The step count and the slots of each parameter."""
    tree, ps, owner, param_groups = params
    t, slots = list(fresh.t), list(fresh.slots)
    for i, (p, path) in enumerate(zip(ps, tree.paths, strict=True)):
        if p is None:
            continue
        if owner[i] != i:
            t[i], slots[i] = t[owner[i]], slots[owner[i]]
            if not _saved_alike(counts, of_stages, path, tree.paths[owner[i]]):
                differences.append(f"{tree.name(owner[i])} and {tree.name(i)} are one array, in it two")
        elif path not in counts:
            differences.append(f"{tree.name(i)} is not in it")
        else:
            t[i] = counts[path]
            if isinstance(t[i], np.ndarray) and (fresh.pending or t[i].shape != tuple(p.array.shape)[:1]):
                why = "of which gradients are gathered as a whole" if fresh.pending else f"of shape {p.array.shape}"
                differences.append(f"it has counts of {len(t[i])} rows of {tree.name(i)}, {why}")
                t[i] = fresh.t[i]
            both = zip(param_groups.branch(i).names, fresh.slots[i] or (), strict=True)
            slots[i] = tuple(
                _slot(of_stages[k], name, path, str(tree.name(i)), p, slot, differences) for (k, name), slot in both
            )
    paths = {path for p, path in zip(ps, tree.paths, strict=True) if p is not None}
    of_slots = [path for own in of_stages if own for arrays in own.slots.values() for path in arrays]
    seen = dict.fromkeys([*counts, *of_slots])
    differences += [f"it has {path!r}, for which there is no parameter" for path in seen if path not in paths]
    return t, slots


def _pending(fresh: Sequence[Any], waiting: Mapping[str, int], params: Params, differences: list[str]) -> Sequence[Any]:
    """How many gradients were gathered of each parameter, in a state that has gathered some."""
    tree, _, owner, _ = params
    saved = [None if n is None else waiting.get(tree.paths[o]) for n, o in zip(fresh, owner[: len(fresh)], strict=True)]
    differences += [
        f"state['pending'] has none of {tree.name(i)}"
        for i, (n, k) in enumerate(zip(fresh, saved, strict=True))
        if n is not None and k is None
    ]
    return [k or n for n, k in zip(fresh, saved, strict=True)]


def _saved_alike(counts: Mapping[str, Any], of_stages: Sequence[_SavedStage | None], path: str, other: str) -> bool:
    """Whether the same was saved under two paths, or nothing under the first."""
    if path not in counts:
        return True
    both = [
        [lib.to_host(array) for _, lib, array, _ in (_saved_slot(own, name, path), _saved_slot(own, name, other))]
        for own in of_stages
        if own is not None
        for name, arrays in own.slots.items()
        if path in arrays and other in arrays
    ]
    same = np.array_equal(counts[path], counts.get(other, -1))
    return same and all(np.array_equal(a, b, equal_nan=True) for a, b in both)


def _saved_stage(root: str, stage: Any) -> _SavedStage:
    """What was saved of a stage. Raises TypeError or ValueError if it does not look like that."""
    saved = _with_keys(root, stage, _STAGE_FIELDS)
    if not isinstance(saved["name"], str):
        raise TypeError(f"{root}['name'] is {saved['name']!r}; wanted a string")
    fields = {field: _mapping(f"{root}[{field!r}]", saved[field]) for field in _STAGE_FIELDS[1:]}
    scalars = {name: number.value(f"{root}['scalars'][{name!r}]", n) for name, n in fields["scalars"].items()}
    slots = {name: _mapping(f"{root}['slots'][{name!r}]", arrays) for name, arrays in fields["slots"].items()}
    return _SavedStage(root, saved["name"], fields["constants"], fields["hyperparameters"], scalars, slots)


def _matched(stages: Sequence[Stage], saved: list[_SavedStage], differences: list[str]) -> list[_SavedStage | None]:
    """For each stage what was saved of it: in order, by the names of their classes."""
    names = [type(stage).__name__ for stage in stages]
    if [one.name for one in saved] != names:
        differences.append(f"it is of the stages {', '.join(one.name for one in saved)}, not {', '.join(names)}")
    matched = []
    for name in names:
        k = next((k for k, one in enumerate(saved) if one.name == name), None)
        matched.append(None if k is None else saved.pop(k))
    return matched


def _settings(saved: _SavedStage, stage: Stage, differences: list[str]) -> list[Setting]:
    """What sets the hyperparameters of a stage to those that were saved."""
    _compare_keys(f"{saved.root}['scalars']", saved.scalars, stage.scalars, differences)
    _compare_keys(f"{saved.root}['slots']", saved.slots, stage.slots, differences)
    _compare_keys(f"{saved.root}['hyperparameters']", saved.hyperparameters, stage.hyperparameters, differences)
    settings: list[Setting] = []
    for name, value in saved.hyperparameters.items():
        if name in stage.hyperparameters:
            root, domain = f"{saved.root}['hyperparameters'][{name!r}]", stage.hyperparameters[name]
            put, present = partial(setattr, stage, name), getattr(stage, name)
            if _is_elements(value) and by_element(present):
                settings += _elements(root, value, present, domain, put, differences)
                continue
            settings += _setting(root, value, present, put, differences)
            if not isinstance(value, Mapping):
                domain.value(root, value)
    return settings


def _group_settings(
    saved: Mapping[str, Any], present: groups | None, stages: Sequence[Stage], differences: list[str]
) -> list[Setting]:
    """What sets the hyperparameters of groups to those that were saved."""
    named = by_name(present)
    _compare_keys("state['groups']", saved, named, differences)
    settings: list[Setting] = []
    for name, group in named.items():
        if name not in saved:
            continue
        root, values = f"state['groups'][{name!r}]", saved[name]
        if (group is None) != (values is None):
            differences.append(f"{root} is {values!r}, not {group!r}")
        elif group is not None:
            _compare_keys(root, _mapping(root, values), group, differences)
            for key, value in values.items():
                if key in group:
                    for k in having(key, stages) if not isinstance(value, Mapping) else ():
                        stages[k].hyperparameters[key.rpartition(".")[2]].value(f"{root}[{key!r}]", value)
                    put = partial(group.__setitem__, key)
                    settings += _setting(f"{root}[{key!r}]", value, group[key], put, differences)
    return settings


def _setting(
    root: str, value: Any, present: Hyper, put: Callable[[Any], None], differences: list[str]
) -> list[Setting]:
    """What sets one hyperparameter. A schedule stays the one that is there, and gets the state of the saved one."""
    if isinstance(value, Mapping) != callable(present) or _is_elements(value) or by_element(present):
        given = "given element by element" if _is_elements(value) else repr(value)
        differences.append(f"{root} is {given}, not {spelled(present)}")
        return []
    if not isinstance(value, Mapping):
        return [partial(put, value)]
    states = _with_keys(root, value, ("schedule", "states"))["states"]
    schedules = list(stateful(present))
    if not isinstance(states, list | tuple) or len(states) != len(schedules):
        differences.append(f"{root} has the states {states!r}, not those of {present!r}")
        return []
    for schedule, state in zip(schedules, states, strict=True):
        type(schedule)(**{**vars(schedule), "state": state})  # which checks it
    return [partial(schedule.state.update, state) for schedule, state in zip(schedules, states, strict=True)]


def _is_elements(saved: Any) -> bool:
    """Whether a hyperparameter was saved that was given element by element."""
    return isinstance(saved, Mapping) and "elements" in saved


def _elements(
    root: str, value: Any, present: Any, domain: Domain, put: Callable[[Any], None], differences: list[str]
) -> list[Setting]:
    """What sets a hyperparameter that is given element by element to new arrays, like those that are there."""
    saved = _mapping(f"{root}['elements']", _with_keys(root, value, ("elements",))["elements"])
    tree = Tree(root, present)
    if set(saved) != {*tree.paths}:
        differences.append(f"{root} has {sorted(saved)}, not {sorted(tree.paths)}")
        return []
    leaves: list[Any] = []
    for path, leaf in zip(tree.paths, tree.leaves, strict=True):
        name, new = f"{root}['elements'][{path!r}]", saved[path]
        if traced(new):
            raise TypeError(f"{name} is traced; wanted an array whose values are known")
        forms = [(tuple(x.shape), library(x).dtype(x)) if is_array(x) else (x is None, None) for x in (new, leaf)]
        if forms[0] != forms[1]:
            differences.append(f"{name} is {Named(new)}, not {Named(leaf)}")
        if forms[0][0] != forms[1][0]:
            new = leaf
        elif is_array(leaf):
            (theirs, array), own = real_array(name, new), library(leaf)
            with quiet():
                new = own.with_values(own.copied(leaf), theirs.to_host(array))
        elif new is not None:
            new = domain.value(name, new)
        leaves.append(new)
    container = tree.build(leaves)
    check_elements(root, domain, container)
    return [partial(put, container)]


def _slot(
    saved: _SavedStage | None, name: str, path: str, label: str, p: Parameter, fresh: Array, differences: list[str]
) -> Array:
    """The fresh slot, with the values of what was saved for the parameter that errors call `label`."""
    if saved is None or name not in saved.slots:
        return fresh  # the difference is noted already
    if path not in saved.slots[name]:
        differences.append(f"{saved.root}['slots'][{name!r}] has none of {label}")
        return fresh
    root, lib, array, dtype = _saved_slot(saved, name, path)
    wanted = p.library.dtype(fresh)
    if tuple(array.shape) != tuple(fresh.shape):
        differences.append(f"{root} has shape {tuple(array.shape)}, but that of {label} has {tuple(fresh.shape)}")
        return fresh
    if dtype != wanted:
        differences.append(f"{root} has dtype {dtype}, but that of {label} has {wanted}")
        if dtype.startswith("complex") != wanted.startswith("complex"):
            return fresh
    with quiet():
        return p.library.with_values(fresh, lib.to_host(array))


def _saved_slot(saved: _SavedStage, name: str, path: str) -> tuple[str, Library, Array, str]:
    """What was saved as a slot: its name, library, array and dtype. Raises TypeError if it is no array of numbers."""
    root, array = f"{saved.root}['slots'][{name!r}][{path!r}]", saved.slots[name][path]
    if traced(array):
        raise TypeError(f"{root} is traced; wanted an array whose values are known")
    return root, *admit(root, array, "an array")


def _counts(root: str, saved: Any) -> dict[str, Any]:
    """Counts by path; in an array those of rows."""
    return {
        path: row_counts(f"{root}[{path!r}]", n) if getattr(n, "shape", ()) else integer(f"{root}[{path!r}]", n)
        for path, n in _mapping(root, saved).items()
    }


def _compare(root: str, saved: Mapping[str, Any], present: Mapping[str, Any], differences: list[str]) -> None:
    """Note the keys and values that differ."""
    _compare_keys(root, saved, present, differences)
    differences += [
        f"{root}[{name!r}] is {saved[name]!r}, not {value!r}"
        for name, value in present.items()
        if name in saved and not _equal(saved[name], value)
    ]


def _equal(a: Any, b: Any) -> bool:
    """Whether two values are equal; an array, whose comparison is no single truth, equals nothing."""
    try:
        return bool(a == b)
    except (ValueError, RuntimeError):
        return False


def _compare_keys(root: str, saved: Any, present: Any, differences: list[str]) -> None:
    if set(saved) != set(present):
        differences.append(f"{root} has {sorted(saved)}, not {sorted(present)}")


def _mapping(root: str, saved: Any) -> Mapping[str, Any]:
    """What was saved. Raises TypeError if it is no dict with strings as keys."""
    if not isinstance(saved, Mapping) or not all(isinstance(key, str) for key in saved):
        keys = f" with the keys {list(saved)}" if isinstance(saved, Mapping) else ""
        raise TypeError(f"{root} is a {type(saved).__qualname__}{keys}; wanted a dict with strings as keys")
    return saved


def _with_keys(root: str, saved: Any, keys: Sequence[str]) -> Mapping[str, Any]:
    """What was saved. Raises TypeError or ValueError if it is no dict with these keys."""
    mapping = _mapping(root, saved)
    if set(mapping) != set(keys):
        raise ValueError(f"{root} has {sorted(mapping)}; wanted {sorted(keys)}")
    return mapping
