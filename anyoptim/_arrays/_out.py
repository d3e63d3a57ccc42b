"""The `out=` argument: an array that a result is written to."""

from __future__ import annotations

from anyoptim._arrays import Array, Library, is_scalar, library
from anyoptim._arrays._memory import find_overlap, overlaps_itself

__all__ = ["copied_to", "destination"]


def destination(name: str, out: Array, x_name: str, x: Array) -> Array:
    """The array that a result of the library, shape and dtype of x is written to: x where `out` has its layout.

    Raises TypeError or ValueError, with the names, unless `out` is an array like x that can be written to.
    """
    if out is x and not is_scalar(x):
        return _writable(name, library(x), x)
    try:
        out_library = None if is_scalar(out) or is_scalar(x) else library(out)
    except TypeError:
        out_library = None
    arrays = library(x)
    if out_library is not arrays:
        kinds = [f"{type(a).__module__}.{type(a).__qualname__}" for a in (out, x)]
        raise TypeError(f"{name} is a {kinds[0]} and {x_name} a {kinds[1]}; wanted arrays of one library")
    for what, theirs, ours in (
        ("shape", tuple(out.shape), tuple(x.shape)),
        ("dtype", arrays.dtype(out), arrays.dtype(x)),
        ("device", arrays.device(out), arrays.device(x)),
    ):
        if theirs != ours:
            kind = TypeError if what == "dtype" else ValueError
            raise kind(f"{name} has {what} {theirs} but {x_name} has {what} {ours}; wanted the same")
    _writable(name, arrays, out)
    if arrays.tracked_by_autograd(x):
        raise TypeError(f"{name} is given, but automatic differentiation follows {x_name}; wanted None: a new array")
    out_memory, x_memory = arrays.memory(out), arrays.memory(x)
    if out_memory is None or x_memory is None or 0 in out_memory.shape:
        return out
    if out_memory == x_memory:
        return x
    if find_overlap([out_memory, x_memory]) is not None:
        raise ValueError(f"{name} shares part of its memory with {x_name}; wanted {x_name} itself, or none of it")
    return out


def _writable(name: str, arrays: Library, out: Array) -> Array:
    """`out`, if it can be written to. Raises TypeError or ValueError with its name."""
    why = arrays.refusal(out)
    if why is not None:
        raise TypeError(f"{name} {why}")
    if not arrays.writable(out):
        raise TypeError(f"{name} can't be written to ({arrays.name}, {type(out).__name__}); wanted None: a new array")
    if arrays.tracked_by_autograd(out):
        raise TypeError(f"{name} is followed by automatic differentiation, which can't see what is written to it")
    memory = arrays.memory(out)
    if memory is not None and 0 not in memory.shape and overlaps_itself(memory):
        raise ValueError(f"{name} overlaps itself: its strides {memory.strides} put several elements in one place")
    return out


def copied_to(arrays: Library, out: Array, y: Array) -> Array:
    """`out`, after the elements of y were copied to it."""
    if out is not y:
        arrays.write(out, y)
    return out
