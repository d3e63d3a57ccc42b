"""Arguments of any kind: what can't be taken is refused by a TypeError or ValueError that names the argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import ENGINES

X = np.ones((2, 3))


def _within_itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def _odd() -> list[Any]:
    """Values of all kinds, most of which are nothing to most arguments."""
    numbers: list[Any] = [
        3,
        -1,
        0,
        True,
        1.5,
        np.nan,
        np.inf,
        2**63,
        2**64,
        -(2**70),
        1j,
        np.float64(2),
        np.int64(3),
        np.bool_(1),
    ]
    shapes: list[Any] = [(), (1,), (2, 3), [2, 3], (-1, 2), (None, 1), ("a", "b"), (2.0, 3), (True, 3), range(2)]
    huge = [(1 << 62,), (2**40, 2**40), (2**70,), (1 << 61, 0), [[0, 1], [0, 1, 2]], [np.arange(2), [0, 1, 2]]]
    arrays = [np.ones(2), np.ones((2, 3)), np.array(2), np.array(["a"]), np.array([None]), np.zeros((2, 3), int)]
    others = [None, "ab", "", "\ud800", b"x", {}, {"a": 1}, {1}, ..., object(), slice(2), print, type, _within_itself()]
    return [*numbers, *shapes, *huge, *arrays, *others, (i for i in range(2))]


def _refusal(call: Callable[[], Any]) -> str | None:
    """What is said, if it is refused. Any other exception goes on."""
    try:
        call()
    except (TypeError, ValueError) as error:
        if isinstance(error, UnicodeError):
            raise
        return str(error)
    return None


WITHIN = {"offset": (0, 0), "within": (4, 5)}
GOOD = {"shape": (2, 3), "key": 1, "like": X, "x": X, "ratio": 0.5, "p": 0.5, "index": 1, "h_prev": X, "h_new": X}
DRAWS = {f"random.{name}": getattr(ao.random, name) for name in ao.random.__all__ if name != "philox4x32"}
PURE = {layer.pure: getattr(ao, layer.pure) for layer in vars(ao).values() if hasattr(layer, "pure")}


@pytest.mark.parametrize("name", [*DRAWS, *PURE])
def test_arguments_of_draws(name: str) -> None:
    """Each argument in turn, within a larger draw and without."""
    function = {**DRAWS, **PURE}[name]
    arguments = inspect.signature(function).parameters
    good = {k: GOOD.get(k, a.default) for k, a in arguments.items() if k in GOOD or a.default is not a.empty}
    for base in (good, {**good, **WITHIN}) if "within" in good else (good,):
        assert _refusal(lambda base=base: function(**base)) is None  # type: ignore[misc]
        for argument in good:
            for value in _odd():
                said = _refusal(lambda: function(**{**base, argument: value}))  # noqa: B023 - it is called here
                named = (argument, "offset") if argument == "within" else (argument,)
                assert said is None or any(k in said for k in named), (argument, said)


LAYERS = [value for value in vars(ao).values() if hasattr(value, "pure") and hasattr(value, "forward")]


@pytest.mark.parametrize("layer", LAYERS)
def test_arguments_of_layers(layer: type[Any]) -> None:
    """Of the constructor, and what is drawn for."""
    for argument in inspect.signature(layer).parameters:
        for value in _odd():
            said = _refusal(lambda: layer(**{argument: value}))  # noqa: B023
            assert said is None or argument in said, (argument, said)
    for value in _odd():
        said = _refusal(lambda: layer(seed=1).load_state_dict(value))  # noqa: B023
        assert said is not None
        assert "state" in said


@pytest.mark.parametrize("shape", [(1 << 62,), (2**40, 2**40), (1 << 61, 0)])
def test_shapes_that_no_array_has(shape: tuple[int, ...]) -> None:
    """Nothing is allocated: the refusal says the shape."""
    for name in ("bits", "uniform", "normal"):
        with pytest.raises(ValueError, match=r"shape is \(.*\); wanted one of fewer than 2\*\*60 elements"):
            getattr(ao.random, name)(shape, 0, like=X)
    with pytest.raises(TypeError, match=r"shape\[1\] is True; wanted an integer"):
        ao.random.bits((2, True), 0, like=X)
    with pytest.raises(TypeError, match="within is 3; wanted a tuple of integers"):
        ao.random.bits((2, 3), 0, offset=(0, 0), within=3, like=X)  # type: ignore[arg-type]


def _chain() -> ao.Optimizer:
    return ao.chain(ao.ClipGlobalNorm(1.0), ao.LossScale(), ao.Adam(), ao.EMA())


def _params() -> dict[str, Any]:
    return {"a": np.ones((2, 3)), "b": np.ones(3)}


def _places(of: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all that is in a nest of containers."""
    yield way
    inside = of.items() if isinstance(of, dict) else enumerate(of) if isinstance(of, list | tuple) else ()
    for key, value in inside:
        yield from _places(value, (*way, key))


def _with(of: Any, way: tuple[Any, ...], value: Any) -> Any:
    """The same nest with another value there."""
    if not way:
        return value
    if isinstance(of, dict):
        return {k: _with(v, way[1:], value) if k == way[0] else v for k, v in of.items()}
    parts = [_with(v, way[1:], value) if i == way[0] else v for i, v in enumerate(of)]
    return type(of)(*parts) if hasattr(of, "_fields") else type(of)(parts)


@pytest.mark.parametrize("make", [ao.Adam, pytest.param(_chain, marks=pytest.mark.product)])
def test_states(make: Callable[[], ao.Optimizer]) -> None:
    """A value of each kind at each place of a state, and of what `state_dict` gave."""
    optimizer = make()
    optimizer.update(_params(), _params())
    state, saved = optimizer.state, optimizer.state_dict()
    assert state is not None
    for way in list(_places(state))[1:]:
        for value in _odd():
            said = _refusal(lambda: make().state_dict(_with(state, way, value)))  # noqa: B023
            assert said is None or "state" in said, (way, value, said)
    for way in list(_places(saved))[1:]:
        for value in _odd():
            said = _refusal(lambda: make().load_state_dict(_with(saved, way, value), _params()))  # noqa: B023
            assert said is None or "state" in said, (way, value, said)
    for value in _odd():
        if value is not None:  # which is that of `update`
            assert "state" in (_refusal(lambda: make().state_dict(value)) or "")  # noqa: B023


@pytest.mark.parametrize("make", [ao.Adam, _chain])
def test_parameters_and_gradients(make: Callable[[], ao.Optimizer]) -> None:
    """Of the first update and of later ones, and at one place among good ones."""
    for value in _odd():
        said = _refusal(lambda: make().update(value, _params()))  # noqa: B023
        assert said is not None
        assert "params" in said or "grads" in said
        for first in (True, False):
            optimizer, params = make(), _params()
            if not first:
                optimizer.update(params, _params())
            said = _refusal(lambda: optimizer.update(params, value))  # noqa: B023
            assert said is not None
            assert "grads" in said
            said = _refusal(lambda: optimizer.update(params, {**_params(), "a": value}))  # noqa: B023
            assert said is None or "grads" in said


PARTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "coefficients": lambda value: {"coefficients": staticmethod(lambda t, hyper: value)},
    "a coefficient": lambda value: {"coefficients": staticmethod(lambda t, hyper: {"lr": value})},
    "update_scalars": lambda value: {
        "scalars": {"n": 0.0},
        "update_scalars": staticmethod(lambda step, hyper: value),
        "coefficients": staticmethod(lambda t, hyper: {"lr": hyper.lr}),
    },
    "overrides": lambda value: {"overrides": lambda self, path, p: value},
}
"""Of a method, which gives a value."""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("part", PARTS)
def test_what_a_method_gives(part: str, engine: ao.EngineName) -> None:
    """For its coefficients, its numbers and its overrides: an error names the method, and nothing is written."""
    refused = 0
    for value in _odd():
        rule = staticmethod(lambda xp, p, x, c: c.lr * x)
        own = {"__annotations__": {"lr": ao.Nonnegative}, "rule": rule, **PARTS[part](value)}
        method, params = type("Method", (ao.Optimizer,), own), _params()
        said = _refusal(lambda: method(lr=0.5, engine=engine).update(params, _params()))  # noqa: B023
        refused += said is not None
        assert said is None or "Method" in said or "<lambda>" in said, (value, said)
        assert said is None or params["a"].tolist() == X.tolist()
    assert refused > 20


@pytest.mark.parametrize("name", ["engine", "dtype"])
def test_names(name: str) -> None:
    """Of engines and dtypes, whatever has no truth or no hash."""
    for value in _odd():
        said = _refusal(lambda: ao.Adam().kernel_source(**{name: value}))  # noqa: B023
        assert said is not None
        assert name in said
        if name == "engine" and value is not None:
            with pytest.raises(ValueError, match=r"(?s)engine is .*; wanted one of"):
                ao.Adam(engine=value)


_WRAPS: dict[str, Callable[[Any], Any]] = {"dict": lambda a: {"a": a}, "list": lambda a: [a], "tuple": lambda a: (a,)}


def _deep(levels: int, kind: str) -> Any:
    found: Any = np.ones(2)
    for _ in range(levels):
        found = _WRAPS[kind](found)
    return found


def _endless(kind: str) -> Any:
    inner = _within_itself()
    inner[0] = _WRAPS[kind](inner)
    return _WRAPS[kind](inner)


def _takers(bad: Any, optimizer: ao.Optimizer, good: Any, folder: Path) -> dict[str, Callable[[], Any]]:
    """All that takes containers, after the name of what it takes."""
    state = optimizer.state
    assert state is not None
    slots = {**state.slots, "m": bad}
    return {
        "params of update": lambda: ao.Adam().update(bad, bad),
        "grads of the first update": lambda: ao.Adam().update(good, bad),
        "grads of another update": lambda: optimizer.update(good, bad),
        "grads in part": lambda: optimizer.update(good, {"w": bad, "v": bad}),
        "params of init": lambda: ao.Adam().init(bad),
        "params of explain": lambda: ao.Adam().explain(bad, good),
        "state.t": lambda: ao.Adam().state_dict(state._replace(t=bad)),
        "state.slots": lambda: ao.Adam().state_dict(state._replace(slots=slots)),
        "params of save": lambda: ao.save(folder / "unwritten", params=bad),
        "extra": lambda: ao.save(folder / "unwritten", extra=bad),
        "dropout": lambda: ao.save(folder / "unwritten", dropout=bad),
        "like": lambda: ao.load(folder / "saved", like=bad),
    }


@pytest.mark.parametrize("kind", _WRAPS)
def test_containers_within_themselves_or_too_deep(kind: str, tmp_path: Path) -> None:
    """What has no end, or nearly, is said by its name, by all that takes containers; what has one is taken."""
    ao.save(tmp_path / "saved", params=np.ones(2))
    optimizer, good = ao.Adam(), {"w": np.ones(2), "v": {"u": np.ones(2)}}
    optimizer.update(good, good)
    for bad in (_endless(kind), _deep(2000, kind), _deep(100_000, kind)):
        for name, call in _takers(bad, optimizer, good, tmp_path).items():
            with pytest.raises(ValueError, match=rf"^{name.partition(' ')[0]}.*(itself|deep)"):
                call()
    optimizer.update(good, good)
    params, grads = _deep(900, kind), _deep(900, kind)
    ao.SGD(lr=1.0).update(params, grads)
    for _ in range(900):
        (params,) = params.values() if kind == "dict" else params
    assert params.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("engine", ENGINES)
def test_keys_that_are_no_text(engine: ao.EngineName) -> None:
    """Lone surrogates are keys like others, and stand in errors as they are written in code."""
    optimizer, params = ao.Adam(engine=engine), {"\ud800": np.ones(2), "b": np.ones(2)}
    for _ in range(3):
        optimizer.update(params, {k: np.ones(2) for k in params})
    same = {"a": np.ones(2)}
    other = ao.Adam(engine=engine)
    for _ in range(3):
        other.update(same, {"a": np.ones(2)})
    assert params["\ud800"].tolist() == same["a"].tolist()
    optimizer.load_state_dict(optimizer.state_dict(), params)
    with pytest.raises(ValueError, match=r"grads\['\\ud800'\] is missing"):
        optimizer.update(params, {"b": np.ones(2)})
