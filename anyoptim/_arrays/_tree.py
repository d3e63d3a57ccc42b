"""Containers taken apart into leaves, matched with one another, and put together again."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from anyoptim._arrays._plain import LEAF_TYPES, OpaqueEntry, PlainSpec, flatten_plain

if TYPE_CHECKING:
    import optree

__all__ = ["MISSING", "Name", "Tree", "dotted_paths", "listed", "reader", "unique_paths"]

Spec: TypeAlias = "PlainSpec | optree.PyTreeSpec"
"""The structure of a container: what is left of it without its leaves."""

_MUTABLE = (dict, OrderedDict, defaultdict, list, deque)
_SHOWN = 5


def _flatten(container: Any) -> tuple[list[Any], Spec]:
    """The leaves, None being one, and the structure.

    Raises RecursionError, with how many levels there may be, for a container that has more, or is within itself.
    """
    plain = flatten_plain(container)
    if plain is None or not LEAF_TYPES.issuperset(map(type, plain[0])):
        # Importing optree takes time, which nobody spends who has nothing but plain containers of known leaves.
        from anyoptim._arrays._optree import all_leaves, flatten_any  # noqa: PLC0415

        if plain is None or not all_leaves(plain[0]):
            return flatten_any(container)
    return plain


MISSING: Any = object()
"""What stands for a leaf that a container has not."""


class Name:
    """The name of a leaf, `params['W1']` or `params[0]['b']`, which is composed only when it is printed."""

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
def _parents(spec: Spec) -> list[tuple[Sequence[Any], Any] | None]:
    """For each leaf the accessor of the container that holds it, and its key there; None for a bare array."""
    return [(tuple(accessor[:-1]), accessor[-1].entry) if len(accessor) else None for accessor in _accessors(spec)]


class Tree:
    """A container as a list of leaves with names: a nest of dicts, lists, tuples and what else optree or JAX knows.

    A bare array is a container of itself. `None` is a leaf: it says that there is nothing at this place.
    """

    def __init__(self, root: str, container: Any) -> None:
        self.root = root
        self.container: Any = container
        self.leaves: list[Any]
        self.spec: Spec
        try:
            self.leaves, self.spec = _flatten(container)
        except RecursionError as error:
            raise ValueError(f"{root} contains itself, or is nested deeper than {error} levels; wanted less") from None

    def name(self, i: int, root: str | None = None) -> Name:
        """Leaf `i` as a user would write it, in this container or, under its name `root`, in another."""
        return Name(self, i, root or self.root)

    def path(self, i: int) -> str:
        """The keys of leaf `i`, joined by dots."""
        return self._dotted[i]

    @cached_property
    def _dotted(self) -> list[str]:
        return dotted_paths(self.spec)

    @cached_property
    def paths(self) -> list[str]:
        """The keys of each leaf, joined by dots. Raises ValueError if two leaves have the same."""
        return unique_paths(self.spec, self.root)

    @cached_property
    def accessors(self) -> Sequence[Sequence[Any]]:
        """For each leaf the entries that lead to it, one below the other."""
        return _accessors(self.spec)

    @cached_property
    def _parents(self) -> list[tuple[Sequence[Any], Any] | None]:
        return _parents(self.spec)

    def build(self, leaves: Iterable[Any]) -> Any:
        """A new container of this structure with these leaves."""
        return self.spec.unflatten(leaves)

    def loose(self) -> Any:
        """A new container with the same leaves under the same keys, each of which can be replaced: of dicts and lists.

        A bare array is one of its own.
        """
        return _loose(list(zip(self.spec.paths(), self.leaves, strict=True)))

    def match(self, root: str, container: Any, hint: str = "") -> list[Any]:
        """The leaves of another container in the order of this one's, matched by key.

        A dict may stand for an OrderedDict and a tuple for a list; a `None` stands for all below it.
        Raises ValueError with every key that is missing or that nothing here asks for, and where one has a container
        of another kind, or an array, or something else than an array.
        """
        if container is None:
            raise ValueError(f"{root} is None{hint}")
        other = Tree(root, container)
        if other.spec == self.spec:
            return other.leaves
        theirs = other.spec.paths()
        leaf_at = dict(zip(theirs, other.leaves, strict=True))
        absent = {path for path, leaf in leaf_at.items() if leaf is None}
        matched, missing, used = [], {}, set()
        for path, accessor in zip(self.spec.paths(), self.accessors, strict=True):
            cover = path if path in leaf_at else next((path[:n] for n in range(len(path)) if path[:n] in absent), None)
            if cover is None:
                missing[path] = accessor
            else:
                used.add(cover)
                matched.append(leaf_at[cover])
        unexpected = {path: a for path, a in zip(theirs, other.accessors, strict=True) if path not in used}
        if missing or unexpected:
            says = []
            for at, clash in self._clashes(other, missing).items():
                says.append(clash)
                missing, unexpected = (
                    {path: a for path, a in of.items() if path[: len(at)] != at} for of in (missing, unexpected)
                )
            if names := [_spelled(a, root) for a in missing.values()]:
                says.append(f"{listed(names)} {'is' if len(names) == 1 else 'are'} missing{hint}")
            if names := [_spelled(a, root) for a in unexpected.values()]:
                says.append(f"{listed(names)} {'has' if len(names) == 1 else 'have'} no match in {self.root}")
            raise ValueError("; ".join(says))
        return matched

    def covered(self, root: str, container: Any) -> list[tuple[Any, Name]]:
        """For each leaf that of another container at its place, or above it, where one stands for all below; its name.

        `MISSING` where there is none. Raises ValueError with every key that nothing here asks for.
        """
        other = Tree(root, container)
        place = {path: j for j, path in enumerate(other.spec.paths())}
        found: list[tuple[Any, Name]] = []
        used = set()
        for i, path in enumerate(self.spec.paths()):
            j = next((place[path[:n]] for n in range(len(path), -1, -1) if path[:n] in place), None)
            used.add(j)
            found.append((MISSING, self.name(i, root)) if j is None else (other.leaves[j], other.name(j)))
        unexpected = [str(other.name(j)) for j in place.values() if j not in used]
        if unexpected:
            has = "has" if len(unexpected) == 1 else "have"
            hint = " (np.asarray(...) makes an array)" if not any(self.accessors) and _of_numbers(container) else ""
            raise ValueError(f"{listed(unexpected)} {has} no match in {self.root}{hint}")
        return found

    def _clashes(self, other: Tree, missing: Mapping[tuple[Any, ...], Sequence[Any]]) -> dict[tuple[Any, ...], str]:
        """For each place at which the other container has one of another kind than this, or one of both none: what."""
        accessor_at = {
            path[:n]: tuple(accessor[:n])
            for path, accessor in zip(other.spec.paths(), other.accessors, strict=True)
            for n in range(len(path) + 1)
        }
        found: dict[tuple[Any, ...], str] = {}
        for path, accessor in missing.items():
            at = next((path[:n] for n in range(len(path), 0, -1) if path[:n] in accessor_at), ())
            ours, theirs = tuple(accessor[: len(at)]), accessor_at.get(at, ())
            if any(isinstance(entry, OpaqueEntry) for entry in (*ours, *theirs)):
                continue
            wanted, given = self._follow(ours), other._follow(theirs)
            if _kind(wanted) != _kind(given):
                numbers = _kind(wanted) is object and _of_numbers(given)
                found[at] = (
                    f"{_spelled(theirs, other.root)} is {_described(given)}, but {_spelled(ours, self.root)} "
                    f"{_described(wanted)}{' (np.asarray(...) makes one)' if numbers else ''}"
                )
        return found

    def order(self, before: Spec) -> list[int]:
        """For each leaf its number among the leaves of an earlier structure. Raises ValueError if keys came or went."""
        if before == self.spec:
            return list(range(len(self.leaves)))
        numbers = {path: i for i, path in enumerate(before.paths())}
        paths = {path: i for i, path in enumerate(self.spec.paths())}
        gained = [_spelled(self.accessors[i], self.root) for path, i in paths.items() if path not in numbers]
        lost = [_spelled(_accessors(before)[i], self.root) for path, i in numbers.items() if path not in paths]
        if gained or lost:
            changes = [f"{listed(names)} {how}" for names, how in ((gained, "came"), (lost, "went")) if names]
            raise ValueError(
                f"{self.root} changed since the first update: {', '.join(changes)}; wanted a new optimizer"
            )
        return [numbers[path] for path in paths]

    def location(self, i: int) -> tuple[int, Any]:
        """The identity of the container that directly holds leaf `i`, and the key of the leaf there."""
        parent = self._parents[i]
        return (0, None) if parent is None else (id(self._follow(parent[0])), parent[1])

    def fixed_by(self, i: int) -> str | None:
        """The type of the container that keeps leaf `i` from being replaced by another, or None."""
        parent = self._parents[i]
        if parent is None:
            return None  # a bare array: the caller takes what is returned
        for entry in self.accessors[i]:
            if isinstance(entry, OpaqueEntry):
                return str(entry.type.__name__)
        container = self._follow(parent[0])
        return None if isinstance(container, _MUTABLE) else type(container).__name__

    def replace(self, i: int, leaf: Any) -> None:
        """Put another leaf in the place of leaf `i`, in the container itself."""
        parent = self._parents[i]
        if parent is None:
            self.container = leaf
        else:
            accessor, key = parent
            self._follow(accessor)[key] = leaf

    def _follow(self, accessor: Sequence[Any]) -> Any:
        """What the entries, one below the other, lead to."""
        node = self.container
        for entry in accessor:
            node = entry(node)
        return node


def _loose(leaves: Sequence[tuple[Sequence[Any], Any]]) -> Any:
    """A container of leaves by their keys, one below the other; lists where these count from 0, and dicts."""
    if leaves and not leaves[0][0]:
        return leaves[0][1]
    below: dict[Any, list[tuple[Sequence[Any], Any]]] = {}
    for (key, *keys), leaf in leaves:
        below.setdefault(key, []).append((keys, leaf))
    children = OrderedDict((key, _loose(of)) for key, of in below.items())
    return [*children.values()] if [*children] == [*range(len(children))] else children


def _kind(node: Any) -> type:
    """What kind of container it is, as far as keys tell: a tuple may stand for a list."""
    return dict if isinstance(node, dict) else list if isinstance(node, list | tuple) else object


def _of_numbers(node: Any) -> bool:
    """Whether it is a list of numbers, or of such lists."""
    return isinstance(node, list | tuple) and all(isinstance(x, int | float) or _of_numbers(x) for x in node)


def _described(node: Any) -> str:
    """What it is, with its article."""
    name = "array" if hasattr(node, "shape") else type(node).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def reader(tree: Tree) -> Callable[[Any], Sequence[Any] | None]:
    """A quick function that gives the leaves of containers of the same structure, and None for other containers."""
    spec = tree.spec
    if isinstance(spec, PlainSpec):
        return spec.reader()

    def read(container: Any) -> Sequence[Any] | None:
        try:
            leaves, structure = _flatten(container)
        except RecursionError:  # of one within itself
            return None
        return leaves if structure == spec else None

    return read


def dotted_paths(spec: Spec) -> list[str]:
    """The keys of each leaf, joined by dots."""
    return [".".join(map(str, keys)) for keys in spec.paths()]


def unique_paths(spec: Spec, root: str = "params") -> list[str]:
    """The keys of each leaf, joined by dots. Raises ValueError if two leaves have the same."""
    first: dict[str, int] = {}
    for i, path in enumerate(dotted_paths(spec)):
        if path in first:
            a, b = (_spelled(_accessors(spec)[k], root) for k in (first[path], i))
            raise ValueError(f"{a} and {b} have the same path, {path!r}; wanted keys without dots")
        first[path] = i
    return list(first)


def listed(names: Sequence[str]) -> str:
    """The first few of these names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
