"""Checkpoints: parameters, optimizer, dropout and anything else in one safetensors file, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from anyoptim._arrays import _checks as checks
from anyoptim._arrays import library
from anyoptim._arrays._files import opened, regular, replacing
from anyoptim._arrays._processes import by_one
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Tree, listed
from anyoptim._core._optimizer import Optimizer
from anyoptim.checkpoint._tensors import Tensor, stored

__all__ = ["Checkpoint", "load", "save"]

VERSION = 1
"""Of the format: what there is, and under which names."""

_ENTRY, _CHECK = "anyoptim", "sha256"
"""Of the file's metadata: a JSON text of `_FIELDS`, and the checksum of it and of all tensors."""

_FIELDS = ("version", "params", "optimizer", "dropout", "extra")

LARGEST = 100_000_000
"""Bytes of a header: safetensors reads no larger ones."""


class Checkpoint(NamedTuple):
    """What a file holds."""

    params: Any
    """The parameters, in a container like `like`; None if none were saved."""
    optimizer: dict[str, Any] | None
    """For `optimizer.load_state_dict`, with NumPy arrays; None if none was saved."""
    dropout: Any
    """For `load_state_dict` of the layers, in the containers that they were saved in."""
    extra: Any
    """As it was saved, but for tuples, which are lists, and arrays, which are NumPy's."""


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
        params: parameters as `update` takes them, of any library, on any device: the tensors `params/<path>`.
        optimizer: an `Optimizer`, or what its `state_dict` gave: the tensors `optimizer/stages/0/slots/m/<path>`.
        dropout: a layer, which has a `state_dict`, or dicts and lists of such.
        extra: dicts with strings as keys, lists, strings, numbers, bools, None, and arrays, of integers too.

    Raises TypeError or ValueError, with the name, for what can't be saved, ImportError without safetensors (`pip
    install 'anyoptim[checkpoint]'`), OSError if the file can't be written or is no regular one, RuntimeError if another
    thread changes arrays meanwhile: the old one is then as it was.
    """
    _package()  # who saves shall be able to load
    tensors = _Tensors()
    document = {
        "version": VERSION,
        "params": None if params is None else _of_parameters(params, tensors),
        "optimizer": _plain("optimizer", _of_optimizer(optimizer), tensors),
        "dropout": _plain("dropout", _of_layers(dropout), tensors),
        "extra": _plain("extra", extra, tensors),
    }
    with by_one(tensors.shared, f"{path} was not written") as here:
        if here:
            _replace(path, json.dumps(document), tensors)


def _replace(path: str | os.PathLike[str], text: str, tensors: Mapping[str, Tensor]) -> None:
    """Write the file, whole or not at all."""
    digest = _digest(text, tensors)
    target = os.path.realpath(path)
    old = os.stat(target) if os.path.exists(target) else None
    if old is not None:
        regular(path, old)
    with replacing(target) as file:
        _write(file, {_ENTRY: text, _CHECK: digest}, tensors)
        if _digest(text, tensors) != digest:  # some are views of the caller's memory
            raise RuntimeError(f"arrays changed while they were saved to {path}; wanted a save between updates")
        if old is not None:  # not before: what a kill leaves of one that can't be written to would stay
            os.chmod(file.name, stat.S_IMODE(old.st_mode))
    if hasattr(os, "O_DIRECTORY"):  # not on Windows: the new name, too, shall survive a loss of power
        folder = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


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
    """
    found, tensors = _read(path)
    try:
        document = {name: _object(found[name], tensors) for name in _FIELDS}
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


class _Tensors(dict[str, Tensor]):
    """The tensors of a file, and which of the arrays that they were made of other processes have parts of."""

    def __init__(self) -> None:
        super().__init__()
        self.shared: list[Any] = []


def _package() -> Any:
    try:
        import safetensors  # noqa: PLC0415 - of an extra
    except ImportError as error:
        raise ImportError("checkpoints need the package safetensors: pip install 'anyoptim[checkpoint]'") from error
    return safetensors


def _of_parameters(params: Any, tensors: _Tensors) -> dict[str, Any]:
    tree = Tree("params", params)
    found = {}
    for i, (path, leaf) in enumerate(zip(tree.paths, tree.leaves, strict=True)):
        if leaf is not None:
            checks.admit(tree.name(i), leaf)
        found[_escaped(path)] = None if leaf is None else _put(str(tree.name(i)), f"params/{path}", leaf, tensors)
    return found


def _of_optimizer(optimizer: Any) -> Any:
    if isinstance(optimizer, Optimizer):
        return optimizer._written(lambda slot: slot)
    if optimizer is not None and not isinstance(optimizer, Mapping):
        raise TypeError(f"optimizer is a {type(optimizer).__qualname__}; wanted an Optimizer or its state_dict()")
    return optimizer


def _of_layers(of: Any, root: str = "dropout") -> Any:
    if of is None:
        return None
    try:
        if isinstance(of, Mapping):
            return {key: _of_layers(layer, f"{root}[{key!r}]") for key, layer in of.items()}
        if isinstance(of, list | tuple):
            return [_of_layers(layer, f"{root}[{i}]") for i, layer in enumerate(of)]
    except RecursionError:
        raise ValueError("dropout is nested too deeply, or contains itself") from None
    if not hasattr(of, "state_dict"):
        raise TypeError(f"{root} is a {type(of).__qualname__}; wanted a layer with a state_dict, dicts or lists")
    return of.state_dict()


def _plain(root: str, value: Any, tensors: _Tensors) -> Any:
    """As JSON has it, arrays put aside."""
    try:
        return _json(root, root, value, tensors)
    except RecursionError:
        raise ValueError(f"{root} is nested too deeply, or contains itself") from None


def _json(name: str, root: str, value: Any, tensors: _Tensors) -> Any:
    if value is None or type(value) in {bool, int, float, str}:
        if type(value) is str and not _comes_back(value):
            raise ValueError(f"{name} is {value!r}; wanted text without surrogates")
        return value
    if isinstance(value, Mapping):
        odd = [key for key in value if not isinstance(key, str)]
        if odd:
            raise TypeError(f"{name} has the key {odd[0]!r}; wanted strings as keys")
        odd = [key for key in value if not _comes_back(key)]
        if odd:
            raise ValueError(f"{name} has the key {odd[0]!r}; wanted text without surrogates")
        return {_escaped(key): _json(f"{name}[{key!r}]", f"{root}/{key}", of, tensors) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_json(f"{name}[{i}]", f"{root}/{i}", of, tensors) for i, of in enumerate(value)]
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return _json(name, root, value.item(), tensors)
    return _put(name, root, value, tensors)


def _escaped(key: str) -> str:
    """A key of the user's own, which gets one more sign if it looks like one of ours."""
    return f"${key}" if key.startswith("$") else key


def _comes_back(text: str) -> bool:
    """Whether JSON gives back this text, which makes one character of two surrogates."""
    return text.isascii() or json.loads(json.dumps(text)) == text


def _put(name: str, key: str, value: Any, tensors: _Tensors) -> dict[str, Any]:
    """Put an array aside; what stands for it."""
    try:
        key.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{name} has a surrogate in its key; wanted text, which names the tensor in the file"
        ) from None
    while key in tensors:
        key += "'"  # a key of the user's has a slash
    tensors[key], is_complex = stored(name, value)
    if library(value).spans_processes(value):
        tensors.shared.append(value)
    return {"$tensor": key, "$complex": is_complex}


def _object(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What `_json` made JSON of. A tensor can be named once: arrays of it without end would take all memory."""
    if isinstance(value, list):
        return [_object(of, tensors) for of in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors.pop(value["$tensor"]).array(value["$complex"])
    return {key.removeprefix("$"): _object(of, tensors) for key, of in value.items()}


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """The checksum of everything."""
    whole = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(json.dumps([name, tensor.dtype, tensor.shape]).encode())
        whole.update(tensor.content)
    return whole.hexdigest()


def _write(file: BinaryIO, metadata: dict[str, str], tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, down to the disk.

    Not by the package, which writes to a temporary file of its own: what a kill leaves of it could not be told from
    another's that is still being written.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    # The widest first, so that each begins at a multiple of its elements' size.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].data.itemsize)
    begin = 0
    for name, tensor in ordered:
        end = begin + tensor.data.nbytes
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LARGEST:
        raise ValueError(f"all but the arrays takes {len(text)} bytes; wanted {LARGEST} at most, which readers allow")
    file.write(len(text).to_bytes(8, "little") + text)
    for _, tensor in ordered:
        file.write(tensor.content)
    file.flush()
    os.fsync(file.fileno())


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The document and the tensors of a file. Raises ValueError for one that is not as `save` wrote it."""
    safetensors = _package()
    with opened(path) as file:
        size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
        if not 0 < length <= size - 8:
            raise ValueError(f"{path} is no safetensors file, or a part of one: its size is {size}")
        file.seek(0)
        content = file.read(size)
    try:
        parts = safetensors.deserialize(content)
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is no safetensors file, or a part of one: {error}") from error
    # safetensors has checked the header, but does not show what it says of the whole.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header.get("__metadata__") or {}
    if not {_ENTRY, _CHECK} <= set(metadata):
        raise ValueError(f"{path} is a safetensors file, but no checkpoint of anyoptim")
    try:
        tensors = {
            name: Tensor(of["dtype"], tuple(of["shape"]), np.frombuffer(of["data"], np.uint8)) for name, of in parts
        }
        if _digest(metadata[_ENTRY], tensors) != metadata[_CHECK]:
            raise ValueError("its checksum is another: it was damaged, or changed")
        document = json.loads(metadata[_ENTRY])
        if not isinstance(document, dict) or set(document) != {*_FIELDS}:
            raise ValueError(f"its metadata have no {', '.join(_FIELDS)}")
        if document["version"] != VERSION:
            raise ValueError(f"its version is {document['version']!r}; this anyoptim reads {VERSION}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    return document, tensors


def _alike(path: Any, values: Mapping[str, Any], tree: Tree) -> Any:
    """A container like the tree's, with these values. Raises ValueError with all that differs."""
    ps = checks.parameters(tree)
    known = {*tree.paths}
    wrong = [f"{name!r} is in the file only" for name in values if name not in known]
    for i, (name, p) in enumerate(zip(tree.paths, ps, strict=True)):
        shape = None if p is None else tuple(p.array.shape)
        if name not in values:
            wrong.append(f"{tree.name(i)} is not in the file")
        elif (None if values[name] is None else values[name].shape) != shape:
            there = "None" if values[name] is None else f"of shape {values[name].shape}"
            wrong.append(f"{tree.name(i)} is {'None' if shape is None else f'of shape {shape}'}, in the file {there}")
        elif p is not None and p.dtype.startswith("complex") != (values[name].dtype.kind == "c"):
            wrong.append(f"{tree.name(i)} has dtype {p.dtype}, in the file {values[name].dtype}")
    if wrong:
        raise ValueError(f"{path} has other parameters: {listed(wrong)}")
    owners = checks.owners(ps)
    for i, (name, p, owner) in enumerate(zip(tree.paths, ps, owners, strict=True)):
        one = tree.paths[owner]
        if p is not None and owner != i and values[name].tobytes() != values[one].tobytes():
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
