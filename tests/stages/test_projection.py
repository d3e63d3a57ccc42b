"""Box, NonNegative and Maximize at the edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support import shim
from tests.support.chains import agree, problem, run
from tests.support.libraries import ENGINES, Library, same_bits

pytestmark = [pytest.mark.telling, pytest.mark.own_loops]  # each stage is compiled in a chain of core/test_chains.py

INF, NAN = math.inf, math.nan


def _projected(stage: ao.ParameterStage, values: Any, engine: ao.EngineName, dtype: str = "float64") -> Any:
    """The values after a step that leaves them where they are."""
    p = np.array(values, dtype)
    with np.errstate(all="ignore"):
        return ao.chain(ao.SGD(0.0), stage, engine=engine).update(p, np.zeros(p.shape, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", ENGINES)
def test_box_on_the_edges(engine: ao.EngineName, dtype: str) -> None:
    """Infinities go to the bounds, a NaN stays, a zero at a bound has its sign, what is within keeps its bits."""
    values = [-INF, -2.0, -1.0, -0.0, 0.0, 1e-45, 0.5, 2.0, 3.0, INF, NAN]
    cases: list[tuple[float, float, list[float]]] = [
        (-1.0, 2.0, [-1.0, -1.0, -1.0, -0.0, 0.0, 1e-45, 0.5, 2.0, 2.0, 2.0, NAN]),
        (0.0, INF, [0.0, 0.0, 0.0, 0.0, 0.0, 1e-45, 0.5, 2.0, 3.0, INF, NAN]),
        (-INF, INF, values),
        (-INF, 0.0, [-INF, -2.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, NAN]),
        (-INF, -0.0, [-INF, -2.0, -1.0, *[-0.0] * 7, NAN]),
        (0.5, 0.5, [0.5] * 10 + [NAN]),
        (INF, INF, [INF] * 10 + [NAN]),
    ]
    for lo, hi, expected in cases:
        found = _projected(ao.Box(lo, hi), values, engine, dtype)
        assert same_bits(found, np.array(expected, dtype)), (lo, hi)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("engine", ENGINES)
def test_nonnegative_on_the_edges(engine: ao.EngineName, dtype: str) -> None:
    """-0.0 becomes 0.0, a NaN stays."""
    found = _projected(ao.NonNegative(), [-INF, -1.0, -0.0, 0.0, 1e-7, 2.0, INF, NAN], engine, dtype)
    assert same_bits(found, np.array([0.0, 0.0, 0.0, 0.0, 1e-7, 2.0, INF, NAN], dtype))
    assert not np.signbit(found[:7]).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_both_parts_of_complex_elements(engine: ao.EngineName) -> None:
    values = [3 - 3j, -0.5 + 0.25j, complex(NAN, 9.0)]
    found = _projected(ao.Box(-1.0, 1.0), values, engine, "complex128")
    assert same_bits(found.real, [1.0, -0.5, NAN])
    assert same_bits(found.imag, [-1.0, 0.25, 1.0])
    found = _projected(ao.NonNegative(), values, engine, "complex64")
    assert same_bits(found.imag, np.array([0.0, 0.25, 9.0], "f4"))


@pytest.mark.parametrize("engine", ENGINES)
def test_bounds_are_rounded_with_the_parameter(engine: ao.EngineName) -> None:
    """To float32 for float32; for float16 to float32, and then as p is stored."""
    for dtype in ("float16", "float32"):
        found = _projected(ao.Box(-0.3, 0.3), [-5.0, 5.0], engine, dtype)
        assert same_bits(found, np.array([-0.3, 0.3], dtype))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_parameter_is_always_within(engine: ao.EngineName) -> None:
    """After each of 50 steps, and the slots of the method know nothing of it."""
    params, grads = problem(steps=50)
    optimizer, free = (ao.chain(ao.Momentum(0.3), *more, engine=engine) for more in ([ao.Box(-0.5, 1.0)], []))
    other = {k: a.copy() for k, a in params.items()}
    for g in grads:
        optimizer.update(params, g)
        free.update(other, g)
        assert all((a >= -0.5).all() and (a <= 1.0).all() for a in params.values())
    assert optimizer.state is not None
    assert free.state is not None
    assert agree(optimizer.state.slots[0], free.state.slots[0])
    assert not agree(params, other)


def test_bounds_out_of_order_are_refused() -> None:
    """When it is made; at a step, where they were set or come from schedules, before anything is written."""
    with pytest.raises(ValueError, match=r"lo is 1.0 and hi is 0.5; wanted lo at most hi"):
        ao.Box(1.0, 0.5)
    with pytest.raises(ValueError, match="hi is nan; wanted a number and not NaN"):
        ao.Box(1.0, NAN)
    p, g = np.array([0.25]), np.ones(1)
    optimizer = ao.chain(ao.Momentum(0.1), ao.Box(0.0, 1.0))
    optimizer.update(p, g)
    before, slots = p.copy(), optimizer.state.slots[0]["v"].copy()  # type: ignore[union-attr]
    optimizer.stages[1].lo = 2.0  # no error yet: hi may follow
    for bounds in ({}, {"lo": lambda t: t + 1.0, "hi": 1.5}, {"lo": 0.0, "hi": lambda t: -1.0}):
        for name, value in bounds.items():
            setattr(optimizer.stages[1], name, value)
        with pytest.raises(ValueError, match=r"lo is .* and hi is .*; wanted lo at most hi"):
            optimizer.update(p, g)
        with pytest.raises(ValueError, match="wanted lo at most hi"):
            optimizer.step(p, g, optimizer.init(p))
        assert same_bits(p, before)
        assert same_bits(optimizer.state.slots[0]["v"], slots)  # type: ignore[union-attr]
    optimizer.stages[1].lo, optimizer.stages[1].hi = 2.0, 3.0
    assert optimizer.update(p, g).tolist() == [2.0]


def test_in_replays_the_upper_bound_prevails(need: Callable[[str], Library]) -> None:
    """Of a CUDA graph, which reads what was set and refuses nothing."""
    need("cuda-shim")
    machine = shim.install(shim.Machine())
    p, g = shim.asarray(np.zeros(3)), shim.asarray(np.ones(3))
    optimizer = ao.chain(ao.SGD(0.0), ao.Box(-1.0, 1.0))
    optimizer.update(p, g)
    machine.captured = []
    optimizer.update(p, g)
    graph, machine.captured = machine.captured, None
    for lo, hi, expected in [(0.25, 1.0, 0.25), (-1.0, 0.125, 0.125), (2.0, 0.5, 0.5)]:
        optimizer.stages[1].lo, optimizer.stages[1].hi = lo, hi
        machine.waiting.extend(graph)
        machine.finish()
        assert shim.tonumpy(p).tolist() == [expected] * 3


@pytest.mark.parametrize("engine", ENGINES)
def test_bounds_that_move(engine: ao.EngineName) -> None:
    """Schedules of the step number."""
    optimizer, p = ao.chain(ao.SGD(1.0), ao.Box(lambda t: -0.5 * t, 100), engine=engine), np.zeros(1)
    assert [optimizer.update(p, np.full(1, 2.0))[0] for _ in range(4)] == [-0.5, -1.0, -1.5, -2.0]


@pytest.mark.parametrize("dtype", ["float16", "float32", "complex128"])
@pytest.mark.parametrize("engine", ENGINES)
def test_climbing_is_descending_with_the_gradients_turned(engine: ao.EngineName, dtype: str) -> None:
    """To the last bit, with a parameter that rests now and then."""
    params, grads = problem(dtype, steps=12)
    given = [{**g, "b": g["b"] if k % 3 else None} for k, g in enumerate(grads)]
    turned = [{k: None if a is None else -a for k, a in g.items()} for g in given]
    up = run(
        ao.chain(ao.Maximize(), ao.WeightDecay(0.1), ao.Adam(0.1), engine=engine),
        {k: a.copy() for k, a in params.items()},
        given,
    )
    down = run(ao.chain(ao.WeightDecay(0.1), ao.Adam(0.1), engine=engine), params, turned)
    assert agree(up[0], down[0])
    assert agree(up[1][1:], down[1])


def test_it_climbs() -> None:
    """To the top of -(x - 3)**2."""
    optimizer, x = ao.chain(ao.Maximize(), ao.SGD(0.1)), 0.0
    for _ in range(200):
        x = optimizer.update(x, -2 * (x - 3))
    assert x == pytest.approx(3.0, rel=1e-12)
