"""NVIDIA's cache of machine code for devices, in the user's cache folder. Imported where there is a device."""

from __future__ import annotations

import hashlib
from typing import Any

from cuda.core.utils import FileStreamProgramCache

from anyoptim._engines import _cache

__all__ = ["programs"]


class _Programs(FileStreamProgramCache):  # type: ignore[misc]
    """What is kept begins with its digest, so that a file that was damaged is made anew."""

    def __getitem__(self, key: object) -> bytes:
        kept: bytes = super().__getitem__(key)
        if hashlib.sha256(kept[32:]).digest() != kept[:32]:
            raise KeyError(key)
        return kept[32:]

    def __setitem__(self, key: object, value: Any) -> None:
        code = bytes(value.code)
        super().__setitem__(key, hashlib.sha256(code).digest() + code)


def programs() -> _Programs | None:
    """The cache, or None where there can be none: no folder, or no right to write to it."""
    try:
        return _Programs(_cache.folder("programs"))
    except (ImportError, OSError):
        return None
