"""Alpha dropout: for self-normalizing networks, whose mean and variance it keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from anyoptim._arrays import is_scalar
from anyoptim._arrays._checks import admit
from anyoptim._arrays._library import A
from anyoptim._arrays._out import copied_to, destination
from anyoptim._arrays._quiet import quiet
from anyoptim.layers._layer import UnaryLayer
from anyoptim.layers._masks import INPUT, RATIO, Noise, NoiseShape, Place, by_channel, kept, product, valid, widened
from anyoptim.random._dropout import EngineName
from anyoptim.random._place import Offset

__all__ = ["AlphaDropout", "FeatureAlphaDropout", "alpha_dropout", "alpha_dropout_gradient", "feature_alpha_dropout"]

_ALPHA = 1.7580993408473766
"""SELU's scale times its alpha: minus what it gives for minus infinity."""


def _slope(ratio: float) -> float:
    return 1 / math.sqrt((1 - ratio) * (1 + ratio * _ALPHA * _ALPHA)) if ratio < 1 else 0.0


def alpha_dropout(
    x: A,
    ratio: float,
    key: int,
    call: Any = 0,
    offset: Offset = 0,
    *,
    within: Sequence[int] | None = None,
    noise_shape: NoiseShape = None,
    out: A | None = None,
) -> A:
    """Set each element of x to SELU's smallest value with probability `ratio`, and keep mean and variance.

    ::

        y = a*(x*mask - alpha*(1-mask)) + b      a = 1 / sqrt((1-ratio) * (1 + ratio*alpha**2)),  b = a*ratio*alpha

    with alpha = 1.7580993408473766, and mask as for `dropout`: the definition of torch and Keras. It is computed as
    x*(a*mask), plus b where an element is kept and b - a*alpha where not. With ratio 1 all is 0, as in torch.

    Args:
        x: real floating; for the rest as for `dropout`, as are key, call, offset, within and noise_shape.
        ratio: the share to set, 0 to 1, to the nearest 2**-32.
        key: as there.
        call: as there.
        offset: as there.
        within: as there.
        noise_shape: as there.
        out: as there.

    The gradient is `alpha_dropout_gradient` with the same arguments.

    Source: Klambauer, Unterthiner, Mayr and Hochreiter, Self-normalizing neural networks, 2017, section "New dropout
    technique".

    >>> ao.alpha_dropout(np.zeros(4), 0.5, key=3, call=0).round(3)
    array([ 0.779, -0.779,  0.779,  0.779])
    """
    arrays, a, dtype = admit("x", x, INPUT)
    if dtype.startswith("complex"):
        raise TypeError(f"x has dtype {dtype}; wanted a real one, as SELU does")
    if out is not None:
        destination("out", out, "x", x)
    ratio, at = valid(RATIO, ratio), Place(key, call, offset, within)
    slope = _slope(ratio)
    up = slope * _ALPHA * ratio
    down = up - slope * _ALPHA
    shape = tuple(a.shape)
    mask = arrays.sharded_like(kept(Noise.of(shape, noise_shape, at), ratio, at, a), a)
    with quiet():
        wide = widened(arrays, arrays.load(x) if is_scalar(x) else x)
        shift = arrays.xp.where(mask, *(arrays.scalar(value, wide.dtype, a) for value in (up, down)))
        y = wide * (arrays.xp.astype(mask, wide.dtype) * slope) + shift
        y = arrays.xp.astype(y, a.dtype, copy=False)
    return arrays.rebound(x, y) if out is None else copied_to(arrays, out, y)  # type: ignore[no-any-return]


def alpha_dropout_gradient(
    dout: A,
    ratio: float,
    key: int,
    call: Any = 0,
    offset: Offset = 0,
    *,
    within: Sequence[int] | None = None,
    noise_shape: NoiseShape = None,
    out: A | None = None,
) -> A:
    """The gradient of the x of `alpha_dropout` with these arguments, given that of its y: `dout*(a*mask)`.

    >>> ao.alpha_dropout_gradient(np.ones(4), 0.5, key=3, call=0).round(3)
    array([0.886, 0.   , 0.886, 0.886])
    """
    arrays, _, _ = admit("dout", dout, INPUT)
    ratio = valid(RATIO, ratio)
    return product(arrays, dout, ratio, _slope(ratio), Place(key, call, offset, within), noise_shape, out)  # type: ignore[no-any-return]


class AlphaDropout(UnaryLayer):
    """A layer that sets elements to SELU's smallest value in training, and keeps mean 0 and variance 1.

    ::

        forward, training    y = a*(x*mask - alpha*(1-mask)) + b          as `alpha_dropout`
        forward, otherwise   y = x
        backward             dx = dout*(a*mask)

    Args:
        dropout_ratio: the share to set, 0 to 1. A plain attribute.
        noise_shape: as for `Dropout`.
        seed: as for `Dropout`, as is engine.
        engine: as there.

    Source: as for `alpha_dropout`.

    >>> ao.AlphaDropout(0.5, seed=3).forward(np.zeros(4)).round(3)
    array([ 0.779, -0.779,  0.779,  0.779])
    """

    _pure: ClassVar[str] = "alpha_dropout"
    _fused = True  # its backward
    _function = staticmethod(alpha_dropout)
    _gradient = staticmethod(alpha_dropout_gradient)

    def __init__(
        self,
        dropout_ratio: float = 0.5,
        *,
        noise_shape: NoiseShape = None,
        seed: int | None = None,
        engine: EngineName | None = None,
    ) -> None:
        super().__init__(dropout_ratio, seed, engine)
        self.noise_shape = noise_shape


def feature_alpha_dropout(
    x: A,
    ratio: float,
    key: int,
    call: Any = 0,
    offset: Offset = 0,
    *,
    within: Sequence[int] | None = None,
    axis: int = 1,
) -> A:
    """Alpha dropout of whole channels: `alpha_dropout` with one choice for each sample and channel.

    Args: as for `alpha_dropout`, and axis as for `spatial_dropout`. The gradient is `alpha_dropout_gradient` with
    noise_shape 1 for the other axes.

    Source: as for `alpha_dropout` and `spatial_dropout`; torch has this name for both at once.

    >>> ao.feature_alpha_dropout(np.zeros((1, 4, 1)), 0.5, key=3, call=0).round(3)[0, :, 0]
    array([ 0.779, -0.779,  0.779,  0.779])
    """
    _, a, _ = admit("x", x, INPUT)
    shape = by_channel(a.ndim, axis)
    return alpha_dropout(x, ratio, key, call, offset, within=within, noise_shape=shape)


class FeatureAlphaDropout(UnaryLayer):
    """Alpha dropout of whole channels.

    ::

        forward, training    y = a*(x*mask - alpha*(1-mask)) + b          mask of shape (samples, channels, 1, ...)
        forward, otherwise   y = x
        backward             dx = dout*(a*mask)

    Args:
        dropout_ratio: the share of channels to set, 0 to 1. A plain attribute.
        axis: that of the channels, as for `SpatialDropout`.
        seed: as for `Dropout`, as is engine.
        engine: as there.

    Source: as for `feature_alpha_dropout`.

    >>> ao.FeatureAlphaDropout(0.5, seed=3).forward(np.zeros((1, 4, 1))).round(3)[0, :, 0]
    array([ 0.779, -0.779,  0.779,  0.779])
    """

    _pure: ClassVar[str] = "feature_alpha_dropout"
    _fused = True  # its backward
    _attributes: ClassVar[tuple[str, ...]] = ("axis",)
    _function = staticmethod(alpha_dropout)
    _gradient = staticmethod(alpha_dropout_gradient)

    def __init__(
        self,
        dropout_ratio: float = 0.5,
        *,
        axis: int = 1,
        seed: int | None = None,
        engine: EngineName | None = None,
    ) -> None:
        super().__init__(dropout_ratio, seed, engine)
        self.axis = axis

    def _noise_shape(self, ndim: int) -> NoiseShape:
        return by_channel(ndim, self.axis)
