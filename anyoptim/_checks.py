"""What is checked of parameters, gradients and slots before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from anyoptim._arrays import COMPUTE, Array, Library, dtype_name, is_scalar, library
from anyoptim._memory import overlaps_itself, shared
from anyoptim._tree import Name, Tree

__all__ = [
    "Parameter",
    "array_library",
    "gradients",
    "owners",
    "parameters",
    "rebindable",
    "separate",
    "slot",
    "together",
]


class Parameter(NamedTuple):
    """One leaf of `params` that passed the checks."""

    library: Library
    given: Any
    """The user's own object."""
    array: Array
    """The same elements as an array to compute with."""
    writable: bool


def array_library(name: Name | str, x: Any) -> Library:
    """The library of a real or complex floating array. Raises TypeError with its name and what was wanted."""
    try:
        found = library(x)
    except TypeError:
        raise TypeError(
            f"{name} is a {type(x).__module__}.{type(x).__qualname__}; wanted an array, a float, "
            "or a dict, list or tuple of them"
        ) from None
    why = found.refusal(x)
    if why is not None:
        raise TypeError(f"{name} {why}")
    dtype = found.load(x).dtype
    if dtype_name(dtype) not in COMPUTE:
        raise TypeError(f"{name} has dtype {dtype}; wanted one of {', '.join(COMPUTE)}")
    return found


def parameters(tree: Tree) -> list[Parameter | None]:
    """The parameters among the leaves, None where a leaf is None."""
    found: list[Parameter | None] = []
    for i, p in enumerate(tree.leaves):
        if p is None:
            found.append(None)
            continue
        lib = array_library(tree.name(i), p)
        found.append(Parameter(lib, p, lib.load(p), lib.writable(p)))
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
            memory = p.library.memory(p.given)
            if memory is not None and 0 not in memory.shape:
                keys.append((memory, str(p.array.dtype), p.writable))
        owner = next((first[k] for k in keys if k in first), i)
        found.append(owner)
        for k in keys:
            first.setdefault(k, owner)
    return found


def separate(tree: Tree, ps: Sequence[Parameter | None], owner: Sequence[int]) -> None:
    """Raise ValueError if an array overlaps itself, or another one that is not the same parameter."""
    places = []
    memories = []
    for i, p in enumerate(ps):
        if p is None or owner[i] != i:
            continue
        memory = p.library.memory(p.given)
        if memory is None or not (p.writable or memory.space == "cpu"):
            continue
        if p.writable and 0 not in memory.shape and overlaps_itself(memory):
            raise ValueError(
                f"{tree.name(i)} overlaps itself: its strides {memory.strides} for shape {memory.shape} "
                "put several elements in one place; wanted a copy of its own"
            )
        places.append(i)
        memories.append(memory)
    pair = shared(memories)
    if pair is not None:
        a, b = (tree.name(places[k]) for k in pair)
        raise ValueError(
            f"{a} and {b} share part of their memory; wanted separate arrays, or one array under both names"
        )


def rebindable(tree: Tree, ps: Sequence[Parameter | None]) -> None:
    """Raise TypeError if an array can neither be written to nor replaced in its container."""
    for i, p in enumerate(ps):
        if p is None or p.writable:
            continue
        holder = tree.fixed(i)
        if holder is not None:
            raise TypeError(
                f"{tree.name(i)} can't be written to ({p.library.name}, {type(p.given).__name__}) "
                f"and the {holder} that holds it can't be given another array; wanted a dict or list, "
                "or the pure form: params, state = optimizer.step(params, grads, state)"
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
        array = _gradient(tree.name(i, "grads"), g, tree.name(i), p)
        o = owner[i]
        if o in source and given[source[o]] is not g:
            a, b = source[o], i
            raise ValueError(
                f"{tree.name(a)} and {tree.name(b)} are one array, but {tree.name(a, 'grads')} and "
                f"{tree.name(b, 'grads')} are two gradients; wanted their sum under one name and None under the other, "
                "or two arrays if these are two parameters"
            )
        source.setdefault(o, i)
        found[o] = array
    return found


def _gradient(name: Name | str, g: Any, p_name: Name | str, p: Parameter) -> Array:
    lib = array_library(name, g)
    if lib is not p.library and not is_scalar(g):
        raise TypeError(f"{name} is a {lib.name} array but {p_name} is a {p.library.name} array; wanted one library")
    x = lib.load(g)
    if tuple(x.shape) != tuple(p.array.shape):
        raise ValueError(f"{p_name} has shape {tuple(p.array.shape)} but {name} has shape {tuple(x.shape)}")
    ours, theirs = dtype_name(p.array.dtype), dtype_name(x.dtype)
    if ours.startswith("complex") != theirs.startswith("complex"):
        raise TypeError(f"{p_name} has dtype {ours} but {name} has dtype {theirs}; wanted both real or both complex")
    if lib is not p.library:
        return p.library.scalar(x.item(), p.array.dtype, p.array)
    if not together(p, x):
        raise ValueError(f"{p_name} is on device {p.library.device(p.array)} but {name} is on device {lib.device(x)}")
    return x


def together(p: Parameter, x: Array) -> bool:
    """Whether `x`, of the library of `p`, is on the same device, as far as the library tells."""
    here, there = p.library.device(p.array), p.library.device(x)
    return here is None or there is None or here == there


def slot(name: Name | str, s: Any, p_name: Name | str, p: Parameter) -> Array:
    """A slot of parameter `p`, as an array. Raises like `gradients`, if it isn't one that `init` could have given."""
    if s is None:
        raise ValueError(f"{name} is None but {p_name} is not; wanted the state that init(params) gives")
    x = _gradient(name, s, p_name, p)
    wanted = COMPUTE[dtype_name(p.array.dtype)]
    if dtype_name(x.dtype) != wanted:
        raise TypeError(f"{name} has dtype {dtype_name(x.dtype)}; wanted {wanted} for {p_name}")
    return x
