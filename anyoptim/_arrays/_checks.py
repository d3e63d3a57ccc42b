"""What is checked of parameters, gradients and slots before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from anyoptim._arrays import COMPUTE, Array, Library, is_scalar, library
from anyoptim._arrays._memory import MemoryLayout, find_overlap, overlaps_itself
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Name, Tree

__all__ = [
    "Parameter",
    "admit",
    "gradients",
    "owners",
    "parameters",
    "rebindable",
    "separate",
    "slot",
    "together",
]


_WANTED = "an array, a float, or a plain dict, list or tuple of them (dict(...) or list(...) makes one)"


class Parameter(NamedTuple):
    """One leaf of `params` that passed the checks."""

    library: Library
    given: Any
    """The user's own object."""
    array: Array
    """The same elements as an array to compute with."""
    dtype: str
    writable: bool
    memory: MemoryLayout | None
    """Where it lies: None for nothing, and where the library does not tell."""


def admit(name: Name | str, x: Any, wanted: str = _WANTED) -> tuple[Library, Array, str]:
    """Library, array to compute with and dtype of `x`, a real or complex floating array or number.

    Raises TypeError with its name and what was wanted.
    """
    try:
        found = library(x)
    except TypeError:
        raise TypeError(f"{name} is a {type(x).__module__}.{type(x).__qualname__}; wanted {wanted}") from None
    why = found.refusal(x)
    if why is not None:
        raise TypeError(f"{name} {why}")
    array = found.load(x)
    dtype = found.dtype(array)
    if dtype not in COMPUTE:
        raise TypeError(f"{name} has dtype {array.dtype}; wanted one of {', '.join(COMPUTE)}")
    return found, array, dtype


def parameters(tree: Tree) -> list[Parameter | None]:
    """The parameters among the leaves, None where a leaf is None."""
    found: list[Parameter | None] = []
    for i, p in enumerate(tree.leaves):
        if p is None:
            found.append(None)
            continue
        lib, array, dtype = admit(tree.name(i), p)
        why = lib.parameter_refusal(array)
        if why is not None:
            raise TypeError(f"{tree.name(i)} {why}")
        memory = lib.memory(p)
        if memory is not None and 0 in memory.shape:
            memory = None
        found.append(Parameter(lib, p, array, dtype, lib.writable(p), memory))
    return found


def owners(ps: Sequence[Parameter | None]) -> list[int]:
    """For each leaf the first leaf that is the same array: the same object, or all of the same memory in one layout.

    Numbers of the host have no identity: two names for 0.0 are two parameters.
    """
    first: dict[Any, int] = {}
    found = []
    for i, p in enumerate(ps):
        keys: list[Any] = []
        if p is not None and not is_scalar(p.given):
            keys.append(id(p.given))
            if p.memory is not None:
                keys.append((p.memory, p.library.name, p.dtype, p.writable))
        owner = next((first[k] for k in keys if k in first), i)
        found.append(owner)
        for k in keys:
            first.setdefault(k, owner)
    return found


def separate(tree: Tree, ps: Sequence[Parameter | None], owner: Sequence[int]) -> None:
    """Raise ValueError if a parameter overlaps itself, or another that is not the same parameter."""
    indices = []
    memories = []
    for i, p in enumerate(ps):
        if p is None or p.memory is None or owner[i] != i:
            continue
        if p.writable and overlaps_itself(p.memory):
            raise ValueError(
                f"{tree.name(i)} overlaps itself: its strides {p.memory.strides} for shape {p.memory.shape} "
                "put several elements in one place; wanted a copy of its own"
            )
        indices.append(i)
        memories.append(p.memory)
    pair = find_overlap(memories)
    if pair is not None:
        a, b = (tree.name(indices[k]) for k in pair)
        raise ValueError(
            f"{a} and {b} share part of their memory; wanted separate arrays, or one array under both names"
        )


def rebindable(tree: Tree, ps: Sequence[Parameter | None], owner: Sequence[int]) -> None:
    """Raise TypeError if an array can neither be written to nor replaced in its container.

    And ValueError if two parameters have one place, in a container that stands under two names.
    """
    first: dict[Any, int] = {}
    for i, p in enumerate(ps):
        if p is None or p.writable:
            continue
        holder = tree.fixed_by(i)
        if holder is not None:
            raise TypeError(
                f"{tree.name(i)} can't be written to ({p.library.name}, {type(p.given).__name__}) "
                f"and the {holder} that holds it can't be given another array; wanted a dict or list, "
                "or the pure form: params, state = optimizer.step(params, grads, state)"
            )
        other = first.setdefault(tree.location(i), i)
        if owner[other] != owner[i]:
            raise ValueError(
                f"{tree.name(other)} and {tree.name(i)} are one place in one container; wanted two containers"
            )


def gradients(tree: Tree, ps: Sequence[Parameter | None], owner: Sequence[int], grads: Any) -> list[Array | None]:
    """The gradient of each parameter as an array, None for no gradient; a tied parameter's stands at its owner.

    Raises ValueError for keys, shapes and devices, TypeError for types, libraries and dtypes.
    """
    given = tree.match("grads", grads, hint=" (None skips a parameter)")
    found: list[Array | None] = [None] * len(given)
    source: dict[int, int] = {}
    for i, (p, g) in enumerate(zip(ps, given, strict=True)):
        if g is None:
            continue
        if p is None:
            raise ValueError(f"{tree.name(i, 'grads')} is given, but {tree.name(i)} is None")
        array = g if p.library.is_plain_gradient(g, p.array) else _gradient(tree.name(i, "grads"), g, tree.name(i), p)
        o = owner[i]
        if o in source and not _same(given[source[o]], g):
            a, b = source[o], i
            raise ValueError(
                f"{tree.name(a)} and {tree.name(b)} are one array, but {tree.name(a, 'grads')} and "
                f"{tree.name(b, 'grads')} are two gradients; wanted their sum under one name and None under the other, "
                "or two arrays if these are two parameters"
            )
        source.setdefault(o, i)
        found[o] = array
    return found


def _same(a: Any, b: Any) -> bool:
    return a is b or (is_scalar(a) and is_scalar(b) and bool(a == b))


def _gradient(
    name: Name | str, g: Any, p_name: Name | str, p: Parameter, other: tuple[int, ...] | None = None
) -> Array:
    """As an array of the shape of `p`, or of another."""
    lib, x, dtype = admit(name, g)
    if lib is not p.library and not is_scalar(g):
        raise TypeError(f"{name} is a {lib.name} array but {p_name} is a {p.library.name} array; wanted one library")
    if tuple(x.shape) != (tuple(p.array.shape) if other is None else other):
        wanted = "" if other is None else f"; wanted {other}"
        raise ValueError(f"{p_name} has shape {tuple(p.array.shape)} but {name} has shape {tuple(x.shape)}{wanted}")
    if p.dtype.startswith("complex") != dtype.startswith("complex"):
        raise TypeError(f"{p_name} has dtype {p.dtype} but {name} has dtype {dtype}; wanted both real or both complex")
    if lib is not p.library:
        with quiet():
            return p.library.scalar(x.item(), getattr(p.library.xp, COMPUTE[p.dtype]), p.array)
    if not together(p, x):
        raise ValueError(f"{p_name} is on device {p.library.device(p.array)} but {name} is on device {lib.device(x)}")
    return p.library.sharded_like(x, p.array) if other is None else x


def together(p: Parameter, x: Array) -> bool:
    """Whether `x`, of the library of `p`, is on the same device, as far as the library tells."""
    here, there = p.library.device(p.array), p.library.device(x)
    return here is None or there is None or here == there


def slot(name: Name | str, s: Any, p_name: Name | str, p: Parameter, shape: tuple[int, ...]) -> Array:
    """A slot of parameter `p`, as an array. Raises like `gradients`, if it isn't one that `init` could have given."""
    if s is None:
        raise ValueError(f"{name} is None but {p_name} is not; wanted the state that init(params) gives")
    x = _gradient(name, s, p_name, p, None if shape == tuple(p.array.shape) else shape)
    wanted = COMPUTE[p.dtype]
    if p.library.dtype(x) != wanted:
        raise TypeError(f"{name} has dtype {p.library.dtype(x)}; wanted {wanted} for {p_name}")
    return x
