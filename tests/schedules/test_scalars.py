"""The public functions of scalars, for authors of coefficients: on the host, and traced."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import Library

CASES: dict[str, tuple[Callable[..., Any], list[tuple[float, ...]]]] = {
    "cos": (math.cos, [(0.0,), (2.5,)]),
    "exp": (math.exp, [(0.0,), (-3.5,), (4.0,)]),
    "expm1": (math.expm1, [(0.0,), (1e-9,), (-2.0,)]),
    "log": (math.log, [(1.0,), (0.3,), (40.0,)]),
    "maximum": (max, [(3, 10), (10, 3), (2.5, 2.5)]),
    "minimum": (min, [(3, 10), (10, 3), (2.5, 2.5)]),
    "one_minus_power": (lambda beta, t: 1 - beta**t, [(0.9, 1), (0.5, 7), (0.0, 2)]),
    "power": (pow, [(2.0, 3.0), (0.5, 0.25), (3.0, -2.0)]),
    "remainder": (lambda n, k: n % k, [(7, 5), (5, 5), (0, 3)]),
    "sqrt": (math.sqrt, [(0.0,), (2.0,), (9,)]),
    "where": (lambda c, a, b: a if c else b, [(True, 1.5, 2.5), (False, 1.5, 2.5)]),
}
"""Python's own function for each, and arguments."""


def test_each_has_a_case() -> None:
    assert set(CASES) == set(ao.scalars.__all__)


@pytest.mark.parametrize("name", CASES)
def test_numbers_of_python_give_pythons(name: str) -> None:
    expected, cases = CASES[name]
    for arguments in cases:
        found = getattr(ao.scalars, name)(*arguments)
        assert found == expected(*arguments)
        assert isinstance(found, int | float)


@pytest.mark.parametrize("name", CASES)
def test_traced_numbers_give_the_same(name: str, need: Callable[[str], Library]) -> None:
    """To some roundings of float32, with every argument traced but the divisor of a remainder."""
    need("jax")
    import jax

    expected, cases = CASES[name]
    of = getattr(ao.scalars, name)
    for arguments in cases:
        traced, rest = (arguments[:1], arguments[1:]) if name == "remainder" else (arguments, ())
        found = jax.jit(lambda *given, rest=rest: of(*given, *rest))(*traced)
        np.testing.assert_allclose(found, expected(*arguments), rtol=2e-6)


def test_what_is_too_large_is_infinite() -> None:
    assert ao.scalars.exp(1e4) == ao.scalars.expm1(1e4) == ao.scalars.power(10, 1e4) == math.inf
    assert ao.scalars.log(0) == -math.inf


def test_conditions_of_numpy_are_conditions() -> None:
    """`np.float64(1) > 0` is no bool of Python."""
    assert ao.scalars.where(np.float64(1) > 0, 2.0, 3.0) == 2.0
    assert ao.scalars.minimum(np.float64(1), 2.0) == 1.0


def _stage(of: Callable[[Any, Any], Any]) -> type[ao.Stage]:
    class Own(ao.Stage):
        share: ao.Positive = 0.5
        reductions = {"norm": ao.Norm(lambda xp, p, x: x)}
        coefficients = staticmethod(lambda t, hyper: {"scale": of(t, hyper)})
        rule = staticmethod(lambda xp, p, x, c: x * c.scale)

    return Own


def _jitted(stage: ao.Stage, steps: int = 3) -> Any:
    import jax
    import jax.numpy as jnp

    optimizer = ao.chain(stage, ao.SGD(lr=0.1))
    p, g = {"a": jnp.ones(2)}, {"a": jnp.asarray([3.0, 4.0])}
    state, step = optimizer.init(p), jax.jit(optimizer.step)
    for _ in range(steps):
        p, state = step(p, g, state)
    return p["a"]


UNKNOWN: dict[str, Callable[[Any, Any], Any]] = {
    "if t": lambda t, hyper: 1.0 if t == 1 else 0.5,
    "if norm": lambda t, hyper: 1 / hyper.norm if hyper.norm else 0.0,
    "min": lambda t, hyper: 1 / min(t, 10),
    "float": lambda t, hyper: 1 / float(t),
    "math": lambda t, hyper: 1 / math.sqrt(t),
    "NumPy": lambda t, hyper: 1 / np.sqrt(t),
    "a table": lambda t, hyper: [1.0, 0.5, 0.25, 0.125][t],
}


@pytest.mark.parametrize("how", UNKNOWN)
def test_what_asks_for_a_value_is_named(how: str, need: Callable[[str], Library]) -> None:
    """Under `jax.jit`: coefficients that ask for the value of t or of a norm, which an update on the host takes."""
    need("jax")
    Own = _stage(UNKNOWN[how])
    ao.chain(Own(), ao.SGD()).update(np.ones(2), np.ones(2))
    with pytest.raises(
        TypeError,
        match=r"^coefficients of .*Own\(share=0.5\) can't be computed under jax.jit, where .*"
        r"ao.scalars",
    ) as raised:
        _jitted(Own())
    assert type(raised.value.__cause__).__module__ == "jax.errors"
    assert len(str(raised.value).splitlines()) == 1


def test_scalars_and_schedules_that_ask_are_named_too(need: Callable[[str], Library]) -> None:
    need("jax")

    class Kept(ao.Stage):
        scalars = {"kept": 0.0}
        update_scalars = staticmethod(lambda step, hyper: {"kept": 1.0 if step > 2 else hyper.kept})
        rule = staticmethod(lambda xp, p, x, c: x * (1 + c.kept))

    with pytest.raises(TypeError, match=r"^update_scalars of Kept\(\) can't be computed under jax.jit"):
        _jitted(Kept())
    falling = _stage(lambda t, hyper: hyper.share)(lambda step: 0.5 if step < 3 else 0.25)
    with pytest.raises(TypeError, match=r"^the schedule share of .* can't be computed under jax.jit"):
        _jitted(falling)


def test_another_mistake_stays_what_it_is(need: Callable[[str], Library]) -> None:
    """A TypeError that has nothing to do with tracing."""
    need("jax")
    with pytest.raises(TypeError, match=r"^unsupported operand"):
        _jitted(_stage(lambda t, hyper: None + t)())


KNOWN: dict[str, tuple[Callable[[Any, Any], Any], Callable[[int, Any], float]]] = {
    "where": (lambda t, hyper: ao.scalars.where(t == 1, 1.0, 0.5), lambda t, hyper: 1.0 if t == 1 else 0.5),
    "norm": (
        lambda t, hyper: 1 / ao.scalars.where(hyper.norm > 0, hyper.norm, 1.0),
        lambda t, hyper: 1 / hyper.norm,
    ),
    "minimum": (lambda t, hyper: 1 / ao.scalars.minimum(t, 2), lambda t, hyper: 1 / min(t, 2)),
    "sqrt": (lambda t, hyper: 1 / ao.scalars.sqrt(t), lambda t, hyper: 1 / math.sqrt(t)),
    "exp": (lambda t, hyper: ao.scalars.exp(-0.5 * t), lambda t, hyper: math.exp(-0.5 * t)),
}


@pytest.mark.parametrize("how", KNOWN)
def test_the_same_with_these_functions_is_computed(how: str, need: Callable[[str], Library]) -> None:
    """Under `jax.jit`, as an update of NumPy arrays has it with Python's own functions."""
    need("jax")
    ours, pythons = KNOWN[how]
    w, optimizer = {"a": np.ones(2)}, ao.chain(_stage(pythons)(), ao.SGD(lr=0.1))
    for _ in range(3):
        optimizer.update(w, {"a": np.asarray([3.0, 4.0])})
    np.testing.assert_allclose(_jitted(_stage(ours)()), w["a"], rtol=1e-6)
