"""The file of a checkpoint: a safetensors file with a JSON text and a checksum, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from anyoptim._arrays._files import opened, regular, replacing
from anyoptim.checkpoint._tensors import Tensor

__all__ = ["FIELDS", "VERSION", "digest", "package", "read", "write"]

VERSION = 1
"""The version of the format, which changes with what a file has, and under which names."""

_ENTRY, _CHECK = "anyoptim", "sha256"
"""Keys of the file's metadata: of a JSON text of `FIELDS`, and of the checksum of that text and all tensors."""

FIELDS = ("version", "params", "optimizer", "dropout", "extra")

LARGEST = 100_000_000
"""The most bytes that a header may have: safetensors reads no larger one."""


def package() -> Any:
    """The package safetensors. Raises ImportError, with how to install it."""
    try:
        import safetensors  # noqa: PLC0415 - it comes with an extra
    except ImportError as error:
        raise ImportError("checkpoints need the package safetensors: pip install safetensors") from error
    return safetensors


def write(path: str | os.PathLike[str], text: str, tensors: Mapping[str, Tensor]) -> None:
    """Write the file, whole or not at all."""
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{path} can't be written: there is no folder {folder}")
    checksum = digest(text, tensors)
    old = os.stat(target) if os.path.exists(target) else None
    if old is not None:
        regular(path, old)
    with replacing(target) as file:
        _write(file, {_ENTRY: text, _CHECK: checksum}, tensors)
        if digest(text, tensors) != checksum:  # some tensors are views of the caller's memory
            raise RuntimeError(f"arrays changed while they were saved to {path}; wanted a save between updates")
        if old is not None:  # not before: a file without the right to write to it could not be swept after a kill
            os.chmod(file.name, stat.S_IMODE(old.st_mode))
    if hasattr(os, "O_DIRECTORY"):  # not on Windows: the new name, too, shall survive a loss of power
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The document and the tensors of a file. Raises ValueError for one that is not as `save` wrote it."""
    safetensors = package()
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
    # safetensors has checked the header, but does not show the metadata.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header.get("__metadata__") or {}
    if not {_ENTRY, _CHECK} <= set(metadata):
        raise ValueError(f"{path} is a safetensors file, but no checkpoint of anyoptim")
    try:
        tensors = {
            name: Tensor(part["dtype"], tuple(part["shape"]), np.frombuffer(part["data"], np.uint8))
            for name, part in parts
        }
        if digest(metadata[_ENTRY], tensors) != metadata[_CHECK]:
            raise ValueError("its checksum is another: it was damaged, or changed")
        document = json.loads(metadata[_ENTRY])
        if not isinstance(document, dict) or set(document) != {*FIELDS}:
            raise ValueError(f"its metadata have no {', '.join(FIELDS)}")
        if document["version"] != VERSION:
            raise ValueError(f"its version is {document['version']!r}; this anyoptim reads {VERSION}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    return document, tensors


def digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """The checksum of the JSON text and of all tensors."""
    whole = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(json.dumps([name, tensor.dtype, tensor.shape]).encode())
        whole.update(tensor.content)
    return whole.hexdigest()


def _write(file: BinaryIO, metadata: dict[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, down to the disk.

    The package is not used, because it writes to a temporary file of its own: one that a kill left could not be told
    from one that another process is still writing.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    # The tensors with the widest elements come first, so that each begins at a multiple of its elements' size.
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
