"""Containers taken apart: Python's own, and those that JAX alone knows, such as the modules of Flax and Equinox.

Their classes are registered with JAX, which is asked where it is loaded, and with optree when one is first met.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import optree

__all__ = ["Foreign", "flattened"]

_SPACE = "anyoptim"
"""Where optree keeps what is registered here: nobody else sees it."""

_LEAVES: set[type] = {type(None), int, float, complex}
"""The types that are known to be no containers."""


def flattened(container: Any) -> tuple[list[Any], optree.PyTreeSpec]:
    """The leaves, None being one, and the structure. Raises RecursionError for a container within itself."""
    leaves, spec = optree.tree_flatten(container, none_is_leaf=True, namespace=_SPACE)
    while "jax" in sys.modules and not _LEAVES.issuperset(map(type, leaves)) and _registered(leaves):
        leaves, spec = optree.tree_flatten(container, none_is_leaf=True, namespace=_SPACE)
    return leaves, spec


class Foreign(optree.PyTreeEntry):
    """The way from a container that JAX alone knows to one of its children."""

    __slots__ = ()

    def __call__(self, obj: Any) -> Any:
        children, _, entries = _apart(obj)
        return children[entries.index(self.entry)]

    def codify(self, node: str = "") -> str:
        return f"{node}[{self.entry!r}]"


class _Attribute(Foreign):
    __slots__ = ()

    def codify(self, node: str = "") -> str:
        return f"{node}.{self.entry}"


class _Form:
    """What JAX keeps of a container beside its children."""

    def __init__(self, structure: Any) -> None:
        self.structure = structure

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Form) and bool(self.structure == other.structure)

    def __hash__(self) -> int:
        try:
            return hash(self.structure)
        except TypeError:  # of what its class keeps
            return hash(_Form)

    def __deepcopy__(self, memo: Any) -> _Form:
        return self


def _registered(leaves: list[Any]) -> bool:
    """Register the types of these that JAX knows as containers, if there are any."""
    tree = sys.modules["jax"].tree_util
    found = False
    for kind, leaf in {type(leaf): leaf for leaf in leaves if type(leaf) not in _LEAVES}.items():
        if not tree.all_leaves([leaf]):
            attributes = any(isinstance(path[0], tree.GetAttrKey) for path, _ in _pairs(leaf)[0])
            entry = _Attribute if attributes else Foreign
            with suppress(ValueError):  # another thread was first
                optree.register_pytree_node(kind, _apart, _together, path_entry_type=entry, namespace=_SPACE)
            found = True
        elif hasattr(kind, "__array__") or hasattr(kind, "__dlpack__"):
            _LEAVES.add(kind)  # another class may still be registered
    return found


def _pairs(x: Any) -> Any:
    return sys.modules["jax"].tree_util.tree_flatten_with_path(x, is_leaf=lambda y: y is not x)


def _apart(x: Any) -> tuple[list[Any], _Form, list[Any]]:
    pairs, structure = _pairs(x)
    return [child for _, child in pairs], _Form(structure), [_entry(path[0]) for path, _ in pairs]


def _together(form: Any, children: Any) -> Any:
    return form.structure.unflatten(children)


def _entry(key: Any) -> Any:
    """The name or number in one of JAX's keys."""
    return next(getattr(key, of) for of in ("name", "key", "idx") if hasattr(key, of))
