"""Optax's masks and dtypes, in terms of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyoptim._arrays._tree import Tree

__all__ = ["Mask", "accumulator", "masked"]


@dataclass(frozen=True)
class Mask:
    """Which parameters are meant: by paths, each of which may stand for all below it."""

    name: str
    of: dict[str, bool]

    def __call__(self, path: str, p: Any) -> bool:
        """Whether the mask means this parameter. Raises ValueError for a path that the mask says nothing of."""
        keys = path.split(".") if path else []
        for n in range(len(keys), -1, -1):
            found = self.of.get(".".join(keys[:n]))
            if found is not None:
                return found
        raise ValueError(f"{self.name} says nothing of {path!r}; wanted a tree of bools like params")


def masked(name: str, mask: Any) -> Callable[[str, Any], bool] | None:
    """A mask as `where(path, p)`; None for all. Raises TypeError for what is no tree of bools."""
    tree = Tree(name, mask)
    if any(callable(leaf) for leaf in tree.leaves):
        raise TypeError(
            f"{name} is a function of all parameters, which no stage here sees at once; wanted the tree of bools "
            f"that it gives: {name}={name}(params)"
        )
    if mask is None or mask is True:
        return None
    for i, leaf in enumerate(tree.leaves):
        if not isinstance(leaf, bool | np.bool_):
            raise TypeError(f"{tree.name(i)} is {leaf!r}; wanted True or False")
    return Mask(name, {tree.path(i): bool(leaf) for i, leaf in enumerate(tree.leaves)})


def accumulator(name: str, dtype: Any) -> None:
    """Raise ValueError for a dtype of slots that has less precision than float32.

    Other dtypes are met: slots have the dtype of the arithmetic, float32 or float64.
    """
    try:
        given = "float32" if dtype is None else np.dtype(dtype).name
    except TypeError:
        given = str(dtype)
    if given not in {"float32", "float64"}:
        raise ValueError(f"{name} is {given}; wanted None, float32 or float64: what is kept has at least float32 here")
