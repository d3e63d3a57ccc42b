"""What layers that draw have in common: a key, a count of calls, and the last draw."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from anyoptim._arrays import Array, Library, is_scalar, library
from anyoptim._arrays._checks import admit
from anyoptim._arrays._out import copied_to, destination
from anyoptim._trace._hyperparameters import Domain
from anyoptim._trace._scalars import integer
from anyoptim.layers._masks import INPUT, RATIO, Noise, NoiseShape, Place, kept
from anyoptim.random import spawn

__all__ = ["Draw", "Layer", "Sampled"]


class Draw(NamedTuple):
    """What it takes to draw again."""

    call: int
    options: Mapping[str, Any]
    shape: tuple[int, ...]
    like: Array


class Layer:
    """A layer that draws.

    Of its own it has `options`, what the functions take beside an array and a place.
    """

    domain: Domain = RATIO
    pure = "dropout"
    """The name of the function, for those who need it."""

    def __init__(self, dropout_ratio: float, seed: int | None) -> None:
        self.dropout_ratio = dropout_ratio
        self.key = integer("seed", int.from_bytes(os.urandom(8)) if seed is None else seed)
        self.calls = 0
        self._last: Draw | None = None

    @property
    def dropout_ratio(self) -> float:
        """The share to drop."""
        return self._ratio

    @dropout_ratio.setter
    def dropout_ratio(self, value: float) -> None:
        self.domain.value("dropout_ratio", value)
        self._ratio = value

    def state_dict(self) -> dict[str, Any]:
        """The layer's place in its stream, its key and the number of calls made, and its ratio."""
        return {"key": self.key, "calls": self.calls, "dropout_ratio": self.dropout_ratio}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, of a layer that was made in the same way: the next mask is the next mask.

        Raises TypeError and ValueError for what is no such state.
        """
        if not isinstance(state, Mapping) or set(state) != {"key", "calls", "dropout_ratio"}:
            raise ValueError(f"state is {state!r}; wanted a dict with calls, dropout_ratio and key")
        key, calls = integer("state['key']", state["key"]), integer("state['calls']", state["calls"])
        ratio = self.domain.value("state['dropout_ratio']", state["dropout_ratio"])
        self.key, self.calls, self.dropout_ratio, self._last = key, calls, ratio, None

    @property
    def mask(self) -> Array | None:
        """True where the last counted forward kept an element; None before it.

        Of the shape that was drawn, which has 1 for what shares it; of the library of its x and on its device (on
        one, where x lay on several).
        """
        draw = self._last
        if draw is None:
            return None
        return self._mask(draw.shape, draw.like, Place(self.key, draw.call, 0, None), **draw.options)

    def _options(self, ndim: int) -> dict[str, Any]:
        """What the function takes, for an x of so many axes."""
        return {"ratio": self.dropout_ratio, "noise_shape": self._noise_shape(ndim)}

    def _noise_shape(self, ndim: int) -> NoiseShape:
        return None

    def _mask(
        self, shape: tuple[int, ...], like: Array, at: Place, ratio: float, noise_shape: NoiseShape = None, **_: Any
    ) -> Array:
        return kept(Noise.of(shape, noise_shape, at), ratio, at, like)

    def _counted(
        self, arrays: Library, x: Array, a: Array, name: str, forward: Callable[[dict[str, Any]], Array]
    ) -> Array:
        """What a function of key, call and options gives for the next call: which is then the last."""
        self._known(arrays, name, x)
        draw = Draw(self.calls, self._options(a.ndim), tuple(a.shape), self._like(arrays, a))
        y = forward({"key": self.key, "call": draw.call, **draw.options})
        self._last = draw
        self._count()
        return y

    def _like(self, arrays: Library, a: Array) -> Array:
        """An array of no elements, of the library and on the device of `a`."""
        last = self._last
        if last is not None and library(last.like) is arrays and arrays.device(last.like) == arrays.creation_device(a):
            return last.like
        return arrays.xp.zeros((0,), dtype=a.dtype, device=arrays.creation_device(a))

    def _count(self) -> None:
        self.calls += 1

    def _named(self, arrays: Library, x: Array, a: Array, name: str, call: Any) -> dict[str, Any]:
        """The arguments for a call that the user names."""
        _recorded(arrays, name, x)
        return {"key": self.key, "call": call, **self._options(a.ndim)}

    def _again(self, dout: Array, call: Any) -> dict[str, Any]:
        """The arguments of the forward that this is the gradient for. Raises as `backward` says."""
        arrays, a, _ = admit("dout", dout, INPUT)
        if call is not None:
            return self._named(arrays, dout, a, "dout", call)
        draw = self._last
        if draw is None:
            raise RuntimeError("backward came before the first forward(x, training=True); there is no mask yet")
        self._known(arrays, "dout", dout)
        shape = tuple(a.shape)
        if shape != draw.shape:
            raise ValueError(f"dout has shape {shape} but the last training forward's x had shape {draw.shape}")
        return {"key": self.key, "call": draw.call, **draw.options}

    def _sampled(self, arrays: Library, x: Array, a: Array, name: str, call: Any) -> dict[str, Any]:
        return {**self._named(arrays, x, a, name, call), "key": spawn(self.key, 0)}

    def _known(self, arrays: Library, name: str, x: Array) -> None:
        if arrays.traced(x):
            raise TypeError(
                f"{name} is traced, and the layer's count of calls would be frozen into the transformed function, the "
                "same mask for ever; wanted call=, the number of the draw, which may be traced, or the pure form: "
                f"anyoptim.{self.pure}(x, ratio, key, call)"
            )
        _recorded(arrays, name, x)


class Sampled(Layer):
    """A layer of one input, of a function and one for its gradient."""

    _function: Callable[..., Array]
    _gradient: Callable[..., Array]

    def forward(self, x: Array, training: bool = True, call: Any = None, *, out: Array | None = None) -> Array:
        """The layer's output: drawn in training, what is expected of it otherwise.

        Args:
            x: any shape; the result has its library, device, shape and dtype, and x is not written to, unless it is
                `out`.
            training: otherwise nothing is drawn.
            call: the draw, 0 <= call < 2**64, or a 0-d integer array, which `jax.jit` may trace. Without one it is
                the next of the layer, which counts it. With one the layer is a function: it counts and remembers
                nothing, and `backward` wants the same call.
            out: where to write the result: x itself, or an array like it that shares no memory with it.

        Raises TypeError for an x that is no real or complex floating array, or that is traced (as under
        `jax.jit`) in training without a call: the count would be frozen.
        """
        if training and call is None and out is None:
            y = self._quick_forward(x)
            if y is not None:
                return y
        arrays, a, _ = admit("x", x, INPUT)
        if not training:
            if out is not None:
                destination("out", out, "x", x)
            y = self._rest(arrays, x)
            return y if out is None else copied_to(arrays, out, y)
        if call is not None:
            return self._function(x, **self._named(arrays, x, a, "x", call), out=out)
        return self._counted(arrays, x, a, "x", lambda arguments: self._function(x, **arguments, out=out))

    def backward(self, dout: Array, call: Any = None, *, out: Array | None = None) -> Array:
        """The gradient of a training forward's input, given that of its output.

        Args:
            dout: of the shape of that input and any floating dtype and memory order; the result is like it.
            call: that of the forward, if it had one: with the ratio as it is now. Without it, the last that was
                counted, with the ratio as it was.
            out: as for `forward`.

        Raises RuntimeError before the first training forward, ValueError for another shape.
        """
        if call is None and out is None:
            dx = self._quick_backward(dout)
            if dx is not None:
                return dx
        arguments = self._again(dout, call)
        if out is not None:
            destination("out", out, "dout", dout)
        return self._gradient(dout, **arguments, out=out)

    def sample(self, x: Array, call: Any) -> Array:
        """The output as in training, for predictions that differ by what they drew: Monte Carlo dropout.

        It is drawn under another key than in training, `anyoptim.random.spawn(layer.key, 0)`; the layer counts and
        remembers nothing, so that training goes on as if it had not been asked. Equal calls give equal samples.

        Args:
            x: as for `forward`.
            call: which sample, 0 <= call < 2**64, or a 0-d integer array, which `jax.jit` may trace.

        Source: Gal and Ghahramani, Dropout as a Bayesian approximation, 2016, section 3.
        """
        arrays, a, _ = admit("x", x, INPUT)
        return self._function(x, **self._sampled(arrays, x, a, "x", call))

    def _rest(self, arrays: Library, x: Array) -> Array:
        return x

    def _quick_forward(self, x: Array) -> Array | None:
        """The counted forward of what needs no checks; None for all else."""
        return None

    def _quick_backward(self, dout: Array) -> Array | None:
        return None


def _recorded(arrays: Library, name: str, x: Array) -> None:
    number = arrays.cuda(x) if not is_scalar(x) else None
    if number is not None and arrays.capturing(number):
        raise RuntimeError(
            f"{name} is being captured in a CUDA graph, whose replays would draw the same mask for ever; "
            "wanted the layer outside of the graph"
        )
