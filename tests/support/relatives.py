"""The table of layers that draw: how each is made, what it computes in NumPy's own arithmetic, and what is expected."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import anyoptim as ao
from anyoptim.layers import Layer
from anyoptim.random import normal
from tests.reference.philox import choice

ALPHA = 1.0507009873554804934193349852946 * 1.6732632423543772848170429916717

DISCOVERED = {name: value for name, value in vars(ao).items() if isinstance(value, type) and issubclass(value, Layer)}


def _kept(shape: tuple[int, ...], ratio: float, key: int, call: int) -> Any:
    """The mask, True where an element is kept, from Python's own integers."""
    choices = [choice(i, key, call) for i in range(math.prod(shape))]
    return np.array([c >= ratio * 2**32 for c in choices], bool).reshape(shape)


def _all(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


def _channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n if k < 2 else 1 for k, n in enumerate(shape))


def _last(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n if k in {0, len(shape) - 1} else 1 for k, n in enumerate(shape))


def _samples(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if k else n for k, n in enumerate(shape))


def _middle(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if k == 1 else n for k, n in enumerate(shape))


@dataclass(frozen=True)
class Variant:
    """One layer, with one choice of its options."""

    make: Callable[[float, int], Any]
    function: Callable[..., Any]
    """The pure function of inputs, ratio and place."""
    gradient: Callable[..., Any]
    noise: Callable[[tuple[int, ...]], tuple[int, ...]]
    """The shape of the random numbers that are drawn for an input of a shape."""
    forward: Callable[..., Any]
    """The equation in the dtype of its inputs: a function of the inputs, the random numbers (`drawn`) and the ratio."""
    backward: Callable[..., Any]
    rest: Callable[..., Any]
    moments: Callable[..., tuple[float, float, float]]
    """The mean, variance and fourth central moment of an output of these inputs."""
    drawn: Callable[..., Any] = _kept
    inputs: int = 1
    complex: bool = True


def _two(kept: float, dropped: float, ratio: float) -> tuple[float, float, float]:
    """The moments of a variable that is one of two numbers."""
    mean = (1 - ratio) * kept + ratio * dropped
    variance, fourth = ((1 - ratio) * (kept - mean) ** k + ratio * (dropped - mean) ** k for k in (2, 4))
    return mean, variance, fourth


def _classic(make: Callable[..., Any], function: Any, noise: Any, **options: Any) -> Variant:
    def bound(*arguments: Any, **more: Any) -> Any:
        return function(*arguments, **options, **more)

    return Variant(
        make=lambda ratio, seed: make(ratio, seed=seed),
        function=bound,
        gradient=bound,
        noise=noise,
        forward=lambda x, m, ratio: x * m.astype(x.dtype),
        backward=lambda d, m, ratio: d * m.astype(d.dtype),
        rest=lambda x, ratio: x * (1 - ratio),
        moments=lambda x, ratio: _two(x, 0.0, ratio),
    )


def _inverted(make: Callable[..., Any], function: Any, noise: Any, **options: Any) -> Variant:
    def bound(*arguments: Any, **more: Any) -> Any:
        return function(*arguments, inverted=True, **options, **more)

    def product(x: Any, m: Any, ratio: float) -> Any:
        return x * (m.astype(x.dtype) * (1 / (1 - ratio)))

    return Variant(
        make=lambda ratio, seed: make(ratio, seed=seed, inverted=True),
        function=bound,
        gradient=bound,
        noise=noise,
        forward=product,
        backward=product,
        rest=lambda x, ratio: x,
        moments=lambda x, ratio: _two(x / (1 - ratio), 0.0, ratio),
    )


def _slope(ratio: float) -> float:
    return 1 / math.sqrt((1 - ratio) * (1 + ratio * ALPHA * ALPHA))


def _alpha(make: Callable[..., Any], function: Any, gradient: Any, noise: Any, **options: Any) -> Variant:
    def forward(x: Any, m: Any, ratio: float) -> Any:
        a = _slope(ratio)
        b = x.dtype.type(a * ALPHA * ratio)
        c = x.dtype.type(a * ALPHA * ratio - a * ALPHA)
        return x * (m.astype(x.dtype) * a) + np.where(m, b, c)

    def moments(x: float, ratio: float) -> tuple[float, float, float]:
        a = _slope(ratio)
        return _two(a * x + ratio * ALPHA * a, -ALPHA * a + ratio * ALPHA * a, ratio)

    return Variant(
        make=make,
        function=lambda *arguments, **more: function(*arguments, **options, **more),
        gradient=gradient,
        noise=noise,
        forward=forward,
        backward=lambda d, m, ratio: d * (m.astype(d.dtype) * _slope(ratio)),
        rest=lambda x, ratio: x,
        moments=moments,
        complex=False,
    )


def _channel_gradient(dout: Any, *arguments: Any, **more: Any) -> Any:
    shape = (None, None, *(1,) * (len(dout.shape) - 2))
    return ao.alpha_dropout_gradient(dout, *arguments, noise_shape=shape, **more)


def _gaussian(noise: Any, noise_shape: Any) -> Variant:
    def function(*arguments: Any, **more: Any) -> Any:
        return ao.gaussian_dropout(*arguments, noise_shape=noise_shape, **more)

    def product(x: Any, z: Any, ratio: float) -> Any:
        real = np.zeros(0, x.dtype).real.dtype
        return x * (1 + math.sqrt(ratio / (1 - ratio)) * z.astype(real)).astype(x.dtype)

    return Variant(
        make=lambda ratio, seed: ao.GaussianDropout(ratio, noise_shape=noise_shape, seed=seed),
        function=function,
        gradient=function,
        noise=noise,
        forward=product,
        backward=product,
        rest=lambda x, ratio: x,
        moments=lambda x, ratio: (x, x * x * ratio / (1 - ratio), 3 * (x * x * ratio / (1 - ratio)) ** 2),
        drawn=lambda shape, ratio, key, call: normal(shape, key, call, like=np.empty(0)),
    )


def _zoneout(noise: Any, noise_shape: Any) -> Variant:
    return Variant(
        make=lambda ratio, seed: ao.Zoneout(ratio, noise_shape=noise_shape, seed=seed),
        function=lambda *arguments, **more: ao.zoneout(*arguments, noise_shape=noise_shape, **more),
        gradient=lambda *arguments, **more: ao.zoneout_gradient(*arguments, noise_shape=noise_shape, **more),
        noise=noise,
        forward=lambda h, x, m, ratio: np.where(m, x, h),
        backward=lambda d, m, ratio: (np.where(m, d.dtype.type(0), d), np.where(m, d, d.dtype.type(0))),
        rest=lambda h, x, ratio: h * ratio + x * (1 - ratio),
        moments=lambda h, x, ratio: _two(x, h, ratio),
        inputs=2,
    )


VARIANTS: dict[str, Variant] = {
    "Dropout": _classic(ao.Dropout, ao.dropout, _all),
    "Dropout, inverted": _inverted(ao.Dropout, ao.dropout, _all),
    "Dropout, noise_shape": _inverted(
        lambda ratio, **more: ao.Dropout(ratio, noise_shape=(None, 1, 3), **more),
        ao.dropout,
        _middle,
        noise_shape=(None, 1, None),
    ),
    "SpatialDropout": _classic(ao.SpatialDropout, ao.spatial_dropout, _channels),
    "SpatialDropout, channels last": _inverted(
        lambda ratio, **more: ao.SpatialDropout(ratio, axis=-1, **more), ao.spatial_dropout, _last, axis=-1
    ),
    "DropPath": _classic(ao.DropPath, ao.drop_path, _samples),
    "DropPath, inverted": _inverted(ao.DropPath, ao.drop_path, _samples),
    "DropConnect": _classic(ao.DropConnect, ao.dropout, _all),
    "VariationalDropout": _inverted(ao.VariationalDropout, ao.dropout, _all),
    "AlphaDropout": _alpha(
        lambda ratio, seed: ao.AlphaDropout(ratio, seed=seed), ao.alpha_dropout, ao.alpha_dropout_gradient, _all
    ),
    "FeatureAlphaDropout": _alpha(
        lambda ratio, seed: ao.FeatureAlphaDropout(ratio, seed=seed),
        ao.feature_alpha_dropout,
        _channel_gradient,
        _channels,
    ),
    "GaussianDropout": _gaussian(_all, None),
    "GaussianDropout, noise_shape": _gaussian(_samples, (None, 1, 1)),
    "Zoneout": _zoneout(_all, None),
    "Zoneout, noise_shape": _zoneout(_middle, (None, 1, None)),
}
