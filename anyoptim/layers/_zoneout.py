"""Zoneout: elements of a recurrent state that stay as they were."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from anyoptim._arrays import Array, Library, is_scalar
from anyoptim._arrays._checks import admit
from anyoptim._arrays._library import A
from anyoptim._arrays._quiet import quiet
from anyoptim.layers._layer import Layer, flag, spelt
from anyoptim.layers._masks import INPUT, RATIO, Noise, NoiseShape, Place, kept, valid, widened
from anyoptim.random._dropout import EngineName, on_engine
from anyoptim.random._place import Offset

__all__ = ["Zoneout", "zoneout", "zoneout_gradient"]


def zoneout(
    h_prev: A,
    h_new: A,
    ratio: float,
    key: int,
    call: Any = 0,
    offset: Offset = 0,
    *,
    within: Sequence[int] | None = None,
    noise_shape: NoiseShape = None,
) -> A:
    """Let each element of a recurrent state stay as it was with probability `ratio`.

    ::

        h = mask*h_prev + (1-mask)*h_new            mask = 1 where bernoulli(ratio), else 0

    Each element is one of the two, as it is, be the other infinite or NaN.

    Args:
        h_prev: the state before, of any shape, real or complex floating.
        h_new: the state after, of the same library, shape and dtype.
        ratio: the share that stays, 0 to 1, to the nearest 2**-32.
        key: as for `dropout`, as are call, offset, within and noise_shape.
        call: as there.
        offset: as there.
        within: as there.
        noise_shape: as there.

    The gradients are those of `zoneout_gradient` with the same arguments.

    Source: Krueger et al., Zoneout: regularizing RNNs by randomly preserving hidden activations, 2017, section 3.

    >>> ao.zoneout(np.zeros(8), np.ones(8), 0.5, key=3, call=0)
    array([1., 0., 1., 1., 0., 0., 1., 0.])
    """
    arrays, a = _pair(h_prev, h_new)
    mask = _kept(arrays, a, valid(RATIO, ratio), Place(key, call, offset, within), noise_shape)
    before, after = (arrays.load(h) if is_scalar(h) else h for h in (h_prev, h_new))
    chosen = arrays.xp.astype(arrays.array(arrays.xp.where(mask, after, before)), a.dtype, copy=False)
    return arrays.rebound(h_new, chosen)  # type: ignore[no-any-return] # of the type that was given


def zoneout_gradient(
    dout: A,
    ratio: float,
    key: int,
    call: Any = 0,
    offset: Offset = 0,
    *,
    within: Sequence[int] | None = None,
    noise_shape: NoiseShape = None,
) -> tuple[A, A]:
    """The gradients of `h_prev` and `h_new`, given that of h, with these arguments: `dout` where h is one, 0 elsewhere.

    Returns:
        Two arrays like `dout`.

    >>> ao.zoneout_gradient(np.ones(4), 0.5, key=3, call=0)
    (array([0., 1., 0., 0.]), array([1., 0., 1., 1.]))
    """
    arrays, a, _ = admit("dout", dout, INPUT)
    mask = _kept(arrays, a, valid(RATIO, ratio), Place(key, call, offset, within), noise_shape)
    gradient = arrays.load(dout) if is_scalar(dout) else dout
    zeros = arrays.xp.zeros_like(gradient)
    pairs = (zeros, gradient), (gradient, zeros)
    before, after = (arrays.rebound(dout, arrays.array(arrays.xp.where(mask, *pair))) for pair in pairs)
    return before, after


class Zoneout(Layer):
    """A layer that lets elements of a recurrent state stay as they were.

    ::

        forward, training    h = mask*h_prev + (1-mask)*h_new      mask: 1 with probability dropout_ratio, else 0
        forward, otherwise   h = ratio*h_prev + (1-ratio)*h_new    with ratio = dropout_ratio
        backward             dh_prev = mask*dout,  dh_new = (1-mask)*dout

    Each step has a mask of its own. T steps through time, forwards and then backwards, name their draws, as for
    `Dropout`: `forward(h_prev, h_new, call=n)` and `backward(dout, call=n)` with n = layer.calls + t for step t, and
    `layer.calls += T` in the end. An LSTM has one layer for its cell and one for its state.

    Args:
        dropout_ratio: the share that stays, 0 to 1. A plain attribute.
        noise_shape: as for `Dropout`.
        seed: as for `Dropout`, as is engine.
        engine: as there.

    Source: as for `zoneout`.

    >>> ao.Zoneout(0.5, seed=3).forward(np.zeros(8), np.ones(8))
    array([1., 0., 1., 1., 0., 0., 1., 0.])
    """

    _pure: ClassVar[str] = "zoneout"

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

    def forward(
        self,
        h_prev: A,
        h_new: A,
        training: bool = True,
        call: Any = None,
        *,
        train_flg: bool | None = None,
        train_flag: bool | None = None,
    ) -> A:
        """The state: drawn in training, what is expected of it otherwise.

        Args:
            h_prev: the state before.
            h_new: the state after, of the same library, shape and dtype; the result is like it.
            training: True or False; if it is False, nothing is drawn.
            call: as for `Dropout.forward`.
            train_flg: `training`, as textbooks call it, which is then left out.
            train_flag: the same.

        Raises like `Dropout.forward`, and where the two are no pair.
        """
        if train_flg is not None or train_flag is not None:
            training = spelt(training, train_flg, train_flag)
        arrays, a = _pair(h_prev, h_new)
        if not flag("training", training):
            return _mean(arrays, h_prev, h_new, RATIO.value("dropout_ratio", self.dropout_ratio))  # type: ignore[no-any-return]
        if call is not None:
            return on_engine(self.engine, zoneout, h_prev, h_new, **self._arguments(arrays, h_new, a, "h_new", call))  # type: ignore[no-any-return]
        self._refuse_traced(arrays, "h_prev", h_prev)
        return self._counted(arrays, h_new, a, "h_new", partial(on_engine, self.engine, zoneout, h_prev, h_new))  # type: ignore[no-any-return]

    def backward(self, dout: A, call: Any = None) -> tuple[A, A]:
        """The gradients of `h_prev` and `h_new`, given that of the state. For the rest as `Dropout.backward`."""
        return on_engine(self.engine, zoneout_gradient, dout, **self._gradient_arguments(dout, call))

    def sample(self, h_prev: A, h_new: A, call: Any) -> A:
        """The state as in training, drawn under another key: as `Dropout.sample`."""
        arrays, a = _pair(h_prev, h_new)
        return on_engine(self.engine, zoneout, h_prev, h_new, **self._sample_arguments(arrays, h_new, a, "h_new", call))  # type: ignore[no-any-return]

    @property
    def mask(self) -> Array | None:
        """True where the last counted forward took the new element; None before it. See also `Dropout.mask`."""
        return super().mask


def _pair(h_prev: Array, h_new: Array) -> tuple[Library, Array]:
    """The library of both states, and the new one as an array. Raises TypeError and ValueError."""
    other, b, before = admit("h_prev", h_prev, INPUT)
    arrays, a, after = admit("h_new", h_new, INPUT)
    if other is not arrays or is_scalar(h_prev) != is_scalar(h_new):
        raise TypeError(
            f"h_prev is a {type(h_prev).__name__} of {other.name} but h_new is a {type(h_new).__name__} of "
            f"{arrays.name}; wanted two of a kind"
        )
    if tuple(a.shape) != tuple(b.shape):
        raise ValueError(f"h_prev has shape {tuple(b.shape)} but h_new has shape {tuple(a.shape)}")
    if before != after:
        raise TypeError(f"h_prev has dtype {before} but h_new has dtype {after}; wanted one")
    return arrays, a


def _kept(arrays: Library, a: Array, ratio: float, at: Place, noise_shape: NoiseShape) -> Array:
    return arrays.sharded_like(kept(Noise.of(tuple(a.shape), noise_shape, at), ratio, at, a), a)


def _mean(arrays: Library, h_prev: Array, h_new: Array, ratio: float) -> Array:
    xp = arrays.xp
    before, after = (arrays.load(h) if is_scalar(h) else h for h in (h_prev, h_new))
    with quiet():
        wide = widened(arrays, before) * ratio + widened(arrays, after) * (1 - ratio)
        return arrays.rebound(h_new, xp.astype(wide, after.dtype, copy=False))
