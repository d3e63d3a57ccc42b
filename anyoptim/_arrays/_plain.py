"""Dicts, lists and tuples taken apart as optree takes them, which is imported where others come, or unknown leaves."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import optree

__all__ = ["LEAVES", "Foreign", "Plain", "Spec", "flattened"]

LEAVES: set[type] = {type(None), bool, int, float, complex, np.ndarray}
"""The types that are known to be no containers."""

LEVELS = 64
"""How deep containers are followed here; optree goes on where Python's own stack would end."""

_KINDS = {dict, list, tuple}

Spec: TypeAlias = "Plain | optree.PyTreeSpec"
"""What is left of a container without its leaves."""

Form: TypeAlias = Any
"""Of a leaf None; of a container its type, its keys in the order of the leaves, and the forms of its children."""


def flattened(container: Any) -> tuple[list[Any], Plain] | None:
    """The leaves, None being one, and the structure; None for what is deeper, or has keys without an order."""
    leaves: list[Any] = []
    orders: list[tuple[Any, ...]] = []
    try:
        form = _form(container, leaves, orders, LEVELS)
    except (RecursionError, TypeError):
        return None
    return leaves, Plain(form, orders)


def _form(x: Any, leaves: list[Any], orders: list[tuple[Any, ...]], levels: int) -> Form:
    kind = type(x)
    keys: Sequence[Any]
    if kind is dict:
        keys = tuple(sorted(x))
        orders.append(tuple(x))
        children = [x[key] for key in keys]
    elif kind is list or kind is tuple:
        keys, children = range(len(x)), x
    else:
        leaves.append(x)
        return None
    if not levels:
        raise RecursionError
    if _KINDS.isdisjoint(map(type, children)):  # all at once, as most are
        leaves += children
        return kind, keys, (None,) * len(children)
    return kind, keys, tuple([_form(child, leaves, orders, levels - 1) for child in children])


class Plain:
    """The structure of a container of these alone, with what optree's `PyTreeSpec` has that is asked of it here."""

    __slots__ = ("_form", "_orders")

    def __init__(self, form: Form, orders: Sequence[tuple[Any, ...]]) -> None:
        self._form = form
        self._orders = orders
        """The keys of each dict as they stood in it: for those who build another, and no part of the structure."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and bool(self._form == other._form)

    def __hash__(self) -> int:
        return hash(self._form)

    def is_leaf(self) -> bool:
        """Whether it is that of no container."""
        return self._form is None

    def paths(self) -> list[tuple[Any, ...]]:
        """For each leaf the keys that lead to it."""
        return _paths(self._form)

    def accessors(self) -> list[tuple[Item, ...]]:
        """The same as steps that can be taken."""
        return [tuple(map(Item, path)) for path in self.paths()]

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        """A container of this structure with these leaves."""
        return _built(self._form, iter(leaves), iter(self._orders))

    def reader(self) -> Callable[[Any], Sequence[Any] | None]:
        """What takes the leaves out of containers of this structure, and is quick; it gives None for others.

        What stands in the place of a leaf is not looked at.
        """
        return _reader(self._form)


def _paths(form: Form) -> list[tuple[Any, ...]]:
    if form is None:
        return [()]
    _, keys, children = form
    return [(key, *rest) for key, child in zip(keys, children, strict=True) for rest in _paths(child)]


def _built(form: Form, leaves: Iterator[Any], orders: Iterator[tuple[Any, ...]]) -> Any:
    if form is None:
        return next(leaves)
    kind, keys, children = form
    if kind is not dict:
        return kind([_built(child, leaves, orders) for child in children])
    found = dict.fromkeys(next(orders))
    for key, child in zip(keys, children, strict=True):
        found[key] = _built(child, leaves, orders)
    return found


def _reader(form: Form) -> Callable[[Any], Sequence[Any] | None]:
    if form is None:
        return lambda leaf: (leaf,)
    kind, keys, children = form
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
        found = flat(container)
        if found is None:
            return None
        leaves: list[Any] = []
        for read, child in zip(readers, found, strict=True):
            own = (child,) if read is None else read(child)
            if own is None:
                return None
            leaves += own
        return leaves

    return nested


class Item:
    """The way from a container to one of its children."""

    __slots__ = ("entry",)

    def __init__(self, entry: Any) -> None:
        self.entry = entry

    def __call__(self, container: Any) -> Any:
        return container[self.entry]

    def codify(self, node: str) -> str:
        """How a user would write it, after how the container is written."""
        return f"{node}[{self.entry!r}]"


class Foreign:
    """Such a way where the container may give but copies of its children: one that JAX alone knows."""

    __slots__ = ()

    type: type[Any]
    """That of the container."""
