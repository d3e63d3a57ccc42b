"""Masks for an array, of its shape or shared along some axes, and products with them."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import COMPUTE, Array, Library, is_scalar, traced
from anyoptim._arrays._out import copied_to, destination
from anyoptim._arrays._quiet import quiet
from anyoptim._trace._hyperparameters import Domain
from anyoptim._trace._scalars import count, integer
from anyoptim.random import bernoulli
from anyoptim.random._dropout import fused_dropout
from anyoptim.random._place import Offset, Runs, place

__all__ = [
    "BELOW_ONE",
    "INPUT",
    "RATIO",
    "Noise",
    "NoiseShape",
    "Place",
    "by_channel",
    "by_sample",
    "kept",
    "product",
    "scaled",
    "shared",
    "signed_integer",
    "valid",
    "widened",
]

RATIO = Domain(lambda ratio: 0 <= ratio <= 1, "from 0 to 1")
BELOW_ONE = Domain(lambda ratio: 0 <= ratio < 1, "at least 0 and below 1")
INPUT = "an array or a float"

NoiseShape = Sequence[int | None] | None
"""For each axis 1, if its elements share a random number, or None or their number, if each has one of its own."""


class Place(NamedTuple):
    """The place of an array's random numbers in the stream: the draw, and the part of it."""

    key: int
    call: Any
    offset: Offset
    within: Sequence[int] | None


class Noise(NamedTuple):
    """The random numbers to draw for an array: their shape, and where they lie within the draw."""

    shape: tuple[int, ...]
    offset: Offset
    within: Sequence[int] | None

    @classmethod
    def of(cls, shape: tuple[int, ...], noise_shape: NoiseShape, at: Place) -> Noise:
        """The numbers to draw for an array of this shape at this place.

        Raises ValueError for a noise shape that does not fit, and for a part that begins within a shared number.
        """
        if noise_shape is None:
            return cls(shape, at.offset, at.within)
        entries = shared("noise_shape", noise_shape)
        if len(entries) != len(shape) or any(m not in {None, 1, n} for n, m in zip(shape, entries, strict=True)):
            raise ValueError(
                f"noise_shape is {entries} for an x of shape {shape}; wanted 1 or None or its length for each axis"
            )
        separate = [m != 1 for m in entries]
        drawn = tuple(n if k else 1 for n, k in zip(shape, separate, strict=True))
        if at.within is not None:
            place(shape, at.offset, at.within)  # raises
            assert not isinstance(at.offset, int)  # noqa: S101 - or it would have
            offset = tuple(first if k else 0 for first, k in zip(at.offset, separate, strict=True))
            return cls(drawn, offset, tuple(m if k else 1 for m, k in zip(at.within, separate, strict=True)))
        begin, row = integer("offset", at.offset), math.prod(shape[1:])
        if row and begin % row:
            raise ValueError(
                f"offset is {begin}; wanted a multiple of {row}, the elements of x[0], or the shape of the whole as "
                "within=, where noise is shared"
            )
        return cls(drawn, begin // row * math.prod(drawn[1:]) if separate[:1] == [True] and row else 0, None)


def shared(name: str, noise_shape: Sequence[int | None]) -> tuple[int | None, ...]:
    """A noise shape as a tuple of Python's integers and None. Raises TypeError or ValueError with its name."""
    wanted = f"{name} is {noise_shape!r}; wanted 1 or None or its length for each axis"
    if not isinstance(noise_shape, Sequence):
        raise TypeError(wanted)
    try:
        entries = tuple(m if m is None else integer(name, m) for m in noise_shape)
    except (TypeError, ValueError) as error:
        raise type(error)(wanted) from None
    return entries


def signed_integer(name: str, value: Any) -> int:
    """`value` as an integer. Raises TypeError with its name."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is {value}; wanted an integer")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; wanted an integer") from None


def by_channel(ndim: int, axis: int) -> tuple[int | None, ...]:
    """The noise shape with one number for each sample, along the first axis, and channel.

    Raises TypeError and ValueError.
    """
    channel = signed_integer("axis", axis)
    channel += ndim if channel < 0 else 0
    if not 0 < channel < ndim:
        raise ValueError(f"axis is {axis} for an x of {ndim} axes; wanted that of the channels, after the samples'")
    return tuple(None if k in {0, channel} else 1 for k in range(ndim))


def by_sample(ndim: int) -> tuple[int | None, ...]:
    """The noise shape with one number for each sample, along the first axis."""
    return tuple(1 if k else None for k in range(ndim))


def valid(domain: Domain, ratio: Any) -> float:
    """The ratio as a Python float. Raises TypeError or ValueError."""
    if traced(ratio):
        raise TypeError("ratio is traced; wanted a number that is known when the function is compiled")
    number: float = domain.value("ratio", ratio)
    return number


def kept(noise: Noise, ratio: float, at: Place, like: Array) -> Array:
    """True where an element is kept."""
    return ~bernoulli(ratio, noise.shape, at.key, at.call, noise.offset, within=noise.within, like=like)


def product(
    arrays: Library,
    x: Array,
    ratio: float,
    scale: float,
    at: Place,
    noise_shape: NoiseShape,
    out: Array | None = None,
) -> Array:
    """`x*scale` where an element is kept, else `x*0`; in one pass, where an engine can."""
    target = None if out is None else destination("out", out, "x", x)
    a = arrays.load(x) if is_scalar(x) else x
    shape = tuple(a.shape)
    noise = Noise.of(shape, noise_shape, at)
    if noise.shape == shape and not is_scalar(x):
        begin = place(shape, noise.offset, noise.within)
        if not isinstance(begin, Runs):
            numbers = integer("key", at.key), count("call", at.call), begin
            fused = fused_dropout(arrays, x, round(ratio * 2**32), scale, numbers, target)
            if fused is not None:
                return fused if out is None else out
    y = scaled(arrays, x, scale, arrays.sharded_like(kept(noise, ratio, at, a), a))
    return y if out is None else copied_to(arrays, out, y)


def scaled(arrays: Library, x: Array, scale: float, mask: Array | None = None) -> Array:
    """The product of x, the scale, and the mask if there is one."""
    xp = arrays.xp
    a = arrays.load(x) if is_scalar(x) else x
    with quiet():
        if mask is not None and scale == 1:
            y = xp.astype(a * xp.astype(mask, a.dtype), a.dtype, copy=False)  # which may not be of native byte order
        else:
            wide = widened(arrays, a)
            factor = scale if mask is None else xp.astype(mask, wide.dtype) * scale
            y = xp.astype(wide * factor, a.dtype, copy=False)
    return arrays.rebound(x, y)


def widened(arrays: Library, a: Array) -> Array:
    """The array in the dtype of its arithmetic."""
    return arrays.xp.astype(a, getattr(arrays.xp, COMPUTE[arrays.dtype(a)]), copy=False)
