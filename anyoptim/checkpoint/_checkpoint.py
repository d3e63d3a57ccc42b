"""Checkpoints: parameters, optimizer, dropout and anything else in one safetensors file, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import COMPUTE
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._processes import by_one
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Tree, listed
from anyoptim._core._optimizer import Optimizer
from anyoptim.checkpoint._document import Tensors, escaped, parsed, plain, put
from anyoptim.checkpoint._file import FIELDS, VERSION, package, read, write
from anyoptim.checkpoint._tensors import DTYPES
from anyoptim.solvers._solver import Solver

__all__ = ["Checkpoint", "load", "save"]

_SAVABLE = tuple(dict.fromkeys([*COMPUTE, *DTYPES.values()]))
"""The dtypes of parameters, and of what a module's `state_dict` has beside them: the number of batches seen, say."""


class Checkpoint(NamedTuple):
    """The content of a file.

    >>> layer = ao.Dropout(seed=3)
    >>> ao.save("run.safetensors", dropout=layer)
    >>> found = ao.load("run.safetensors")
    >>> found.params, found.dropout["key"]
    (None, 3)
    """

    params: Any
    """The parameters, in a container like `like`; None if none were saved."""
    optimizer: dict[str, Any] | None
    """For `optimizer.load_state_dict`, with NumPy arrays; None if none was saved."""
    dropout: Any
    """For `load_state_dict` of the layers, in the containers that they were saved in."""
    extra: Any
    """The value that was saved, but tuples are lists, and arrays are NumPy's."""


def save(
    path: str | os.PathLike[str], *, params: Any = None, optimizer: Any = None, dropout: Any = None, extra: Any = None
) -> None:
    """Write a checkpoint: one safetensors file, which any reader of that format can read.

    ::

        ao.save("run.safetensors", params=params, optimizer=optimizer, dropout=layer, extra={"epoch": 3})

        checkpoint = ao.load("run.safetensors", like=params)
        optimizer.load_state_dict(checkpoint.optimizer, checkpoint.params)
        layer.load_state_dict(checkpoint.dropout)

    The file is written beside an old one, synced, and then takes its place, so that there is the old one or the new one
    whatever happens meanwhile. A checksum of all that it holds goes with it. What a killed process left behind, as
    `.anyoptim-*.tmp`, is removed by the next save to that folder (from that machine; on Windows it stays).

    Where several processes share an array (a JAX mesh over them, torch's DTensors), each of them calls this with the
    same arguments. All get the whole arrays together, in their own memory; the first of the processes writes the file,
    and the others return when it has. Each of them can load it, where it sees it.

    Args:
        path: of the file; `.safetensors` is the usual suffix.
        params: parameters as `update` takes them, of any library, on any device: the tensors `params/<path>`. Arrays of
            integers and bools may stand among them, so that this may be the `state_dict()` of a torch module.
        optimizer: an `Optimizer` or a solver, or what its `state_dict` gave: tensors such as
            `optimizer/stages/0/slots/m/<path>`.
        dropout: a layer, which has a `state_dict`, or dicts and lists of such.
        extra: dicts with strings as keys, lists, strings, numbers, bools, None, and arrays, of integers too.

    Raises TypeError or ValueError, with the name, for what can't be saved, ImportError without safetensors (`pip
    install safetensors`), OSError if the file can't be written or is no regular one, RuntimeError if another thread
    changes arrays meanwhile: the old one is then as it was.

    >>> ao.save("run.safetensors", params={"W": np.ones(2)}, extra={"epoch": 3})
    >>> ao.load("run.safetensors").extra
    {'epoch': 3}
    """
    package()  # needed by `load` alone, but whoever saves shall be able to load
    tensors = Tensors()
    document = {
        "version": VERSION,
        "params": None if params is None else _parameters(params, tensors),
        "optimizer": plain("optimizer", _optimizer_state(optimizer), tensors),
        "dropout": plain("dropout", _layer_states("dropout", dropout), tensors),
        "extra": plain("extra", extra, tensors),
    }
    with by_one(tensors.shared, f"{path} was not written") as here:
        if here:
            write(path, json.dumps(document), tensors)


def load(path: str | os.PathLike[str], like: Any = None) -> Checkpoint:
    """Read what `save` wrote.

    Args:
        path: of the file.
        like: parameters whose container, libraries, devices and dtypes the loaded ones have, and which are left as they
            are; None for a dict of NumPy arrays by path, where bfloat16 becomes float32. Of torch tensors come plain
            ones: `model.load_state_dict(checkpoint.params)` puts them into a module.

    Raises ValueError for a file that is no such checkpoint, whole and as it was written, or with all paths and shapes
    in which the parameters differ from `like`; ImportError without safetensors; OSError if it can't be read, or is no
    regular file but a pipe or a device. No more memory is asked for than some times the size of the file, and nothing
    in it is run.

    >>> params = {"W": np.ones(2)}
    >>> ao.save("run.safetensors", params=params)
    >>> ao.load("run.safetensors", like=params).params
    {'W': array([1., 1.])}
    """
    stored_document, tensors = read(path)
    try:
        document = {name: parsed(stored_document[name], tensors) for name in FIELDS}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no checkpoint of anyoptim: {error!r}") from error
    values, params = document["params"], None
    if values is not None:
        if not isinstance(values, dict) or not all(v is None or isinstance(v, np.ndarray) for v in values.values()):
            raise ValueError(f"{path} is no checkpoint of anyoptim: its parameters are no arrays")
        params = values if like is None else _alike(path, values, Tree("like", like))
    elif like is not None:
        raise ValueError(f"{path} has no parameters; wanted like=None")
    return Checkpoint(params, document["optimizer"], document["dropout"], document["extra"])


def _parameters(params: Any, tensors: Tensors) -> dict[str, Any]:
    """The parameters by path, as they stand in the JSON text."""
    tree = Tree("params", params)
    by_path = {}
    for i, (path, leaf) in enumerate(zip(tree.paths, tree.leaves, strict=True)):
        if leaf is not None:
            checks.admit(tree.name(i), leaf, dtypes=_SAVABLE)
        by_path[escaped(path)] = None if leaf is None else put(str(tree.name(i)), f"params/{path}", leaf, tensors)
    return by_path


def _optimizer_state(optimizer: Any) -> Any:
    """The state of an optimizer, or one as it is. Raises TypeError for anything else."""
    if isinstance(optimizer, Optimizer):
        return optimizer._written(lambda slot: slot)
    if isinstance(optimizer, Solver):
        return optimizer.state_dict()
    if optimizer is not None and not isinstance(optimizer, Mapping):
        raise TypeError(
            f"optimizer is a {type(optimizer).__qualname__}; wanted an Optimizer, a solver or its state_dict()"
        )
    return optimizer


def _layer_states(name: str, layers: Any) -> Any:
    """The states of layers, in their containers. Raises TypeError or ValueError with the name."""
    if layers is None:
        return None
    try:
        if isinstance(layers, Mapping):
            return {key: _layer_states(f"{name}[{key!r}]", layer) for key, layer in layers.items()}
        if isinstance(layers, list | tuple):
            return [_layer_states(f"{name}[{i}]", layer) for i, layer in enumerate(layers)]
    except RecursionError:
        raise ValueError("dropout is nested too deeply, or contains itself") from None
    if not hasattr(layers, "state_dict"):
        raise TypeError(f"{name} is a {type(layers).__qualname__}; wanted a layer with a state_dict, dicts or lists")
    return layers.state_dict()


def _converts(saved: str, wanted: str) -> bool:
    """Whether values of one dtype may become those of another: real to real, complex to complex, or the same."""
    kinds = [dtype.startswith("complex") if dtype in COMPUTE else dtype for dtype in (saved, wanted)]
    return kinds[0] == kinds[1]


def _alike(path: Any, values: Mapping[str, Any], tree: Tree) -> Any:
    """A container like the tree's, with these values. Raises ValueError with all that differs."""
    ps = checks.parameters(tree, _SAVABLE)
    known = {*tree.paths}
    wrong = [f"{name!r} is in the file only" for name in values if name not in known]
    for i, (name, p) in enumerate(zip(tree.paths, ps, strict=True)):
        shape = None if p is None else tuple(p.array.shape)
        if name not in values:
            wrong.append(f"{tree.name(i)} is not in the file")
        elif (None if values[name] is None else values[name].shape) != shape:
            wanted, saved = (
                "None" if s is None else f"of shape {s}" for s in (shape, getattr(values[name], "shape", None))
            )
            wrong.append(f"{tree.name(i)} is {wanted}, in the file {saved}")
        elif p is not None and not _converts(values[name].dtype.name, p.dtype):
            wrong.append(f"{tree.name(i)} has dtype {p.dtype}, in the file {values[name].dtype}")
    if wrong:
        raise ValueError(f"{path} has other parameters: {listed(wrong)}")
    owners = checks.owners(ps)
    for i, (name, p, owner) in enumerate(zip(tree.paths, ps, owners, strict=True)):
        first = tree.paths[owner]
        if p is not None and owner != i and values[name].tobytes() != values[first].tobytes():
            raise ValueError(f"{tree.name(owner)} and {tree.name(i)} are one array, in the file two")
    leaves: list[Any] = []
    for name, p, owner in zip(tree.paths, ps, owners, strict=True):
        if p is None or owner < len(leaves):
            leaves.append(None if p is None else leaves[owner])
            continue
        with quiet():
            new = p.library.sharded_like(p.library.from_host(values[name], p.array), p.array)
        leaves.append(p.library.rebound(p.given, new))
    return tree.build(leaves)
