"""Hyperparameters that are given element by element: as arrays, or as containers of arrays and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from anyoptim._arrays import COMPUTE, library, traced
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import MISSING, Tree
from anyoptim._trace._hyperparameters import Domain

__all__ = ["Named", "by_element", "check_elements", "check_order", "is_array", "real_array", "spelled"]

_REAL = frozenset({"bool", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)), *COMPUTE}) - {
    "complex64",
    "complex128",
}
"""The dtypes of arrays that may be given where a number is taken."""


def is_array(value: Any) -> bool:
    """Whether this is an array that counts as one: those of no dimension are numbers."""
    return getattr(value, "ndim", 0) > 0


def by_element(value: Any) -> bool:
    """Whether a hyperparameter is given as an array or in a container, and is no number or schedule."""
    if isinstance(value, int | float | str | np.generic | Real) or callable(value):
        return False
    if hasattr(value, "ndim"):
        return is_array(value)
    if isinstance(value, Mapping | list | tuple):
        return True
    leaves = Tree("value", value).leaves
    return not (len(leaves) == 1 and leaves[0] is value)


def check_elements(name: str, domain: Domain, value: Any) -> None:
    """Raise TypeError or ValueError for what can't stand for each element, or is known to be out of the domain.

    Of an array the least and the largest element are asked, where their values are known.
    """
    tree = Tree(name, value)
    for i, leaf in enumerate(tree.leaves):
        label = str(tree.name(i))
        if callable(leaf):
            raise TypeError(
                f"{label} is {leaf!r}; wanted a number or an array: a schedule stands for all parameters, or in "
                "ao.groups for some"
            )
        if is_array(leaf):
            _check_array(label, domain, leaf)
        elif leaf is not None:
            domain.value(label, leaf)


def real_array(name: Any, x: Any) -> tuple[Any, Any]:
    """The library of an array of real numbers, integers or bools, and the array to compute with. Raises TypeError."""
    try:
        own = library(x)
    except TypeError:
        raise TypeError(f"{name} is a {type(x).__module__}.{type(x).__qualname__}; wanted an array") from None
    why = own.refusal(x)
    if why is not None:
        raise TypeError(f"{name} {why}")
    array = own.load(x)
    if own.dtype(array) not in _REAL:
        raise TypeError(f"{name} has dtype {array.dtype}; wanted real numbers, integers or bools")
    return own, array


def _check_array(name: str, domain: Domain, x: Any) -> None:
    own, array = real_array(name, x)
    if own.lazy or own.distributed or traced(array) or 0 in array.shape:
        return
    with quiet(), own.on_device_of(array):
        wide = own.xp.astype(array, own.xp.float64 if own.dtype(array) == "float64" else own.xp.float32)
        ends = -own.max(-wide), own.max(wide)
        if traced(ends[0]):  # under `jax.jit` everything that is done to an array is, even to one that is known
            values = own.to_host(array)
            ends = values.min(), values.max()
    for number in map(float, ends):
        if not domain.holds(number):
            raise ValueError(f"{name} has {number:.9g} among its elements; wanted {domain.wanted}")


def check_order(low: str, lo: Any, high: str, hi: Any) -> None:
    """Raise ValueError where elements of `lo` are known to be above those of `hi`, both arrays or containers."""
    if callable(lo) or callable(hi) or not (by_element(lo) or by_element(hi)):
        return
    lows, highs = Tree(low, lo), Tree(high, hi)
    finer, other = (lows, hi) if len(lows.leaves) >= len(highs.leaves) else (highs, lo)
    try:
        both = finer.covered(low if other is lo else high, other)
    except ValueError:  # they are for other parameters, and one of them is wrong, which these will say
        return
    for i, (b, label) in enumerate(both):
        a, names = finer.leaves[i], (str(finer.name(i)), str(label))
        values = [_known(x) for x in (a, b)]
        least, most = values if finer is lows else values[::-1]
        if least is not None and most is not None and np.any(_broadcast(least, most)):
            names = names if finer is lows else names[::-1]
            raise ValueError(f"{names[0]} is above {names[1]} for some elements; wanted it at most that")


def _known(x: Any) -> Any:
    """The values of a number or an array on the host, where they are known there."""
    if not is_array(x):
        return None if x is None or x is MISSING or traced(x) else float(x)
    own, array = real_array("an array", x)
    return None if own.lazy or own.distributed or traced(array) else own.to_host(array)


def _broadcast(least: Any, most: Any) -> Any:
    """Whether elements are above others, where both have one shape or one is a number."""
    shapes = {a.shape for a in (least, most) if isinstance(a, np.ndarray)}
    return least > most if len(shapes) == 1 else False


def spelled(value: Any) -> str:
    """A hyperparameter in the text of its stage, where arrays are named and not printed."""
    if not by_element(value):
        return repr(value)
    tree = Tree("value", value)
    return repr(tree.build(map(Named, tree.leaves)))


class Named:
    """A leaf in a text, in which arrays are not printed."""

    def __init__(self, leaf: Any) -> None:
        self._leaf = leaf

    def __repr__(self) -> str:
        x = self._leaf
        return f"<{library(x).dtype(x)} array of shape {tuple(x.shape)}>" if is_array(x) else repr(x)
