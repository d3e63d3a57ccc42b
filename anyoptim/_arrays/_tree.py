"""Containers taken apart into leaves, matched with one another, and put together again."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any

from anyoptim._arrays import _plain
from anyoptim._arrays._plain import LEAVES, Foreign, Plain, Spec

__all__ = ["Name", "Tree", "listed", "paths", "reader"]

_MUTABLE = (dict, OrderedDict, defaultdict, list, deque)
_SHOWN = 5


def _flattened(container: Any) -> tuple[list[Any], Spec]:
    """The leaves, None being one, and the structure.

    Raises RecursionError, with how many levels there may be, for a container that has more, or is within itself.
    """
    found = _plain.flattened(container)
    if found is None or not LEAVES.issuperset(map(type, found[0])):
        from anyoptim._arrays import _optree  # noqa: PLC0415 - for those who have others: importing optree takes time

        if found is None or not _optree.all_leaves(found[0]):
            return _optree.flattened(container)
    return found


class Name:
    """The name of a leaf, `params['W1']` or `params[0]['b']`, spelled out only when it is printed."""

    def __init__(self, tree: Tree, i: int, root: str) -> None:
        self._tree, self._i, self._root = tree, i, root

    def __str__(self) -> str:
        return _spelled(self._tree.accessors[self._i], self._root)


def _spelled(accessor: Sequence[Any], root: str) -> str:
    for entry in accessor:
        root = entry.codify(root)
    return root


@lru_cache(maxsize=64)
def _accessors(spec: Spec) -> Sequence[Sequence[Any]]:
    return spec.accessors()


@lru_cache(maxsize=64)
def _holders(spec: Spec) -> list[tuple[Sequence[Any], Any] | None]:
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
            self.leaves, self.spec = _flattened(container)
        except RecursionError as error:
            raise ValueError(f"{root} contains itself, or is nested deeper than {error} levels; wanted less") from None

    def name(self, i: int, root: str | None = None) -> Name:
        """How a user would write leaf `i`, here or at the same place of another container."""
        return Name(self, i, root or self.root)

    def path(self, i: int) -> str:
        """The keys of leaf `i`, joined by dots."""
        return ".".join(str(entry.entry) for entry in self.accessors[i])

    @cached_property
    def paths(self) -> list[str]:
        """Those of all leaves. Raises ValueError if two leaves have the same."""
        return paths(self.spec, self.root)

    @cached_property
    def accessors(self) -> Sequence[Sequence[Any]]:
        """How each leaf is reached, step by step: each gives the child of a container, has its key and spells it."""
        return _accessors(self.spec)

    @cached_property
    def _places(self) -> list[tuple[Sequence[Any], Any] | None]:
        return _holders(self.spec)

    def build(self, leaves: Iterable[Any]) -> Any:
        """A new container of this structure with these leaves."""
        return self.spec.unflatten(leaves)

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
        theirs = other.spec.paths()
        found = dict(zip(theirs, other.leaves, strict=True))
        absent = {path for path, leaf in found.items() if leaf is None}
        matched, missing, used = [], [], set()
        for path, accessor in zip(self.spec.paths(), self.accessors, strict=True):
            cover = path if path in found else next((path[:n] for n in range(len(path)) if path[:n] in absent), None)
            if cover is None:
                missing.append(_spelled(accessor, root))
            else:
                used.add(cover)
                matched.append(found[cover])
        unexpected = [_spelled(a, root) for path, a in zip(theirs, other.accessors, strict=True) if path not in used]
        if missing or unexpected:
            says = []
            if missing:
                says.append(f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} missing{hint}")
            if unexpected:
                says.append(f"{listed(unexpected)} {'has' if len(unexpected) == 1 else 'have'} no match in {self.root}")
            raise ValueError("; ".join(says))
        return matched

    def order(self, before: Spec) -> list[int]:
        """For each leaf its place among the leaves of an earlier structure. Raises ValueError if keys came or went."""
        if before == self.spec:
            return list(range(len(self.leaves)))
        places = {path: i for i, path in enumerate(before.paths())}
        paths = {path: i for i, path in enumerate(self.spec.paths())}
        gained = [_spelled(self.accessors[i], self.root) for path, i in paths.items() if path not in places]
        lost = [_spelled(_accessors(before)[i], self.root) for path, i in places.items() if path not in paths]
        if gained or lost:
            changes = [f"{listed(names)} {how}" for names, how in ((gained, "came"), (lost, "went")) if names]
            raise ValueError(
                f"{self.root} changed since the first update: {', '.join(changes)}; wanted a new optimizer"
            )
        return [places[path] for path in paths]

    def place(self, i: int) -> tuple[int, Any]:
        """The container that holds leaf `i`, by identity, and where in it."""
        holder = self._places[i]
        return (0, None) if holder is None else (id(self._at(holder[0])), holder[1])

    def fixed(self, i: int) -> str | None:
        """The type of the container that keeps leaf `i` from being replaced by another, or None."""
        holder = self._places[i]
        if holder is None:
            return None  # a bare array: the caller takes what is returned
        for entry in self.accessors[i]:
            if isinstance(entry, Foreign):
                return str(entry.type.__name__)  # what is below it may be a copy of what it holds
        parent = self._at(holder[0])
        return None if isinstance(parent, _MUTABLE) else type(parent).__name__

    def replace(self, i: int, leaf: Any) -> None:
        """Put another leaf in place `i` of the container itself."""
        holder = self._places[i]
        if holder is None:
            self.container = leaf
        else:
            way, entry = holder
            self._at(way)[entry] = leaf

    def _at(self, way: Sequence[Any]) -> Any:
        found = self.container
        for into in way:
            found = into(found)
        return found


def reader(tree: Tree) -> Callable[[Any], Sequence[Any] | None]:
    """What takes the leaves quickly out of containers that look like one met before, and gives None for others."""
    spec = tree.spec
    if isinstance(spec, Plain):
        return spec.reader()

    def leaves(container: Any) -> Sequence[Any] | None:
        try:
            found, form = _flattened(container)
        except RecursionError:  # of one within itself
            return None
        return found if form == spec else None

    return leaves


def paths(spec: Spec, root: str = "params") -> list[str]:
    """The keys of each leaf, joined by dots. Raises ValueError if two leaves have the same."""
    first: dict[str, int] = {}
    for i, keys in enumerate(spec.paths()):
        path = ".".join(map(str, keys))
        if path in first:
            a, b = (_spelled(_accessors(spec)[k], root) for k in (first[path], i))
            raise ValueError(f"{a} and {b} have the same path, {path!r}; wanted keys without dots")
        first[path] = i
    return list(first)


def listed(names: Sequence[str]) -> str:
    """The first few of these, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
