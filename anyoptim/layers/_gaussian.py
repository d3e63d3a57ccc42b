"""Gaussian dropout: products with normal numbers around 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from anyoptim._arrays import COMPUTE, Array, is_scalar
from anyoptim._arrays._checks import admit
from anyoptim._arrays._library import A
from anyoptim._arrays._out import copied_to, destination
from anyoptim._arrays._quiet import quiet
from anyoptim.layers._layer import UnaryLayer
from anyoptim.layers._masks import BELOW_ONE, INPUT, Noise, NoiseShape, Place, valid, widened
from anyoptim.random import normal
from anyoptim.random._dropout import EngineName
from anyoptim.random._place import Offset

__all__ = ["GaussianDropout", "gaussian_dropout"]

_REAL = {"complex64": "float32", "complex128": "float64"}


def gaussian_dropout(
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
    """Multiply each element of x by a normal number of mean 1, and the variance that inverted dropout has.

    ::

        y = x*(1 + sqrt(ratio/(1-ratio)) * z)          z standard normal: `anyoptim.random.normal`

    The gradient of y is `gaussian_dropout` of the gradient, with the same arguments.

    Args:
        x: any shape, real or complex floating. float16 and bfloat16 are computed in float32.
        ratio: at least 0 and below 1; for the rest as for `dropout`, as are key, call, offset, within and
            noise_shape.
        key: as there.
        call: as there.
        offset: as there.
        within: as there.
        noise_shape: as there.
        out: as there.

    Source: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting, 2014, section 10;
    with Keras's parameter.

    >>> ao.gaussian_dropout(np.ones(4), 0.5, key=3, call=0).round(3)
    array([ 0.523,  2.191, -0.011,  0.373])
    """
    arrays, a, _ = admit("x", x, INPUT)
    if out is not None:
        destination("out", out, "x", x)
    xp, at = arrays.xp, Place(key, call, offset, within)
    factor = _factor(tuple(a.shape), a, at, valid(BELOW_ONE, ratio), noise_shape)
    with quiet():
        wide = widened(arrays, arrays.load(x) if is_scalar(x) else x)
        y = wide * xp.astype(arrays.sharded_like(factor, a), wide.dtype, copy=False)
        y = xp.astype(y, a.dtype, copy=False)
    return arrays.rebound(x, y) if out is None else copied_to(arrays, out, y)  # type: ignore[no-any-return]


def _factor(shape: tuple[int, ...], like: Array, at: Place, ratio: float, noise_shape: NoiseShape) -> Array:
    """The factors of x, in the dtype that x is computed in; of a complex one, in that of its parts."""
    arrays, _, dtype = admit("x", like, INPUT)
    wide = COMPUTE[dtype]
    real = arrays.xp.zeros((0,), dtype=getattr(arrays.xp, _REAL.get(wide, wide)), device=arrays.creation_device(like))
    noise = Noise.of(shape, noise_shape, at)
    z = normal(noise.shape, at.key, at.call, noise.offset, within=noise.within, like=real)
    return 1 + math.sqrt(ratio / (1 - ratio)) * z


class GaussianDropout(UnaryLayer):
    """A layer that multiplies its input by normal numbers around 1 in training.

    ::

        forward, training    y = x*factor           factor = 1 + sqrt(dropout_ratio/(1-dropout_ratio)) * z
        forward, otherwise   y = x
        backward             dx = dout*factor

    Args:
        dropout_ratio: at least 0 and below 1: the factor has mean 1 and the variance that inverted dropout of this
            ratio has. A plain attribute.
        noise_shape: as for `Dropout`.
        seed: as for `Dropout`, as is engine.
        engine: as there.

    Source: as for `gaussian_dropout`.

    >>> ao.GaussianDropout(0.5, seed=3).forward(np.ones(4)).round(3)
    array([ 0.523,  2.191, -0.011,  0.373])
    """

    _domain = BELOW_ONE
    _pure: ClassVar[str] = "gaussian_dropout"
    _function = _gradient = staticmethod(gaussian_dropout)

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

    @property
    def mask(self) -> Array | None:
        """The factors of the last counted forward, one for each element; None before it. See also `Dropout.mask`."""
        return super().mask

    def _mask(
        self, shape: tuple[int, ...], like: Array, at: Place, ratio: float, noise_shape: NoiseShape = None, **_: Any
    ) -> Array:
        return _factor(shape, like, at, ratio, noise_shape)
