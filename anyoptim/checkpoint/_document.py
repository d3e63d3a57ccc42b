"""The JSON text of a checkpoint: plain values, in which tensors of the file stand for arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from anyoptim._arrays import library
from anyoptim.checkpoint._tensors import Tensor, stored

__all__ = ["Tensors", "escaped", "parsed", "plain", "put"]


class Tensors(dict[str, Tensor]):
    """The tensors of a file by name, and the arrays among their sources that other processes have parts of."""

    def __init__(self) -> None:
        super().__init__()
        self.shared: list[Any] = []


def plain(root: str, value: Any, tensors: Tensors) -> Any:
    """A value of what JSON can say, its arrays put aside among the tensors."""
    try:
        return _json(root, root, value, tensors)
    except RecursionError:
        raise ValueError(f"{root} is nested too deeply, or contains itself") from None


def _json(name: str, root: str, value: Any, tensors: Tensors) -> Any:
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
        return {escaped(key): _json(f"{name}[{key!r}]", f"{root}/{key}", item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(f"{name}[{i}]", f"{root}/{i}", item, tensors) for i, item in enumerate(value)]
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return _json(name, root, value.item(), tensors)
    return put(name, root, value, tensors)


def parsed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value that `_json` was given. A tensor can be named once: arrays of it without end would take all memory."""
    if isinstance(value, list):
        return [parsed(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors.pop(value["$tensor"]).array(value["$complex"])
    return {key.removeprefix("$"): parsed(item, tensors) for key, item in value.items()}


def put(name: str, key: str, value: Any, tensors: Tensors) -> dict[str, Any]:
    """Put an array among the tensors, and return what stands for it in the JSON text."""
    try:
        key.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{name} has a surrogate in its key; wanted text, which names the tensor in the file"
        ) from None
    while key in tensors:
        key += "'"  # two ways led to it, for a key of the user's has a slash
    tensors[key], is_complex = stored(name, value)
    if library(value).spans_processes(value):
        tensors.shared.append(value)
    return {"$tensor": key, "$complex": is_complex}


def escaped(key: str) -> str:
    """A key of the user's, which gets one more dollar sign if it begins with one, as our keys do."""
    return f"${key}" if key.startswith("$") else key


def _comes_back(text: str) -> bool:
    """Whether JSON gives back this text: it makes one character of two surrogates."""
    return text.isascii() or json.loads(json.dumps(text)) == text
