"""What an engine is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from anyoptim._arrays import Array, Library

__all__ = ["Commit", "Leaf", "Result", "Rule"]

Rule = Callable[..., Any]
"""`rule(xp, p, x, *slots, **coefficients)`: the step, or a tuple of the step and the new slots."""


class Leaf(NamedTuple):
    """One parameter at one step. Leaves of one step may have rows of coefficients of their own."""

    library: Library
    p: Array
    x: Array
    """The gradient: the shape of `p`, any dtype of its kind."""
    slots: tuple[Array, ...]
    """In the compute dtype of `p`."""
    coefficients: Mapping[str, Any]
    """The row: floats, static options, or 0-d arrays under a tracing transformation such as `jax.jit`."""
    destination: Array | None = None
    """The user's own object over the memory of `p`, where the new parameter is to be written to it."""


class Result(NamedTuple):
    """The new parameter, in its own dtype, and the new slots, in the compute dtype."""

    p: Array
    slots: tuple[Array, ...]


Commit = Callable[[], list[Result]]
"""Writes what was prepared: each new parameter to its destination, if it has one. Does not fail."""
