"""Modules whose text was written by a program."""

from __future__ import annotations

import linecache
from typing import Any, NamedTuple

__all__ = ["Text", "executed"]


class Text(NamedTuple):
    """A function to be compiled."""

    name: str
    text: str
    """The module that it is in."""
    signature: str
    """The types that it gives and takes: arrays, and then two integers or none."""


def executed(text: str, file: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """The namespace, once a generated text has been run in it. Tracebacks and debuggers show lines of the text."""
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), namespace)  # noqa: S102 - text of our own, from names that were checked
    return namespace
