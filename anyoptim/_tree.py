"""Containers taken apart into leaves, matched with one another, and put together again."""

from __future__ import annotations

import operator
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import optree

from anyoptim._arrays._trees import Foreign, flattened

__all__ = ["Form", "Name", "Tree", "listed", "paths"]

_MUTABLE = (dict, OrderedDict, defaultdict, list, deque)
_SHOWN = 5


class Name:
    """The name of a leaf, `params['W1']` or `params[0]['b']`, spelled out only when it is printed."""

    def __init__(self, tree: Tree, i: int, root: str) -> None:
        self._tree, self._i, self._root = tree, i, root

    def __str__(self) -> str:
        return str(self._tree.accessors[self._i].codify(self._root))


@lru_cache(maxsize=64)
def _accessors(spec: optree.PyTreeSpec) -> list[optree.PyTreeAccessor]:
    return spec.accessors()


@lru_cache(maxsize=64)
def _holders(spec: optree.PyTreeSpec) -> list[tuple[Sequence[Any], Any] | None]:
    """The way to the container of each leaf, and where in it the leaf is; None for a bare array."""
    return [(tuple(accessor[:-1]), accessor[-1].entry) if len(accessor) else None for accessor in _accessors(spec)]


class Tree:
    """A container (dict, list, tuple, nested, or a bare array; what JAX knows), as a list of leaves with names.

    `None` is a leaf: it says that there is nothing at this place.
    """

    def __init__(self, root: str, container: Any) -> None:
        self.root = root
        self.container = container
        self.leaves: list[Any]
        try:
            self.leaves, self.spec = flattened(container)
        except RecursionError:
            raise ValueError(
                f"{root} contains itself, or is nested deeper than {optree.MAX_RECURSION_DEPTH} levels; wanted less"
            ) from None

    def name(self, i: int, root: str | None = None) -> Name:
        """How a user would write leaf `i`, here or at the same place of another container."""
        return Name(self, i, root or self.root)

    def path(self, i: int) -> str:
        """The keys of leaf `i`, joined by dots."""
        return ".".join(map(str, self.accessors[i].path))

    @cached_property
    def paths(self) -> list[str]:
        """Those of all leaves. Raises ValueError if two leaves have the same."""
        return paths(self.spec, self.root)

    @cached_property
    def accessors(self) -> list[optree.PyTreeAccessor]:
        """How each leaf is reached."""
        return _accessors(self.spec)

    @cached_property
    def _places(self) -> list[tuple[Sequence[Any], Any] | None]:
        return _holders(self.spec)

    def build(self, leaves: Iterable[Any]) -> Any:
        """A new container of this structure with these leaves."""
        return optree.tree_unflatten(self.spec, leaves)

    def match(self, root: str, container: Any, hint: str = "") -> list[Any]:
        """The leaves of another container in the order of this one's, matched by key.

        A dict may stand for an OrderedDict and a tuple for a list; a `None` stands for all below it.
        Raises ValueError with every key that is missing or that nothing here asks for.
        """
        if container is None:
            raise ValueError(f"{root} is None{hint}")
        other = Tree(root, container)
        if other.spec == self.spec:
            return other.leaves
        found = dict(zip(other.spec.paths(), other.leaves, strict=True))
        absent = {path for path, leaf in found.items() if leaf is None}
        matched, missing, used = [], [], set()
        for path, accessor in zip(self.spec.paths(), self.accessors, strict=True):
            cover = path if path in found else next((path[:n] for n in range(len(path)) if path[:n] in absent), None)
            if cover is None:
                missing.append(accessor.codify(root))
            else:
                used.add(cover)
                matched.append(found[cover])
        unexpected = [a.codify(root) for a in other.accessors if a.path not in used]
        if missing or unexpected:
            says = []
            if missing:
                says.append(f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} missing{hint}")
            if unexpected:
                says.append(f"{listed(unexpected)} {'has' if len(unexpected) == 1 else 'have'} no match in {self.root}")
            raise ValueError("; ".join(says))
        return matched

    def order(self, before: optree.PyTreeSpec) -> list[int]:
        """For each leaf its place among the leaves of an earlier structure. Raises ValueError if keys came or went."""
        if before == self.spec:
            return list(range(len(self.leaves)))
        places = {path: i for i, path in enumerate(before.paths())}
        paths = self.spec.paths()
        gained = [a.codify(self.root) for a in self.accessors if a.path not in places]
        lost = [a.codify(self.root) for a in _accessors(before) if a.path not in set(paths)]
        if gained or lost:
            changes = [f"{listed(names)} {how}" for names, how in ((gained, "came"), (lost, "went")) if names]
            raise ValueError(
                f"{self.root} changed since the first update: {', '.join(changes)}; wanted a new optimizer"
            )
        return [places[path] for path in paths]

    def place(self, i: int) -> tuple[int, Any]:
        """The container that holds leaf `i`, by identity, and where in it."""
        accessor = self.accessors[i]
        return (id(accessor[:-1](self.container)), accessor[-1].entry) if len(accessor) else (0, None)

    def fixed(self, i: int) -> str | None:
        """The type of the container that keeps leaf `i` from being replaced by another, or None."""
        accessor = self.accessors[i]
        if not len(accessor):
            return None  # a bare array: the caller takes what is returned
        for entry in accessor:
            if isinstance(entry, Foreign):
                return str(entry.type.__name__)  # what is below it may be a copy of what it holds
        parent = accessor[:-1](self.container)
        return None if isinstance(parent, _MUTABLE) else type(parent).__name__

    def replace(self, i: int, leaf: Any) -> None:
        """Put another leaf in place `i` of the container itself."""
        holder = self._places[i]
        if holder is None:
            self.container = leaf
        else:
            way, entry = holder
            parent = self.container
            for into in way:
                parent = into(parent)
            parent[entry] = leaf


class Form:
    """How to take the leaves quickly out of containers that look like one met before."""

    def __init__(self, tree: Tree) -> None:
        self._spec = tree.spec
        self._type = type(tree.container)
        self._n = len(tree.leaves)
        keys = [path[0] for path in tree.spec.paths() if len(path) == 1]
        self._get: Callable[[Any], Sequence[Any]] | None = None
        if keys and len(keys) == self._n and self._type in {dict, list, tuple}:
            # In the order of the leaves, whatever the order of a dict.
            (key, *others) = keys
            self._get = operator.itemgetter(*keys) if others else lambda container: (container[key],)

    def leaves(self, container: Any) -> Sequence[Any] | None:
        """What stands where the leaves were; None where the container is another."""
        if self._get is not None and type(container) is self._type and len(container) == self._n:
            try:
                return self._get(container)
            except LookupError:
                return None
        try:
            leaves, spec = flattened(container)
        except RecursionError:  # of one within itself
            return None
        return leaves if spec == self._spec else None


def paths(spec: optree.PyTreeSpec, root: str = "params") -> list[str]:
    """The keys of each leaf, joined by dots. Raises ValueError if two leaves have the same."""
    first: dict[str, int] = {}
    for i, keys in enumerate(spec.paths()):
        path = ".".join(map(str, keys))
        if path in first:
            a, b = (_accessors(spec)[k].codify(root) for k in (first[path], i))
            raise ValueError(f"{a} and {b} have the same path, {path!r}; wanted keys without dots")
        first[path] = i
    return list(first)


def listed(names: Sequence[str]) -> str:
    """The first few of these, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
