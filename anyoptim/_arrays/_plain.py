"""Dicts, lists and tuples taken apart as optree takes them apart, which takes long to import."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

__all__ = ["LEAF_TYPES", "OpaqueEntry", "PlainSpec", "flatten_plain"]

LEAF_TYPES: set[type] = {type(None), bool, int, float, complex, np.ndarray}
"""The types that are known to be no containers."""

LEVELS = 64
"""How deep containers are followed here; optree goes on where Python's own stack would end."""

_CONTAINERS = {dict, list, tuple}

Structure: TypeAlias = Any
"""None for a leaf; for a container its type, its keys in the order of the leaves, and the children's structures."""


def flatten_plain(container: Any) -> tuple[list[Any], PlainSpec] | None:
    """The leaves, None being one, and the structure; None for what is deeper, or has keys without an order."""
    leaves: list[Any] = []
    key_orders: list[tuple[Any, ...]] = []
    try:
        structure = _flatten(container, leaves, key_orders, LEVELS)
    except (RecursionError, TypeError):
        return None
    return leaves, PlainSpec(structure, key_orders)


def _flatten(x: Any, leaves: list[Any], key_orders: list[tuple[Any, ...]], levels: int) -> Structure:
    """The structure of `x`, whose leaves and orders of keys are appended to the lists."""
    kind = type(x)
    keys: Sequence[Any]
    if kind is dict:
        keys = tuple(sorted(x))
        key_orders.append(tuple(x))
        children = [x[key] for key in keys]
    elif kind is list or kind is tuple:
        keys, children = range(len(x)), x
    else:
        leaves.append(x)
        return None
    if not levels:
        raise RecursionError
    if _CONTAINERS.isdisjoint(map(type, children)):  # all at once, as most children are leaves
        leaves += children
        return kind, keys, (None,) * len(children)
    return kind, keys, tuple([_flatten(child, leaves, key_orders, levels - 1) for child in children])


class PlainSpec:
    """The structure of plain containers, with those methods of optree's `PyTreeSpec` that are used here."""

    __slots__ = ("_key_orders", "_structure")

    def __init__(self, structure: Structure, key_orders: Sequence[tuple[Any, ...]]) -> None:
        self._structure = structure
        self._key_orders = key_orders
        """The keys of each dict in the order of the dict, for `unflatten`. Structures are equal whatever these are."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlainSpec) and bool(self._structure == other._structure)

    def __hash__(self) -> int:
        return hash(self._structure)

    def is_leaf(self) -> bool:
        """Whether this is the structure of a leaf alone, in no container."""
        return self._structure is None

    def paths(self) -> list[tuple[Any, ...]]:
        """For each leaf the keys that lead to it."""
        return _paths(self._structure)

    def accessors(self) -> list[tuple[PlainEntry, ...]]:
        """For each leaf the entries that lead to it, one below the other."""
        return [tuple(map(PlainEntry, path)) for path in self.paths()]

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        """A container of this structure with these leaves."""
        return _unflatten(self._structure, iter(leaves), iter(self._key_orders))

    def reader(self) -> Callable[[Any], Sequence[Any] | None]:
        """A quick function that gives the leaves of containers of this structure, and None for other containers.

        It does not look at what stands in the place of a leaf, which may be a container, too.
        """
        return _reader(self._structure)


def _paths(structure: Structure) -> list[tuple[Any, ...]]:
    if structure is None:
        return [()]
    _, keys, children = structure
    return [(key, *rest) for key, child in zip(keys, children, strict=True) for rest in _paths(child)]


def _unflatten(structure: Structure, leaves: Iterator[Any], key_orders: Iterator[tuple[Any, ...]]) -> Any:
    if structure is None:
        return next(leaves)
    kind, keys, children = structure
    if kind is not dict:
        return kind([_unflatten(child, leaves, key_orders) for child in children])
    container = dict.fromkeys(next(key_orders))
    for key, child in zip(keys, children, strict=True):
        container[key] = _unflatten(child, leaves, key_orders)
    return container


def _reader(structure: Structure) -> Callable[[Any], Sequence[Any] | None]:
    if structure is None:
        return lambda leaf: (leaf,)
    kind, keys, children = structure
    n = len(keys)
    get = operator.itemgetter(*keys) if n > 1 else lambda container: tuple([container[key] for key in keys])

    def flat(container: Any) -> Sequence[Any] | None:
        if type(container) is kind and len(container) == n:
            try:
                return get(container)  # in the order of the leaves, whatever that of a dict
            except LookupError:
                pass
        return None

    if not any(children):
        return flat
    readers = [child and _reader(child) for child in children]

    def nested(container: Any) -> Sequence[Any] | None:
        values = flat(container)
        if values is None:
            return None
        leaves: list[Any] = []
        for read, value in zip(readers, values, strict=True):
            below = (value,) if read is None else read(value)
            if below is None:
                return None
            leaves += below
        return leaves

    return nested


class PlainEntry:
    """The step from a container to the child with one key, with the interface of optree's `PyTreeEntry`."""

    __slots__ = ("entry",)

    def __init__(self, entry: Any) -> None:
        self.entry = entry

    def __call__(self, container: Any) -> Any:
        return container[self.entry]

    def codify(self, node: str) -> str:
        """The child as a user would write it, where the container is written `node`."""
        return f"{node}[{self.entry!r}]"


class OpaqueEntry:
    """The mark of entries whose containers may hand out copies of their children, so that none can be replaced."""

    __slots__ = ()

    type: type[Any]
    """The type of the container."""
