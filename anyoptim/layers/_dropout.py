"""Dropout, of elements, whole channels and whole samples: the pure functions and the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from anyoptim._arrays import Array, Library
from anyoptim._arrays._checks import admit
from anyoptim._arrays._library import A
from anyoptim.layers._layer import Draw, Layer, UnaryLayer, flag
from anyoptim.layers._masks import INPUT, RATIO, NoiseShape, Place, by_channel, by_sample, product, scaled, valid
from anyoptim.random._dropout import EngineName, fast_dropout
from anyoptim.random._lookahead import Lookahead
from anyoptim.random._place import Offset

__all__ = [
    "DropConnect",
    "DropPath",
    "Dropout",
    "SpatialDropout",
    "VariationalDropout",
    "drop_path",
    "dropout",
    "spatial_dropout",
]


def dropout(
    x: A,
    ratio: float,
    key: int,
    call: Any = 0,
    offset: Offset = 0,
    *,
    within: Sequence[int] | None = None,
    noise_shape: NoiseShape = None,
    inverted: bool = False,
    out: A | None = None,
) -> A:
    """Multiply each element of x by zero with probability `ratio`.

    ::

        y = x*mask                  mask = 0 where bernoulli(ratio), else 1
        y = x*(mask/(1-ratio))      inverted, so that the mean of y is x

    The mask is drawn by Philox4x32-10, as `anyoptim.random.bernoulli(ratio, x.shape, key, call, offset)` says: for
    element i, counted in logical C order whatever the memory order, by choice `offset + i` of call `call` under
    `key`, the same on every library and device. The gradient of y is `dropout` of the gradient, with the same
    arguments.

    Args:
        x: any shape, real or complex floating. float16 and bfloat16 are scaled in float32.
        ratio: the share to drop, 0 to 1, to the nearest 2**-32.
        key: the stream, 0 <= key < 2**64.
        call: the draw within it, 0 <= call < 2**64, or a 0-d integer array, which `jax.jit` may trace.
        offset: where x begins within a larger array: without `within` a number of elements, if x is a run of its
            elements in C order, as a slice along the first axis is. With it one entry for each axis, either the
            index of the first element, or the indices of all, as for `anyoptim.random.bits`.
        within: the shape of the larger array.
        noise_shape: for each axis 1, if its elements are kept or dropped together, or None or their number. The
            choices are then counted in the mask's own shape. None for a choice for each element. Shards say None, not
            their own number.
        inverted: scale what is kept.
        out: where to write the result: x itself, or an array of its library, device, shape and dtype that shares no
            memory with it. Without one it is a new array.

    Returns:
        An array of the library, device, shape and dtype of x, or `out`: what is dropped is 0, or -0, where x is
        finite, and NaN where it is not.

    Source: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting, 2014,
    section 4; inverted, section 10.

    >>> ao.dropout(np.ones(8), ratio=0.5, key=3, call=0, inverted=True)
    array([2., 0., 2., 2., 0., 0., 2., 0.])
    """
    arrays, _, _ = admit("x", x, INPUT)
    ratio = valid(RATIO, ratio)
    scale = _scale(ratio, flag("inverted", inverted))
    return product(arrays, x, ratio, scale, Place(key, call, offset, within), noise_shape, out)  # type: ignore[no-any-return]


def _scale(ratio: float, inverted: bool) -> float:
    return 1 / (1 - ratio) if inverted and ratio < 1 else 1.0


class Dropout(UnaryLayer):
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
    mask is stored: `backward` and `mask` draw it again. But where NumPy draws (`blocked`), the layer keeps a bit for
    each element of arrays of at most 2**20, and for small ones those of its next calls: 128 KiB at most, which is no
    part of its state and of its copies.

    Where forwards and backwards do not take turns, they name their draws: `forward(x, call=n)` draws call n and leaves
    the count alone, and `backward(dout, call=n)` is its gradient. T steps through time, forwards and then backwards,
    take n = layer.calls + t for step t, and `layer.calls += T` in the end.

    Args:
        dropout_ratio: the share to drop, 0 to 1. A plain attribute.
        inverted: scale in training instead of otherwise.
        noise_shape: for each axis 1, if its elements are kept or dropped together, or None or their number; None
            for a choice for each element. `(1, None, None)` is one mask for all time steps of an x of shape
            (time, samples, features).
        seed: the layer's key, 0 <= seed < 2**64. Without one the operating system gives a key that no
            other layer has. Two layers of one seed draw the same masks; so do a layer and its copy, be it by
            `deepcopy`, `pickle` or a forked process, until one of them is given another `key`.
        engine: what draws, by name: `cuda` (a kernel, in one pass: CuPy arrays and torch CUDA tensors), `compiled` (a
            Numba loop, in one pass: NumPy arrays and torch CPU tensors), `blocked` (NumPy calls: these) or `portable`
            (the library's own operations: all; also what `jax` means here). None chooses the fastest, and compiles for
            the CPU once enough elements have been drawn for that to be worth its time, or at once with `compile`. What
            an engine can't take, the next one does: masks with shared choices, say, which NumPy draws where it can. The
            results are the same bits. A plain attribute, and no part of the state.

    Raises ValueError for an engine that there is not, and ImportError where its package is missing.

    A layer counts its calls, so that it belongs to one thread, and a forward that is run once more in place of a
    backward's memory (activation checkpointing) draws another mask: name the call there.

    Source: as for `dropout`.

    >>> layer = ao.Dropout(0.5, seed=3)
    >>> layer.forward(np.ones(8))
    array([1., 0., 1., 1., 0., 0., 1., 0.])
    >>> layer.backward(2 * np.ones(8))
    array([2., 0., 2., 2., 0., 0., 2., 0.])
    >>> layer.forward(np.ones(8), training=False)
    array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    """

    _attributes: ClassVar[tuple[str, ...]] = ("inverted", "noise_shape")
    _fused = True
    _function = _gradient = staticmethod(dropout)

    def __init__(
        self,
        dropout_ratio: float = 0.5,
        *,
        inverted: bool = False,
        noise_shape: NoiseShape = None,
        seed: int | None = None,
        engine: EngineName | None = None,
    ) -> None:
        super().__init__(dropout_ratio, seed, engine)
        self.inverted = inverted
        self.noise_shape = noise_shape

    def _quick_forward(self, x: Array, in_place: bool) -> Array | None:
        if self.noise_shape is not None:
            return None
        draws, key, ratio, inverted = self._draws, self.key, self._ratio, self.inverted
        call, _ = draws.now
        y = _drawn(x, key, call, ratio, inverted, self.engine, draws.ahead, in_place)
        if y is not None:
            options = {"ratio": ratio, "noise_shape": None, "inverted": inverted}
            draws.now = call + self._counts, Draw(key, call, options, x.shape, _EMPTY)
        return y

    def _quick_backward(self, dout: Array, in_place: bool) -> Array | None:
        _, draw = self._draws.now
        if draw is None or draw.options["noise_shape"] is not None or getattr(dout, "shape", None) != draw.shape:
            return None
        ratio, inverted = draw.options["ratio"], draw.options["inverted"]
        return _drawn(dout, draw.key, draw.call, ratio, inverted, self.engine, self._draws.ahead, in_place)

    def _options(self, ndim: int) -> dict[str, Any]:
        return {**super()._options(ndim), "inverted": self.inverted}

    def _inference(self, arrays: Library, x: Array) -> Array:
        ratio = RATIO.value("dropout_ratio", self.dropout_ratio)
        return x if self.inverted else scaled(arrays, x, 1 - ratio)


_EMPTY = np.empty(0)


def _drawn(
    x: Array,
    key: int,
    call: int,
    ratio: float,
    inverted: bool,
    engine: EngineName | None,
    ahead: Lookahead,
    in_place: bool,
) -> Array | None:
    """`dropout` of an array that needs no checks; None for any other."""
    if type(ratio) is not float:
        return None
    scale = _scale(ratio, True) if inverted else 1.0
    return fast_dropout(x, round(ratio * 2**32), scale, key, call, engine, ahead, in_place)


class DropConnect(Dropout):
    """A layer that drops weights, and not what they are multiplied with: Dropout of a weight matrix.

    ::

        y = x @ layer.forward(W)                     in training, and otherwise with training=False
        dW = layer.backward(x.T @ dy)                and dx = dy @ M.T, with M what forward gave

    One mask serves all samples of a batch. The paper's own for each sample are those of
    `layer.forward(xp.broadcast_to(W, (n, *W.shape)))`, whose gradient is the sum of `backward` over the first axis.
    Otherwise W is scaled by 1-dropout_ratio, its mean (the paper samples the sums of a normal distribution instead).

    Args: as for `Dropout`.

    Source: Wan, Zeiler, Zhang, LeCun and Fergus, Regularization of neural networks using DropConnect, 2013, section 3.

    >>> ao.DropConnect(0.5, seed=3).forward(np.ones((2, 4)))
    array([[1., 0., 1., 1.],
           [0., 0., 1., 0.]])
    """


class VariationalDropout(Dropout):
    """Dropout for recurrent networks: one mask for all steps of a sequence.

    ::

        forward, training    y_t = x_t*mask                  with the same mask until new_sequence()
        backward             dx_t = dout_t*mask

    The n-th sequence, from 0, draws call n of the layer's key, as often as it is asked: forwards of all steps and then
    backwards of all steps have one mask. Use one layer for what comes in and another for the recurrent state. An x of
    all time steps at once has `Dropout(noise_shape=(1, None, None))`.

    Args: as for `Dropout`.

    Source: Gal and Ghahramani, A theoretically grounded application of dropout in recurrent neural networks, 2016,
    section 4.

    >>> layer = ao.VariationalDropout(0.5, seed=3)
    >>> layer.new_sequence()
    >>> [layer.forward(np.ones(4)).tolist() for _ in range(2)]
    [[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]]
    """

    _counts = 0  # a sequence is counted where the next begins

    def new_sequence(self) -> None:
        """Draw another mask from now on."""
        self.calls += 1


def spatial_dropout(
    x: A,
    ratio: float,
    key: int,
    call: Any = 0,
    offset: Offset = 0,
    *,
    within: Sequence[int] | None = None,
    axis: int = 1,
    inverted: bool = False,
) -> A:
    """Drop whole channels: `dropout` with one choice for each sample and channel, whatever other axes there are.

    Args:
        x: of at least two axes, of which the first is that of the samples.
        ratio: as for `dropout`; so are key, call, offset, within and inverted. A shard along another axis than the
            first is placed by `within`.
        key: as there.
        call: as there.
        offset: as there.
        within: as there.
        axis: that of the channels: 1, or -1 where they come last.
        inverted: as there.

    The gradient of y is `spatial_dropout` of the gradient, with the same arguments.

    Source: Tompson, Goroshin, Jain, LeCun and Bregler, Efficient object localization using convolutional networks,
    2015, section 3.2.

    >>> ao.spatial_dropout(np.ones((1, 4, 2)), 0.5, key=3, call=0)
    array([[[1., 1.],
            [0., 0.],
            [1., 1.],
            [1., 1.]]])
    """
    _, a, _ = admit("x", x, INPUT)
    shape = by_channel(a.ndim, axis)
    return dropout(x, ratio, key, call, offset, within=within, noise_shape=shape, inverted=inverted)


class SpatialDropout(Dropout):
    """A layer that drops whole channels: torch's Dropout1d, 2d and 3d, and Keras's SpatialDropout, in any dimension.

    ::

        forward, training    y = x*mask                      with a mask of shape (samples, channels, 1, ...)
        forward, otherwise   y = x*(1-dropout_ratio)
        backward             dx = dout*mask

    with `inverted=True` scaled as `Dropout` is; torch and Keras do that.

    Args:
        dropout_ratio: the share of channels to drop, 0 to 1. A plain attribute.
        axis: that of the channels in x: 1, or -1 where they come last. The first is that of the samples; an x
            without one has `Dropout(noise_shape=(None, 1, 1))`.
        inverted: scale in training instead of otherwise.
        seed: as for `Dropout`, as is engine.
        engine: as there.

    Source: as for `spatial_dropout`.

    >>> ao.SpatialDropout(0.5, seed=3).forward(np.ones((1, 4, 2)))
    array([[[1., 1.],
            [0., 0.],
            [1., 1.],
            [1., 1.]]])
    """

    _pure: ClassVar[str] = "spatial_dropout"
    _attributes: ClassVar[tuple[str, ...]] = ("axis", "inverted")

    def __init__(
        self,
        dropout_ratio: float = 0.5,
        *,
        axis: int = 1,
        inverted: bool = False,
        seed: int | None = None,
        engine: EngineName | None = None,
    ) -> None:
        Layer.__init__(self, dropout_ratio, seed, engine)  # Dropout's own would set a noise shape, too
        self.axis = axis
        self.inverted = inverted

    _quick_forward = UnaryLayer._quick_forward  # elements share choices

    def _noise_shape(self, ndim: int) -> NoiseShape:
        return by_channel(ndim, self.axis)


def drop_path(
    x: A,
    ratio: float,
    key: int,
    call: Any = 0,
    offset: Offset = 0,
    *,
    within: Sequence[int] | None = None,
    inverted: bool = False,
) -> A:
    """Drop whole samples: `dropout` with one choice for each element of the first axis.

    Args: as for `dropout`. The gradient of y is `drop_path` of the gradient, with the same arguments.

    Source: Huang, Sun, Liu, Sedra and Weinberger, Deep networks with stochastic depth, 2016, section 3.

    >>> ao.drop_path(np.ones((4, 2)), 0.5, key=3, call=0)
    array([[1., 1.],
           [0., 0.],
           [1., 1.],
           [1., 1.]])
    """
    _, a, _ = admit("x", x, INPUT)
    return dropout(x, ratio, key, call, offset, within=within, noise_shape=by_sample(a.ndim), inverted=inverted)


class DropPath(Dropout):
    """A layer that drops whole samples, for the residual branch of a block: stochastic depth.

    ::

        y = x + layer.forward(branch(x))                     forward: f*mask, with a mask of shape (samples, 1, ...)
        dbranch = layer.backward(dy)

    Otherwise it is scaled by 1-dropout_ratio, the paper's survival probability; with `inverted=True`, as timm has it,
    in training instead. The paper draws once for a batch: `Dropout(noise_shape=(1,)*x.ndim)`.

    Args:
        dropout_ratio: the share of samples to drop, 0 to 1. A plain attribute.
        inverted: scale in training instead of otherwise.
        seed: as for `Dropout`, as is engine.
        engine: as there.

    Source: as for `drop_path`.

    >>> ao.DropPath(0.5, seed=3).forward(np.ones((4, 2)))
    array([[1., 1.],
           [0., 0.],
           [1., 1.],
           [1., 1.]])
    """

    _pure: ClassVar[str] = "drop_path"
    _attributes: ClassVar[tuple[str, ...]] = ("inverted",)

    def __init__(
        self,
        dropout_ratio: float = 0.5,
        *,
        inverted: bool = False,
        seed: int | None = None,
        engine: EngineName | None = None,
    ) -> None:
        Layer.__init__(self, dropout_ratio, seed, engine)  # Dropout's own would set a noise shape, too
        self.inverted = inverted

    _quick_forward = UnaryLayer._quick_forward  # elements share choices

    def _noise_shape(self, ndim: int) -> NoiseShape:
        return by_sample(ndim)
