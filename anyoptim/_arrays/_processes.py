"""Work that one of several processes does for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from anyoptim._arrays import Array, library

__all__ = ["by_one"]


@contextmanager
def by_one(arrays: Sequence[Array], what: str) -> Iterator[bool]:
    """A context that says whether this process does the work: the first of those that hold parts of the arrays.

    The others wait at the end of the context. Where the first fails, it raises its own error, and the others OSError
    with `what`.
    """
    x = next((x for x in arrays if library(x).spans_processes(x)), None)
    if x is None:
        yield True
        return
    done = False
    try:
        yield library(x).is_first_process(x)
        done = True
    finally:
        all_done = library(x).all_processes(done, x)
    if not all_done:
        raise OSError(f"{what} by the first of the processes that share the arrays, whose error says why")
