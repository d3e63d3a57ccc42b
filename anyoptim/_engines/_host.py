"""Engines that work on NumPy's views of arrays in this machine's memory."""

from __future__ import annotations

from anyoptim._arrays import Array, Library
from anyoptim._engines._base import Engine, Leaf, NDArray
from anyoptim._trace._program import Program

__all__ = ["HostEngine", "host_view"]


class HostEngine(Engine):
    """An engine that takes what NumPy can read, where the parameter is to be written where it lies."""

    def reaches(self, leaf: Leaf) -> bool:
        """Whether no other engine has been made for such arrays."""
        return leaf.library.cuda(leaf.p) is None and not leaf.library.tracing

    def refusal(self, program: Program, leaf: Leaf, x: Array) -> str | None:
        if leaf.destination is None:
            return "it can't be written to"
        library = leaf.library
        p, g = library.numpy_view(leaf.p), library.numpy_view(x)
        if p is None or g is None:
            return f"NumPy can't read and write {library.name} arrays of dtype {library.dtype(leaf.p)}"
        return self.host_refusal(program, leaf, p, g)

    def host_refusal(self, program: Program, leaf: Leaf, p: NDArray, g: NDArray) -> str | None:
        """Why the engine can't take a leaf, of whose parameter and gradient these are the views; or None."""
        return None


def host_view(library: Library, x: Array) -> NDArray:
    """NumPy's view of an array that an engine did not refuse."""
    view = library.numpy_view(x)
    assert view is not None  # noqa: S101 - it was asked for then
    return view
