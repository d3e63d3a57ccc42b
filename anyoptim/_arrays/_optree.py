"""Containers that are not plain: those that optree knows, and those that are registered with JAX alone.

The latter, such as the modules of Flax and Equinox, are registered with optree when JAX, where it is loaded, says of
the first of a type that it is a container.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import optree

from anyoptim._arrays._plain import LEAF_TYPES, OpaqueEntry

__all__ = ["all_leaves", "flatten_any"]

_NAMESPACE = "anyoptim"
"""The namespace of optree for what is registered here, which no other package sees."""


def flatten_any(container: Any) -> tuple[list[Any], optree.PyTreeSpec]:
    """The leaves, None being one, and the structure of any container.

    Raises RecursionError, with the number of levels that there may be, for one that has more.
    """
    while True:
        try:
            leaves, spec = optree.tree_flatten(container, none_is_leaf=True, namespace=_NAMESPACE)
        except RecursionError:
            raise RecursionError(optree.MAX_RECURSION_DEPTH) from None
        if all_leaves(leaves):
            return leaves, spec


def all_leaves(leaves: list[Any]) -> bool:
    """Whether none of these is a container. One that JAX alone knows is registered with optree."""
    others = {type(leaf): leaf for leaf in leaves if type(leaf) not in LEAF_TYPES}
    if not optree.all_leaves(others.values(), none_is_leaf=True, namespace=_NAMESPACE):
        return False
    tree_util = sys.modules["jax"].tree_util if "jax" in sys.modules else None
    none_is_container = True
    for kind, leaf in others.items():
        if tree_util is not None and not tree_util.all_leaves([leaf]):
            _register(kind, leaf)
            none_is_container = False
        elif hasattr(kind, "__array__") or hasattr(kind, "__dlpack__"):
            LEAF_TYPES.add(kind)  # a class that is no array may still be registered
    return none_is_container


def _register(kind: type, x: Any) -> None:
    """Tell optree how JAX takes containers of the type of `x` apart."""
    attributes = any(isinstance(path[0], sys.modules["jax"].tree_util.GetAttrKey) for path, _ in _jax_flatten(x)[0])
    with suppress(ValueError):  # another thread was first
        optree.register_pytree_node(
            kind, _flatten, _unflatten, path_entry_type=_Attribute if attributes else _Key, namespace=_NAMESPACE
        )


class _Key(OpaqueEntry, optree.PyTreeEntry):
    """The step from a container that JAX alone knows to one of its children."""

    __slots__ = ()

    def __call__(self, obj: Any) -> Any:
        children, _, entries = _flatten(obj)
        return children[entries.index(self.entry)]

    def codify(self, node: str = "") -> str:
        return f"{node}[{self.entry!r}]"


class _Attribute(_Key):
    """Such a step to a child that is an attribute of the container."""

    __slots__ = ()

    def codify(self, node: str = "") -> str:
        return f"{node}.{self.entry}"


class _Metadata:
    """The structure that JAX gives for a container, which optree keeps beside the children."""

    def __init__(self, treedef: Any) -> None:
        self.treedef = treedef

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Metadata) and bool(self.treedef == other.treedef)

    def __hash__(self) -> int:
        try:
            return hash(self.treedef)
        except TypeError:  # the container's class keeps something beside its children that has no hash
            return hash(_Metadata)

    def __deepcopy__(self, memo: Any) -> _Metadata:
        return self


def _jax_flatten(x: Any) -> Any:
    """The children of a container, each with its path of one key, and the container's structure."""
    return sys.modules["jax"].tree_util.tree_flatten_with_path(x, is_leaf=lambda y: y is not x)


def _flatten(x: Any) -> tuple[list[Any], _Metadata, list[Any]]:
    pairs, treedef = _jax_flatten(x)
    return [child for _, child in pairs], _Metadata(treedef), [_entry(path[0]) for path, _ in pairs]


def _unflatten(metadata: Any, children: Any) -> Any:
    return metadata.treedef.unflatten(children)


def _entry(key: Any) -> Any:
    """The name or number that one of JAX's keys holds."""
    return next(getattr(key, kind) for kind in ("name", "key", "idx") if hasattr(key, kind))
