"""Dropout of whole channels and whole samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyoptim._arrays import Array
from anyoptim._arrays._checks import admit
from anyoptim.layers._dropout import Dropout, dropout
from anyoptim.layers._layer import Layer
from anyoptim.layers._masks import INPUT, NoiseShape, by_channel, by_sample
from anyoptim.random._place import Offset

__all__ = ["DropPath", "SpatialDropout", "drop_path", "spatial_dropout"]


def spatial_dropout(
    x: Array,
    ratio: float,
    key: int,
    call: Any = 0,
    offset: Offset = 0,
    *,
    within: Sequence[int] | None = None,
    axis: int = 1,
    inverted: bool = False,
) -> Array:
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
        seed: as for `Dropout`.

    Source: as for `spatial_dropout`.
    """

    pure = "spatial_dropout"
    arguments = ("axis", "inverted")

    def __init__(
        self, dropout_ratio: float = 0.5, *, axis: int = 1, inverted: bool = False, seed: int | None = None
    ) -> None:
        Layer.__init__(self, dropout_ratio, seed)  # Dropout's own would set a noise shape, too
        self.axis = axis
        self.inverted = inverted

    def _noise_shape(self, ndim: int) -> NoiseShape:
        return by_channel(ndim, self.axis)


def drop_path(
    x: Array,
    ratio: float,
    key: int,
    call: Any = 0,
    offset: Offset = 0,
    *,
    within: Sequence[int] | None = None,
    inverted: bool = False,
) -> Array:
    """Drop whole samples: `dropout` with one choice for each element of the first axis.

    Args: as for `dropout`. The gradient of y is `drop_path` of the gradient, with the same arguments.

    Source: Huang, Sun, Liu, Sedra and Weinberger, Deep networks with stochastic depth, 2016, section 3.
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
        seed: as for `Dropout`.

    Source: as for `drop_path`.
    """

    pure = "drop_path"
    arguments = ("inverted",)

    def __init__(self, dropout_ratio: float = 0.5, *, inverted: bool = False, seed: int | None = None) -> None:
        Layer.__init__(self, dropout_ratio, seed)  # Dropout's own would set a noise shape, too
        self.inverted = inverted

    def _noise_shape(self, ndim: int) -> NoiseShape:
        return by_sample(ndim)
