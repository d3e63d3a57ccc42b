"""Dropout: the pure function and the layer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from anyoptim._arrays import COMPUTE, Array, Library, is_scalar, library, traced
from anyoptim._checks import admit
from anyoptim._engines.masking import masked
from anyoptim._hyperparameters import Domain
from anyoptim._quiet import quiet
from anyoptim._scalars import count, integer
from anyoptim.random import bits

__all__ = ["Dropout", "dropout"]

_RATIO = Domain(lambda ratio: 0 <= ratio <= 1, "from 0 to 1")
_INPUT = "an array or a float"


def dropout(x: Array, ratio: float, key: int, call: Any = 0, offset: int = 0, *, inverted: bool = False) -> Array:
    """Multiply each element of x by zero with probability `ratio`.

    ::

        y = x*mask                  mask = 1 where word >= round(ratio * 2**32), else 0
        y = x*(mask/(1-ratio))      inverted, so that the mean of y is x

    The word of element i, counted in logical C order whatever the memory order, is word `offset + i` of call
    `call` of Philox4x32-10 under `key` (`anyoptim.random.bits`): the same on every library and device. The
    gradient of y is `dropout` of the gradient, with the same arguments.

    Args:
        x: any shape, real or complex floating. float16 and bfloat16 are scaled in float32.
        ratio: the share to drop, 0 to 1, to the nearest 2**-32.
        key: the stream, 0 <= key < 2**64.
        call: the draw within it, 0 <= call < 2**64, or a 0-d integer array, which `jax.jit` may trace.
        offset: where x begins within a larger array, in elements, if x is a run of its elements in C order, as a
            slice along the first axis is.
        inverted: scale what is kept.

    Returns:
        An array of the library, device, shape and dtype of x: what is dropped is 0, or -0, where x is finite, and
        NaN where it is not.

    Source: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting, 2014,
    section 4; inverted, section 10.
    """
    arrays, a, _ = admit("x", x, _INPUT)
    if traced(ratio):
        raise TypeError("ratio is traced; wanted a number that is known when the function is compiled")
    ratio = _RATIO.value("ratio", ratio)
    scale = 1 / (1 - ratio) if inverted and ratio < 1 else 1.0
    place = integer("key", key), count("call", call), integer("offset", offset)
    fused = None if is_scalar(x) else masked(arrays, x, round(ratio * 2**32), scale, place)
    if fused is not None:
        return fused
    mask = arrays.aligned(_mask(tuple(a.shape), ratio, key, call, offset, a), a)
    return _scaled(arrays, x, scale, mask)


class Dropout:
    """A layer that drops elements of its input in training.

    ::

        forward, training    y = x*mask                      mask: 1 with probability 1-dropout_ratio, else 0
        forward, otherwise   y = x*(1-dropout_ratio)
        backward             dx = dout*mask

    and with `inverted=True`, which leaves inference alone::

        forward, training    y = x*(mask/(1-dropout_ratio))
        forward, otherwise   y = x
        backward             dx = dout*(mask/(1-dropout_ratio))

    The n-th training forward draws call n, from 0, of the layer's key, as the function `dropout` does. No
    mask is stored: `backward` and `mask` draw it again.

    Args:
        dropout_ratio: the share to drop, 0 to 1. A plain attribute.
        inverted: scale in training instead of otherwise.
        seed: the layer's key, 0 <= seed < 2**64. Without one the operating system gives a key that no
            other layer has. Two layers of one seed draw the same masks; so do a layer and its copy, be it by
            `deepcopy`, `pickle` or a forked process, until one of them is given another `key`.

    A layer counts its calls, so that it belongs to one thread, and a forward that is run once more in place of a
    backward's memory (activation checkpointing) draws another mask: use the function there.

    Source: as for `dropout`.
    """

    def __init__(self, dropout_ratio: float = 0.5, *, inverted: bool = False, seed: int | None = None) -> None:
        self.dropout_ratio = dropout_ratio
        self.inverted = inverted
        self.key = integer("seed", int.from_bytes(os.urandom(8)) if seed is None else seed)
        self.calls = 0
        self._last: _Draw | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "dropout_ratio":
            _RATIO.value(name, value)
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"Dropout({self.dropout_ratio!r}, inverted={self.inverted!r}, seed={self.key})"

    def forward(self, x: Array, training: bool = True) -> Array:
        """Drop elements of x in training; scale x, or leave it alone if `inverted`, otherwise.

        The result has the library, device, shape and dtype of x; x is not written to. Raises TypeError for
        an x that is no real or complex floating array, or that is traced (as under `jax.jit`) in training:
        there the count of calls would be frozen, and the function `dropout` takes the call as an argument.
        """
        arrays, a, _ = admit("x", x, _INPUT)
        ratio = _RATIO.value("dropout_ratio", self.dropout_ratio)
        if not training:
            return x if self.inverted else _scaled(arrays, x, 1 - ratio)
        _known(arrays, "x", x)
        like = arrays.xp.zeros((0,), dtype=a.dtype, device=arrays.placement(a))
        draw = _Draw(self.calls, ratio, self.inverted, tuple(a.shape), like)
        y = dropout(x, ratio, self.key, draw.call, inverted=draw.inverted)
        self._last = draw
        self.calls += 1
        return y

    def backward(self, dout: Array) -> Array:
        """The gradient of the last training forward's input, given that of its output.

        `dout` has the shape of that input and any floating dtype and memory order; the result is like `dout`.
        Raises RuntimeError before the first training forward, ValueError for another shape.
        """
        draw = self._last
        if draw is None:
            raise RuntimeError("backward came before the first forward(x, training=True); there is no mask yet")
        arrays, a, _ = admit("dout", dout, _INPUT)
        _known(arrays, "dout", dout)
        shape = tuple(a.shape)
        if shape != draw.shape:
            raise ValueError(f"dout has shape {shape} but the last training forward's x had shape {draw.shape}")
        return dropout(dout, draw.ratio, self.key, draw.call, inverted=draw.inverted)

    @property
    def mask(self) -> Array | None:
        """True where the last training forward kept an element; None before it.

        Of the library of its x and on its device (on one, where x lay on several).
        """
        draw = self._last
        return draw and _mask(draw.shape, draw.ratio, self.key, draw.call, 0, draw.like)

    def state_dict(self) -> dict[str, int]:
        """The layer's place in its stream: its key and the number of calls made."""
        return {"key": self.key, "calls": self.calls}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state_dict` was taken: the next mask is the next mask. Raises ValueError for other keys."""
        if set(state) != {"key", "calls"}:
            raise ValueError(f"state has the keys {sorted(state)}; wanted ['calls', 'key']")
        key, calls = integer("state['key']", state["key"]), integer("state['calls']", state["calls"])
        self.key, self.calls, self._last = key, calls, None


class _Draw(NamedTuple):
    """What it takes to draw a mask again."""

    call: int
    ratio: float
    inverted: bool
    shape: tuple[int, ...]
    like: Array


def _known(arrays: Library, name: str, x: Array) -> None:
    if arrays.traced(x):
        raise TypeError(
            f"{name} is traced, and the layer's count of calls would be frozen into the transformed function, the same "
            "mask for ever; wanted the pure form: anyoptim.dropout(x, ratio, key, call)"
        )
    number = arrays.cuda(x) if not is_scalar(x) else None
    if number is not None and arrays.capturing(number):
        raise RuntimeError(
            f"{name} is being captured in a CUDA graph, whose replays would draw the same mask for ever; "
            "wanted the layer outside of the graph"
        )


def _mask(shape: tuple[int, ...], ratio: float, key: int, call: Any, offset: int, like: Array) -> Array:
    """True where an element is kept."""
    drawn = bits(shape, key, call, offset, like=like)
    threshold = round(ratio * 2**32)
    # The largest word that drops, and not the threshold, because 2**32 itself is no word.
    return drawn >= 0 if threshold == 0 else drawn > library(like).scalar(threshold - 1, drawn.dtype, like)


def _scaled(arrays: Library, x: Array, scale: float, mask: Array | None = None) -> Array:
    """The product of x, the scale, and the mask if there is one."""
    xp = arrays.xp
    a = arrays.load(x) if is_scalar(x) else x
    with quiet():
        if mask is not None and scale == 1:
            y = a * xp.astype(mask, a.dtype)
        else:
            wide = xp.astype(a, getattr(xp, COMPUTE[arrays.dtype(a)]), copy=False)
            factor = scale if mask is None else xp.astype(mask, wide.dtype) * scale
            y = xp.astype(wide * factor, a.dtype, copy=False)
    return arrays.rebound(x, y)
