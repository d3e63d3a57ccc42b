"""Containers of all other kinds: those that optree knows, and those that JAX alone knows.

The latter, such as the modules of Flax and Equinox, are registered with JAX, which is asked where it is loaded, and
with optree when one is first met.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import optree

from anyoptim._arrays._plain import LEAVES, Foreign

__all__ = ["all_leaves", "flattened"]

_SPACE = "anyoptim"
"""Where optree keeps what is registered here: nobody else sees it."""


def flattened(container: Any) -> tuple[list[Any], optree.PyTreeSpec]:
    """The leaves, None being one, and the structure. Raises RecursionError, with how many levels there may be."""
    while True:
        try:
            leaves, spec = optree.tree_flatten(container, none_is_leaf=True, namespace=_SPACE)
        except RecursionError:
            raise RecursionError(optree.MAX_RECURSION_DEPTH) from None
        if all_leaves(leaves):
            return leaves, spec


def all_leaves(leaves: list[Any]) -> bool:
    """Whether none of these is a container, to JAX either; what it alone knows will be one to optree from now on."""
    others = {type(leaf): leaf for leaf in leaves if type(leaf) not in LEAVES}
    if not optree.all_leaves(others.values(), none_is_leaf=True, namespace=_SPACE):
        return False
    tree = sys.modules["jax"].tree_util if "jax" in sys.modules else None
    found = True
    for kind, leaf in others.items():
        if tree is not None and not tree.all_leaves([leaf]):
            _register(kind, leaf)
            found = False
        elif hasattr(kind, "__array__") or hasattr(kind, "__dlpack__"):
            LEAVES.add(kind)  # another class may still be registered
    return found


def _register(kind: type, x: Any) -> None:
    """Tell optree how JAX takes containers of this type apart."""
    attributes = any(isinstance(path[0], sys.modules["jax"].tree_util.GetAttrKey) for path, _ in _pairs(x)[0])
    with suppress(ValueError):  # another thread was first
        optree.register_pytree_node(
            kind, _apart, _together, path_entry_type=_Attribute if attributes else _Key, namespace=_SPACE
        )


class _Key(Foreign, optree.PyTreeEntry):
    """The way from a container that JAX alone knows to one of its children."""

    __slots__ = ()

    def __call__(self, obj: Any) -> Any:
        children, _, entries = _apart(obj)
        return children[entries.index(self.entry)]

    def codify(self, node: str = "") -> str:
        return f"{node}[{self.entry!r}]"


class _Attribute(_Key):
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
