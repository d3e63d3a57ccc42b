"""What all layers that draw random numbers share: a key, a count of their calls, and the last draw."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from anyoptim._arrays import Array, Library, is_scalar, library
from anyoptim._arrays._checks import admit
from anyoptim._arrays._library import A
from anyoptim._arrays._out import copied_to, destination
from anyoptim._trace._hyperparameters import Domain
from anyoptim._trace._other_names import argument_hint, attribute_hint
from anyoptim._trace._scalars import integer
from anyoptim.layers._masks import INPUT, RATIO, Noise, NoiseShape, Place, kept, shared, signed_integer
from anyoptim.random import spawn
from anyoptim.random._dropout import EngineName, check_engine, on_engine, precompile
from anyoptim.random._lookahead import Lookahead

__all__ = ["Draw", "Draws", "Layer", "UnaryLayer", "flag", "spelt"]


class Draw(NamedTuple):
    """A counted forward, as far as its random numbers go: enough to draw them again."""

    key: int
    call: int
    options: Mapping[str, Any]
    """The ratio and the other keyword arguments that the pure function was called with."""
    shape: tuple[int, ...]
    """The shape of the input."""
    like: Array
    """An array without elements, of the input's library and on its device."""


class Draws:
    """The counted forwards of a layer: how many there were, and the last."""

    # An object of its own, because assignments to a layer are checked, which a small array's forward would notice.
    __slots__ = ("ahead", "now")

    def __init__(self) -> None:
        self.now: tuple[int, Draw | None] = 0, None
        """Both in one, so that no exception comes between them."""
        self.ahead = Lookahead()

    @property
    def calls(self) -> int:
        """How many there were."""
        return self.now[0]

    @property
    def last(self) -> Draw | None:
        """The last one."""
        return self.now[1]


class Layer:
    """A layer that draws random numbers for its input, others in each training forward.

    >>> layer = ao.Dropout(0.5, seed=3)
    >>> isinstance(layer, ao.layers.Layer), layer.calls, layer.key
    (True, 0, 3)
    """

    _domain: ClassVar[Domain] = RATIO
    """The ratios that this class allows."""
    _pure: ClassVar[str] = "dropout"
    """The name of the pure function in `anyoptim`, for messages."""
    _attributes: ClassVar[tuple[str, ...]] = ("noise_shape",)
    """The constructor's arguments between the ratio and the seed, which are attributes of these names."""
    noise_shape: NoiseShape
    _counts: ClassVar[int] = 1
    """By how much a forward advances the count of calls."""
    _fused: ClassVar[bool] = False
    """Whether an engine has a kernel of its forward or backward, where each element has a choice of its own."""

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Raise TypeError, with what is meant here, for arguments that layers have elsewhere."""
        for name in options.keys() - {"dropout_ratio", *cls._attributes, "seed", "engine"}:
            taken = signature(cls.__init__, follow_wrapped=False).parameters
            if name not in taken and all(of.kind is not of.VAR_KEYWORD for of in taken.values()):
                wanted = ", ".join([*taken][1:])
                raise TypeError(f"{cls.__name__} was given {name}; wanted {wanted}{argument_hint(name, taken)}")
        return super().__new__(cls)

    def __init__(self, dropout_ratio: float, seed: int | None, engine: EngineName | None = None) -> None:
        self.dropout_ratio = dropout_ratio
        self.engine: EngineName | None = engine
        self.key: int = integer("seed", int.from_bytes(os.urandom(8)) if seed is None else seed)
        self._draws = Draws()

    if not TYPE_CHECKING:  # it would hide misspelt names from those who check types

        def __setattr__(self, name: str, value: Any) -> None:
            attributes = ("dropout_ratio", *self._attributes, "engine", "key", "calls")
            if name in attributes:
                value = _CHECKS[name](name, value) if name in _CHECKS else value
            elif not name.startswith("_") and not hasattr(type(self), name):
                # A misspelt attribute would be ignored in silence.
                hint = attribute_hint(type(self), name)
                raise AttributeError(
                    f"{type(self).__name__} has no {name!r}; its attributes are {', '.join(attributes)}{hint}"
                )
            super().__setattr__(name, value)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or hasattr(type(self), name):
                return object.__getattribute__(self, name)  # a property that raises says itself why
            message = f"{type(self).__name__} has no {name!r}{attribute_hint(type(self), name)}"
            raise AttributeError(message, name=name, obj=self)

    def __repr__(self) -> str:
        """The call that makes a layer like this one; an argument that is None is left out."""
        values = [(name, getattr(self, name)) for name in self._attributes]
        shown = "".join(f", {name}={value!r}" for name, value in values if value is not None)
        return f"{type(self).__name__}({self.dropout_ratio!r}{shown}, seed={self.key})"

    def __copy__(self) -> Self:
        return deepcopy(self)  # two layers with one count would draw each other's masks

    @property
    def calls(self) -> int:
        """The number of counted forwards, which is the call of the next one."""
        return self._draws.calls

    @calls.setter
    def calls(self, value: int) -> None:
        self._draws.now = value, self._draws.last

    @property
    def dropout_ratio(self) -> float:
        """The share to drop."""
        return self._ratio

    @dropout_ratio.setter
    def dropout_ratio(self, value: float) -> None:
        self._domain.value("dropout_ratio", value)
        self._ratio = value

    def state_dict(self) -> dict[str, Any]:
        """All that decides which mask comes next, fit for JSON: class, arguments, key, calls made and ratio."""
        return {**self._kind(), "key": self.key, "calls": self.calls, "dropout_ratio": self.dropout_ratio}

    def _kind(self) -> dict[str, Any]:
        """The part of the state that must be that of the layer it is loaded into."""
        arguments = {name: getattr(self, name) for name in self._attributes}
        return {"layer": type(self).__name__, **{name: _listed(value) for name, value in arguments.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, of a layer that was made in the same way: the next mask is the next mask.

        Raises TypeError and ValueError for what is no such state, and for the state of another kind of layer: of
        another class, or with another `inverted`, `noise_shape` or `axis`.
        """
        ours = self.state_dict()
        if not isinstance(state, Mapping):
            raise ValueError(f"state is {state!r}; wanted a dict with {', '.join(ours)}")
        for name, value in self._kind().items():
            if name in state and repr(_listed(state[name])) != repr(value):
                raise ValueError(f"state[{name!r}] is {state[name]!r}; wanted {value!r}, as this layer has it")
        if set(state) != set(ours):
            raise ValueError(f"state is {state!r}; wanted a dict with {', '.join(ours)}")
        key, calls = integer("state['key']", state["key"]), integer("state['calls']", state["calls"])
        ratio = self._domain.value("state['dropout_ratio']", state["dropout_ratio"])
        self.key, self.dropout_ratio, self._draws.now = key, ratio, (calls, None)

    @property
    def mask(self) -> Array | None:
        """True where the last counted forward kept an element; None before the first.

        The mask has the shape that was drawn, which is 1 along axes that share a choice. It is an array of the library
        of that forward's x, on its device (on one of them, where x lay on several).
        """
        draw = self._draws.last
        if draw is None:
            return None
        place = Place(draw.key, draw.call, 0, None)
        return on_engine(self.engine, self._mask, draw.shape, draw.like, place, **draw.options)

    def compile(self, x: Any) -> None:
        """Compile at once what `forward` and `backward` need for inputs like this one, to new arrays and in place.

        And from the next call on use it, where `engine` leaves the choice. That is a loop for arrays in this machine's
        memory (`compiled`) or a kernel on a CUDA device (`cuda`). Without this, the loop is compiled when about 3e8
        elements have been drawn: what it costs would be more than it saves in a small problem. It takes a few seconds,
        once on a machine: the machine code is kept in the user's cache folder. Inputs that no engine has a kernel for
        are passed over, and so are all where elements share a choice, and those of `GaussianDropout` and `Zoneout`.

        Args:
            x: an array like the inputs, for its library, device, dtype and memory layout; nothing is drawn.

        Raises TypeError like `forward`; ImportError where a package is missing: Numba (`pip install numba`), or
        cuda.core (`pip install 'cuda-core[cu13]'` or `'cuda-core[cu12]'`).
        """
        arrays, a, _ = admit("x", x, INPUT)
        shape = tuple(a.shape)
        if self._fused and not is_scalar(x) and Noise.of(shape, self._noise_shape(a.ndim), _FIRST).shape == shape:
            precompile(arrays, x)

    def _options(self, ndim: int) -> dict[str, Any]:
        """The pure function's ratio and options for an input of so many axes."""
        return {"ratio": self.dropout_ratio, "noise_shape": self._noise_shape(ndim)}

    def _noise_shape(self, ndim: int) -> NoiseShape:
        """The noise shape for an input of so many axes."""
        return self.noise_shape

    def _mask(
        self, shape: tuple[int, ...], like: Array, at: Place, ratio: float, noise_shape: NoiseShape = None, **_: Any
    ) -> Array:
        """The mask of a draw. Its options are taken as the pure function takes them."""
        return kept(Noise.of(shape, noise_shape, at), ratio, at, like)

    def _counted(self, arrays: Library, x: Array, a: Array, name: str, forward: Callable[..., Array]) -> Array:
        """The output of a forward that takes the next call, which is remembered and counted once it has succeeded."""
        self._refuse_traced(arrays, name, x)
        draw = Draw(self.key, self.calls, self._options(a.ndim), tuple(a.shape), self._like(arrays, a))
        y = forward(key=draw.key, call=draw.call, **draw.options)
        self._draws.now = draw.call + self._counts, draw
        return y

    def _like(self, arrays: Library, a: Array) -> Array:
        """An array without elements, of the library of `a` and on its device."""
        last = self._draws.last
        if last is not None and library(last.like) is arrays and arrays.device(last.like) == arrays.creation_device(a):
            return last.like
        return arrays.xp.zeros((0,), dtype=a.dtype, device=arrays.creation_device(a))

    def _arguments(self, arrays: Library, x: Array, a: Array, name: str, call: Any) -> dict[str, Any]:
        """The arguments of the pure function for a call that the user names."""
        _refuse_capture(arrays, name, x)
        return {"key": self.key, "call": call, **self._options(a.ndim)}

    def _gradient_arguments(self, dout: Array, call: Any) -> dict[str, Any]:
        """The pure function's arguments in the forward whose gradient is wanted. Raises as `backward` says."""
        arrays, a, _ = admit("dout", dout, INPUT)
        if call is not None:
            return self._arguments(arrays, dout, a, "dout", call)
        draw = self._draws.last
        if draw is None:
            raise RuntimeError(
                "backward came before the first forward(x, training=True); there is no mask yet: after "
                "forward(x, call=...) wanted backward(dout, call=...) with the same"
            )
        self._refuse_traced(arrays, "dout", dout)
        shape = tuple(a.shape)
        if shape != draw.shape:
            raise ValueError(f"dout has shape {shape} but the last training forward's x had shape {draw.shape}")
        return {"key": draw.key, "call": draw.call, **draw.options}

    def _sample_arguments(self, arrays: Library, x: Array, a: Array, name: str, call: Any) -> dict[str, Any]:
        """The pure function's arguments for `sample`."""
        return {**self._arguments(arrays, x, a, name, call), "key": spawn(self.key, 0)}

    def _refuse_traced(self, arrays: Library, name: str, x: Array) -> None:
        """Raise TypeError for an array that the layer would count only while a function is traced."""
        if arrays.traced(x):
            raise TypeError(
                f"{name} is traced, and the layer's count of calls would be frozen into the transformed function, the "
                "same mask for ever; wanted call=, the number of the draw, which may be traced, or the pure form: "
                f"anyoptim.{self._pure}(x, ratio, key, call)"
            )
        _refuse_capture(arrays, name, x)


class UnaryLayer(Layer):
    """A layer with one input, made of a pure function and of that function's gradient."""

    _function: Callable[..., Array]
    _gradient: Callable[..., Array]

    def forward(
        self,
        x: A,
        training: bool = True,
        call: Any = None,
        *,
        out: A | None = None,
        train_flg: bool | None = None,
        train_flag: bool | None = None,
    ) -> A:
        """The layer's output: drawn in training, what is expected of it otherwise.

        Args:
            x: any shape; the result has its library, device, shape and dtype, and x is not written to, unless it is
                `out`.
            training: True or False; if it is False, nothing is drawn.
            call: the draw, 0 <= call < 2**64, or a 0-d integer array, which `jax.jit` may trace. Without one it is
                the next of the layer, which counts it. With one the layer is a function: it counts and remembers
                nothing, and `backward` wants the same call.
            out: where to write the result: x itself, or an array like it that shares no memory with it.
            train_flg: `training`, as textbooks call it, which is then left out.
            train_flag: the same.

        Raises TypeError for an x that is no real or complex floating array, or that is traced (as under
        `jax.jit`) in training without a call: the count would be frozen; and for a `training` that is no bool.
        """
        if train_flg is not None or train_flag is not None:
            training = spelt(training, train_flg, train_flag)
        if training is not True:
            training = flag("training", training)
        if training and call is None and (out is None or out is x):
            y = self._quick_forward(x, out is x)
            if y is not None:
                return y
        arrays, a, _ = admit("x", x, INPUT)
        if not training:
            if out is not None:
                destination("out", out, "x", x)
            y = self._inference(arrays, x)
            return y if out is None else copied_to(arrays, out, y)  # type: ignore[no-any-return] # it is one of x's type
        if call is not None:
            return on_engine(self.engine, self._function, x, **self._arguments(arrays, x, a, "x", call), out=out)  # type: ignore[no-any-return] # as before
        forward = partial(on_engine, self.engine, self._function, x, out=out)
        return self._counted(arrays, x, a, "x", forward)  # type: ignore[no-any-return]

    def backward(self, dout: A, call: Any = None, *, out: A | None = None) -> A:
        """The gradient of a training forward's input, given that of its output.

        Args:
            dout: of the shape of that input and any floating dtype and memory order; the result is like it.
            call: that of the forward, if it had one: with the attributes as they are now. Without it, the last that
                was counted, with the attributes as they were.
            out: as for `forward`.

        Raises RuntimeError before the first training forward, ValueError for another shape.
        """
        if call is None and (out is None or out is dout):
            dx = self._quick_backward(dout, out is dout)
            if dx is not None:
                return dx
        arguments = self._gradient_arguments(dout, call)
        if out is not None:
            destination("out", out, "dout", dout)
        return on_engine(self.engine, self._gradient, dout, **arguments, out=out)  # type: ignore[no-any-return] # of the type that was given

    def sample(self, x: A, call: Any) -> A:
        """The output as in training, for predictions that differ by what they drew: Monte Carlo dropout.

        It is drawn under another key than in training, `anyoptim.random.spawn(layer.key, 0)`; the layer counts and
        remembers nothing, so that training goes on as if it had not been asked. Equal calls give equal samples.

        Args:
            x: as for `forward`.
            call: which sample, 0 <= call < 2**64, or a 0-d integer array, which `jax.jit` may trace.

        Source: Gal and Ghahramani, Dropout as a Bayesian approximation, 2016, section 3.
        """
        arrays, a, _ = admit("x", x, INPUT)
        return on_engine(self.engine, self._function, x, **self._sample_arguments(arrays, x, a, "x", call))  # type: ignore[no-any-return]

    def _inference(self, arrays: Library, x: Array) -> Array:
        """The output outside training."""
        return x

    def _quick_forward(self, x: A, in_place: bool) -> A | None:
        """The counted forward of an array that needs no checks; None for any other."""
        return None

    def _quick_backward(self, dout: A, in_place: bool) -> A | None:
        """The gradient for an array that needs no checks; None for any other."""
        return None


def _listed(value: Any) -> Any:
    """A tuple as a list, which is what JSON gives back for it; any other value as it is."""
    return list(value) if isinstance(value, tuple) else value


def flag(name: str, value: Any) -> bool:
    """A bool, NumPy's too, or 0 or 1. Raises TypeError for anything else."""
    if not isinstance(value, bool | np.bool_) and not (isinstance(value, int | np.integer) and value in {0, 1}):
        raise TypeError(f"{name} is {value!r}; wanted True or False")
    return bool(value)


def spelt(training: bool, train_flg: bool | None, train_flag: bool | None) -> bool:
    """The one of these that is given, in a textbook's spelling. Raises TypeError for two that differ."""
    given = {"train_flg": train_flg, "train_flag": train_flag}
    flags = {flag(name, value) for name, value in given.items() if value is not None}
    if flag("training", training) is False or len(flags) > 1:
        raise TypeError("forward was given training under two names; wanted one of training, train_flg and train_flag")
    return flags.pop()


def _engine(_: str, name: EngineName | None) -> EngineName | None:
    check_engine(name)
    return name


_FIRST = Place(0, 0, 0, None)

_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "engine": _engine,
    "key": integer,
    "calls": integer,
    "inverted": flag,
    "axis": signed_integer,
    "noise_shape": lambda name, value: None if value is None else shared(name, value),
}
"""The checks of attributes, which give the value to keep. They run on assignment, so that reading costs nothing."""


def _refuse_capture(arrays: Library, name: str, x: Array) -> None:
    """Raise RuntimeError for an array in whose stream a CUDA graph is being captured."""
    number = arrays.cuda(x) if not is_scalar(x) else None
    if number is not None and arrays.capturing(number):
        raise RuntimeError(
            f"{name} is being captured in a CUDA graph, whose replays would draw the same mask for ever; "
            "wanted the layer outside of the graph"
        )
