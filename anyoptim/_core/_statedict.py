"""A state as plain dicts, by the paths of parameters, to be saved: the format and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from anyoptim._arrays import Array
from anyoptim._arrays._selection import Selection
from anyoptim._arrays._tree import Tree
from anyoptim._stage._elements import by_element, is_array
from anyoptim._stage._groups import groups
from anyoptim._stage._param_groups import GroupSpec
from anyoptim._stage._stage import Stage
from anyoptim._stage._state import FlatState, SlotNames
from anyoptim._trace._scalars import integer

__all__ = ["VERSION", "by_name", "constants", "stateful", "written"]

VERSION = 1
"""The version of the format."""


def written(
    stages: Sequence[Stage],
    spec: GroupSpec,
    paths: Sequence[str],
    names: SlotNames,
    flat: FlatState,
    kept: Callable[[Array], Array],
) -> dict[str, Any]:
    """The state, the hyperparameters and the constants, with what `kept` makes of each slot."""
    slots: list[dict[str, dict[str, Array]]] = [{name: {} for name in stage.slots} for stage in stages]
    for path, keys, arrays in zip(paths, names, flat.slots, strict=True):
        for (k, name), slot in zip(keys, arrays or (), strict=arrays is not None):
            slots[k][name][path] = kept(slot)
    by_stage = zip(stages, constants(stages, spec), flat.scalars, slots, strict=True)
    return {
        "version": VERSION,
        "step": integer("state.step", flat.step),
        "t": _by_path("state.t", paths, flat.t),
        "stages": [
            {
                "name": type(stage).__name__,
                "constants": fixed,
                "hyperparameters": {name: _plain(name, getattr(stage, name), kept) for name in stage.hyperparameters},
                "scalars": {name: float(value) for name, value in scalars.items()},
                "slots": own_slots,
            }
            for stage, fixed, scalars, own_slots in by_stage
        ],
        "groups": {
            name: None if group is None else {key: _plain(key, value, kept) for key, value in group.items()}
            for name, group in by_name(spec.groups).items()
        },
        **({"pending": _by_path("state.pending", paths, flat.pending)} if flat.pending else {}),
    }


def _by_path(root: str, paths: Sequence[str], counts: Sequence[Any]) -> dict[str, Any]:
    """Counts by path: as integers, those of rows as an array."""
    both = zip(paths, counts, strict=True)
    return {path: n.copy() if isinstance(n, np.ndarray) else integer(root, n) for path, n in both if n is not None}


def constants(stages: Sequence[Stage], spec: GroupSpec) -> list[dict[str, Any]]:
    """What can't be changed of each stage and, in a partition, which parameters the stage is for."""
    names = dict(zip(spec.partition or (), by_name(spec.partition), strict=True))
    both = zip([stage._saved_constants for stage in stages], spec.selectors, strict=True)
    return [of if selector is None else {**of, "for": names[selector]} for of, selector in both]


def by_name(selectors: groups | Selection | None) -> dict[str, Any]:
    """Groups by their patterns. A function has no lasting name and goes by its place."""
    patterns = {selector for selector in selectors or () if isinstance(selector, str)}
    named: dict[str, Any] = {}
    for n, selector in enumerate(selectors or ()):
        name = selector if isinstance(selector, str) else "..." if selector is ... else f"<function {n}>"
        while selector not in patterns and name in patterns:
            name += "'"  # a pattern reads like this one's name
        named[name] = selectors[selector] if isinstance(selectors, groups) else None
    return named


def _plain(name: str, value: Any, kept: Callable[[Array], Array]) -> Any:
    """A hyperparameter as a number; a schedule as its text, with the states of the schedules in it that have one.

    What is given element by element goes by its own paths, with what `kept` makes of each array.
    """
    if by_element(value):
        tree = Tree(name, value)
        leaves = [leaf if leaf is None else kept(leaf) if is_array(leaf) else float(leaf) for leaf in tree.leaves]
        return {"elements": dict(zip(tree.paths, leaves, strict=True))}
    if callable(value):
        return {"schedule": repr(value), "states": [dict(schedule.state) for schedule in stateful(value)]}
    return value if isinstance(value, int) else float(value)


def stateful(schedule: Any, seen: tuple[Any, ...] = ()) -> Iterator[Any]:
    """A schedule and those that it is made of, as far as they have a state, such as what a `Plateau` was told."""
    if any(schedule is one for one in seen):
        return
    if "state" in getattr(type(schedule), "arguments", ()):
        yield schedule
    for value in getattr(schedule, "__dict__", {}).values():
        for one in value if isinstance(value, tuple | list) else [value]:
            if callable(one):
                yield from stateful(one, (*seen, schedule))
