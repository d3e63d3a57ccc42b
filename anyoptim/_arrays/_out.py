"""Arrays that results are written to on request."""

from __future__ import annotations

from anyoptim._arrays import Array, Library, is_scalar, library
from anyoptim._arrays._memory import find_overlap, overlaps_itself

__all__ = ["destination", "written"]


def destination(name: str, out: Array, x_name: str, x: Array) -> Array:
    """`out`, or x if it lies where x does and in the same way, for a result of the library, shape and dtype of x.

    Raises TypeError or ValueError, with the names, for one that can't be written to, or isn't such an array.
    """
    if out is x and not is_scalar(x):
        return _writable(name, library(x), x)
    try:
        found = None if is_scalar(out) or is_scalar(x) else library(out)
    except TypeError:
        found = None
    arrays = library(x)
    if found is not arrays:
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
    there, here = arrays.memory(out), arrays.memory(x)
    if there is None or here is None or 0 in there.shape:
        return out
    if there == here:
        return x
    if find_overlap([there, here]) is not None:
        raise ValueError(f"{name} shares part of its memory with {x_name}; wanted {x_name} itself, or none of it")
    return out


def _writable(name: str, arrays: Library, out: Array) -> Array:
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


def written(arrays: Library, out: Array, y: Array) -> Array:
    """`out`, with the elements of y."""
    if out is not y:
        arrays.write(out, y)
    return out
