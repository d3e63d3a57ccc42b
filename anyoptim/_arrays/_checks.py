"""Checks of parameters, gradients and slots, before anything is written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from anyoptim._arrays import COMPUTE, Array, Library, is_scalar, library, slot_dtype
from anyoptim._arrays._memory import MemoryLayout, find_overlap, overlaps_itself
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Name, Tree

__all__ = [
    "Parameter",
    "admit",
    "gradients",
    "no_overlap",
    "on_one_device",
    "owners",
    "parameters",
    "rebindable",
    "slot",
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
    """The layout in memory; None for an array without elements, and where the library does not tell."""


def admit(
    name: Name | str, x: Any, wanted: str = _WANTED, dtypes: Collection[str] = COMPUTE.keys()
) -> tuple[Library, Array, str]:
    """The library of `x`, a real or complex floating array or number, the array to compute with, and its dtype.

    Raises TypeError with its name and what was wanted.
    """
    try:
        lib = library(x)
    except TypeError:
        what = f"{name} is a {type(x).__module__}.{type(x).__qualname__}"
        if hasattr(x, "named_parameters"):  # a module of torch, which holds them
            raise TypeError(f"{what}; wanted its parameters: dict(module.named_parameters())") from None
        raise TypeError(f"{what}; wanted {wanted}") from None
    why = lib.refusal(x)
    if why is not None:
        raise TypeError(f"{name} {why}")
    array = lib.load(x)
    dtype = lib.dtype(array)
    if dtype not in dtypes:
        raise TypeError(f"{name} has dtype {array.dtype}; wanted one of {', '.join(dtypes)}")
    return lib, array, dtype


def parameters(tree: Tree, dtypes: Collection[str] = COMPUTE.keys()) -> list[Parameter | None]:
    """The leaves as parameters, None where a leaf is None. Raises TypeError for a leaf that can't be a parameter.

    `dtypes` are those to take: a checkpoint has more than an update.
    """
    ps: list[Parameter | None] = []
    for i, p in enumerate(tree.leaves):
        if p is None:
            ps.append(None)
            continue
        lib, array, dtype = admit(tree.name(i), p, dtypes=dtypes)
        why = lib.parameter_refusal(array)
        if why is not None:
            raise TypeError(f"{tree.name(i)} {why}")
        memory = lib.memory(p)
        if memory is not None and 0 in memory.shape:
            memory = None
        ps.append(Parameter(lib, p, array, dtype, lib.writable(p), memory))
    return ps


def owners(ps: Sequence[Parameter | None]) -> list[int]:
    """For each leaf the number of the first leaf that is the same array, an object or all of one memory layout.

    Numbers of the host have no identity: two names for 0.0 are two parameters.
    """
    first: dict[Any, int] = {}
    owner_of_leaf = []
    for i, p in enumerate(ps):
        keys: list[Any] = []
        if p is not None and not is_scalar(p.given):
            keys.append(id(p.given))
            if p.memory is not None:
                keys.append((p.memory, p.library.name, p.dtype, p.writable))
        owner = next((first[k] for k in keys if k in first), i)
        owner_of_leaf.append(owner)
        for k in keys:
            first.setdefault(k, owner)
    return owner_of_leaf


def no_overlap(tree: Tree, ps: Sequence[Parameter | None], owner: Sequence[int]) -> None:
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

    Raise ValueError if two parameters have one place, in a container that stands under two names.
    """
    first: dict[Any, int] = {}
    for i, p in enumerate(ps):
        if p is None or p.writable:
            continue
        container = tree.fixed_by(i)
        if container is not None:
            raise TypeError(
                f"{tree.name(i)} can't be written to ({p.library.name}, {type(p.given).__name__}) "
                f"and the {container} that holds it can't be given another array; wanted a dict or list, "
                "or the pure form: params, state = optimizer.step(params, grads, state)"
            )
        other = first.setdefault(tree.location(i), i)
        if owner[other] != owner[i]:
            raise ValueError(
                f"{tree.name(other)} and {tree.name(i)} are one place in one container; wanted two containers"
            )


def gradients(
    tree: Tree, ps: Sequence[Parameter | None], owner: Sequence[int], grads: Any, root: str = "grads"
) -> list[Array | None]:
    """The gradient of each parameter as an array, None for no gradient; that of a tied parameter at its owner.

    Raises ValueError for keys, shapes and devices, TypeError for types, libraries and dtypes, with `root` as the name
    of the gradients.
    """
    leaves = tree.match(root, grads, hint=" (None skips a parameter)" if root == "grads" else "")
    xs: list[Array | None] = [None] * len(leaves)
    source: dict[int, int] = {}
    for i, (p, g) in enumerate(zip(ps, leaves, strict=True)):
        if g is None:
            continue
        if p is None:
            raise ValueError(f"{tree.name(i, root)} is given, but {tree.name(i)} is None")
        array = g if p.library.is_plain_gradient(g, p.array) else _gradient(tree.name(i, root), g, tree.name(i), p)
        o = owner[i]
        if o in source and not _same(leaves[source[o]], g):
            a, b = source[o], i
            raise ValueError(
                f"{tree.name(a)} and {tree.name(b)} are one array, but {tree.name(a, root)} and "
                f"{tree.name(b, root)} are two gradients; wanted their sum under one name and None under the other, "
                "or two arrays if these are two parameters"
            )
        source.setdefault(o, i)
        xs[o] = array
    return xs


def _same(a: Any, b: Any) -> bool:
    return a is b or (is_scalar(a) and is_scalar(b) and bool(a == b))


def _gradient(
    name: Name | str, g: Any, p_name: Name | str, p: Parameter, shape: tuple[int, ...] | None = None, real: bool = False
) -> Array:
    """A gradient as an array that can be combined with `p`, of its shape or, for a slot, of another; or a real slot."""
    lib, x, dtype = admit(name, g)
    if lib is not p.library and not is_scalar(g):
        raise TypeError(f"{name} is a {lib.name} array but {p_name} is a {p.library.name} array; wanted one library")
    if tuple(x.shape) != (tuple(p.array.shape) if shape is None else shape):
        wanted = "" if shape is None else f"; wanted {shape}"
        raise ValueError(f"{p_name} has shape {tuple(p.array.shape)} but {name} has shape {tuple(x.shape)}{wanted}")
    if real and dtype.startswith("complex"):
        raise TypeError(f"{name} has dtype {dtype}; wanted {slot_dtype(p.dtype, real)} for {p_name}")
    if not real and p.dtype.startswith("complex") != dtype.startswith("complex"):
        raise TypeError(f"{p_name} has dtype {p.dtype} but {name} has dtype {dtype}; wanted both real or both complex")
    if lib is not p.library:
        with quiet():
            return p.library.scalar(x.item(), getattr(p.library.xp, slot_dtype(p.dtype, real)), p.array)
    if not on_one_device(p, x):
        raise ValueError(f"{p_name} is on device {p.library.device(p.array)} but {name} is on device {lib.device(x)}")
    return p.library.sharded_like(x, p.array) if shape is None else x


def on_one_device(p: Parameter, x: Array) -> bool:
    """Whether `x`, an array of the same library, is on the device of `p`, as far as the library tells."""
    ours, theirs = p.library.device(p.array), p.library.device(x)
    return ours is None or theirs is None or ours == theirs


def slot(
    name: Name | str, s: Any, p_name: Name | str, p: Parameter, shape: tuple[int, ...], real: bool = False
) -> Array:
    """A slot of `p` as an array. Raises what `gradients` raises, unless it is one that `init` could have given."""
    if s is None:
        raise ValueError(f"{name} is None but {p_name} is not; wanted the state that init(params) gives")
    x = _gradient(name, s, p_name, p, None if shape == tuple(p.array.shape) else shape, real)
    wanted = slot_dtype(p.dtype, real)
    if p.library.dtype(x) != wanted:
        raise TypeError(f"{name} has dtype {p.library.dtype(x)}; wanted {wanted} for {p_name}")
    return x
