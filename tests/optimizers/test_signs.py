"""Signum, Lion, Rprop, ASGD and AdaGrad's options at the edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.reference import textbook
from tests.support.chains import agree, problem, run
from tests.support.internals import MOVE, Part, Program, Symbol, on_value, static_options, symbol, trace
from tests.support.libraries import ENGINES, Library, same_bits
from tests.support.xla import quick

# Each method is compiled in engines/test_engines.py.
pytestmark = [pytest.mark.telling, pytest.mark.own_loops, pytest.mark.usefixtures("quickly")]

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("engine", ENGINES)
def test_signs_of_what_has_none(engine: ao.EngineName) -> None:
    """A gradient of 0 moves nothing, a NaN spoils its element and no other, infinities are signs like others."""
    g = np.array([0.0, -0.0, NAN, INF, -INF, 5e-324])
    methods: list[tuple[ao.Optimizer, float]] = [
        (ao.Signum(0.5, engine=engine), 1.0),  # a tenth of the least number is 0
        (ao.Signum(0.5, momentum=0.0, engine=engine), 0.5),
        (ao.Lion(0.5, engine=engine), 1.0),
        (ao.Rprop(initial=0.5, engine=engine), 0.5),
    ]
    for method, last in methods:
        assert same_bits(method.update(np.ones(6), g), [1.0, 1.0, NAN, 0.5, 1.5, last]), method


@pytest.mark.parametrize("engine", ENGINES)
def test_sign_sgd_is_signum_without_momentum(engine: ao.EngineName) -> None:
    params, grads = problem(steps=10)
    for g in grads[:9]:
        g["W"][:, 0] = 0.0
    expected = {k: a.copy() for k, a in params.items()}
    run(ao.Signum(0.25, momentum=0.0, engine=engine), params, grads)
    for g in grads:
        expected = {k: a - 0.25 * np.sign(g[k]) for k, a in expected.items()}
    assert agree(params, expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_lion_with_a_decay_that_is_set_later(engine: ao.EngineName) -> None:
    """None at first, then some, then none: as the transcription has it."""
    params, grads = problem(steps=30)
    theirs = {k: a.copy() for k, a in params.items()}
    ours, transcription = ao.Lion(0.1, engine=engine), textbook.Lion(0.1)
    for k, g in enumerate(grads):
        ours.weight_decay = transcription.weight_decay = {10: 0.5, 20: 0.0}.get(k, transcription.weight_decay)
        ours.update(params, g)
        transcription.update(theirs, g)
        assert agree(params, theirs)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("engine", ENGINES)
def test_rprop_does_not_care_how_small_gradients_are(engine: ao.EngineName, dtype: str) -> None:
    """Nor how large: only signs count, where a product of two gradients would be 0 or infinite."""
    info = np.finfo(dtype)
    sizes = [float(info.smallest_subnormal), float(info.tiny), 1.0, float(info.max)]
    signs = [1, 1, 1, -1, -1, 1, 1, 0, 1, 1]
    found = []
    for size in sizes:
        optimizer, p = ao.Rprop(initial=0.125, engine=engine), np.ones(1, dtype)
        path = [optimizer.update(p, np.array([size * sign], dtype)).copy() for sign in signs]
        found.append((path, optimizer.state))
    assert all(agree(one, found[0]) for one in found[1:])


@pytest.mark.parametrize("engine", ENGINES)
def test_rprop_by_hand(engine: ao.EngineName) -> None:
    """Longer, longer, a turn that rests and forgets, a shorter one, a zero that forgets too, the limits."""
    optimizer, p = ao.Rprop(1.0, 0.5, 2.0, 0.25, 3.0, initial=1.0, engine=engine), np.zeros(1)
    steps = []
    for g in (4.0, 0.1, 9.0, -1.0, -1.0, -1.0, 0.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0):
        before = p[0]
        optimizer.update(p, np.array([g]))
        steps.append(before - p[0])
    #        2    3 at most    turn  half  longer  0    as it is  turn ...       and never below a quarter
    assert steps == [1.0, 2.0, 3.0, 0.0, -1.5, -3.0, 0.0, -3.0, 0.0, 1.5, 0.0, -0.75, 0.0, 0.375, 0.0, -0.25]
    optimizer.lr, before = 0.5, p[0]
    optimizer.update(p, np.array([-1.0]))
    assert before - p[0] == -0.25  # twice a quarter, by half


@pytest.mark.parametrize("engine", ENGINES)
def test_rprop_forgets_a_nan(engine: ao.EngineName) -> None:
    """In its slots: the next direction is that of the next gradient."""
    optimizer, p = ao.Rprop(initial=0.5, engine=engine), np.zeros(2)
    for g in ([1.0, 1.0], [NAN, 1.0], [-1.0, 1.0]):
        optimizer.update(p, np.array(g))
    assert optimizer.state is not None
    assert optimizer.state.slots["d"].tolist() == [-1.0, 1.0]
    assert optimizer.state.slots["s"].tolist() == [0.5, 0.5 * 1.2 * 1.2]


@pytest.mark.parametrize("engine", ENGINES)
def test_rprops_longest_step_prevails(engine: ao.EngineName) -> None:
    optimizer = ao.Rprop(step_min=2.0, step_max=1.0, engine=engine)
    assert optimizer.update(np.zeros(1), np.ones(1)).tolist() == [-1.0]


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("engine", ENGINES)
def test_asgd_averages_what_it_moved(engine: ao.EngineName, dtype: str) -> None:
    """p to the last bit until t0, the mean since then; the stage SWA finds the same."""
    params, grads = problem(dtype, steps=20)
    optimizer = ao.chain(ao.ASGD(0.1, 0.5, t0=8, engine=None), ao.SWA(10), engine=engine)
    seen = []
    for t, g in enumerate(grads, 1):
        optimizer.update(params, g)
        assert optimizer.state is not None
        own, stage = (of["average"] for of in optimizer.state.slots)
        assert agree(own, stage)
        if t >= 10:
            seen.append({k: a.copy() for k, a in params.items()})
        for k, a in own.items():
            if t <= 10:
                assert agree(a, params[k])
            else:
                np.testing.assert_allclose(a, np.mean([p[k] for p in seen], axis=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_asgds_average_of_what_is_no_number(engine: ao.EngineName) -> None:
    """Until t0 it is p, without a trace of what p was before."""
    optimizer, p = ao.ASGD(1.0, lambd=0.0, engine=engine), np.zeros(2)
    with np.errstate(all="ignore"):
        optimizer.update(p, np.array([INF, NAN]))
        p[...] = 1.0
        optimizer.update(p, np.array([0.5, 0.25]))
    assert optimizer.state is not None
    assert optimizer.state.slots["average"].tolist() == [0.5, 0.75]


def test_asgds_rate_under_jit(need: Callable[[str], Library]) -> None:
    """It falls with a traced t as with a known one, and from a huge t to 0."""
    lib = need("jax")

    optimizer = ao.ASGD(1.0, lambd=0.5, alpha=1.5, t0=3)
    p = {"w": lib.array([1.0])}
    new, state = p, optimizer.init(p)
    jitted = quick(optimizer.step)
    expected = {"w": np.ones(1)}
    eager = ao.ASGD(1.0, lambd=0.5, alpha=1.5, t0=3)
    for _ in range(50):
        new, state = jitted(new, {"w": lib.array([0.25])}, state)
        eager.update(expected, {"w": np.full(1, 0.25)})
    np.testing.assert_allclose(new["w"], expected["w"], rtol=1e-5)
    assert eager.state is not None
    np.testing.assert_allclose(state.slots["average"]["w"], eager.state.slots["average"]["w"], rtol=1e-5)
    far, _ = jitted(new, p, state._replace(t={"w": 2_000_000_000}))
    np.testing.assert_allclose(far["w"], new["w"], rtol=1e-6)


def test_adagrads_options_cost_nothing_where_they_are_not_used() -> None:
    """The graph is that of the two lines of the equation, within bounds; with options, only what they add."""

    def rule(xp: Any, p: Any, x: Any, h: Any, c: Any) -> Any:
        x = xp.bound(x, 1.0 * xp.sqrt(xp.largest(x)))
        h = xp.bound(h + x * x, xp.largest(h))
        return c.lr * x / (xp.sqrt(h) + c.eps), h

    def graph(rule: Any, row: dict[str, float]) -> Any:
        return trace(Program((Part(on_value, rule, ("h",)), MOVE)), static_options((row, {})))._replace(name="")

    def row(t: Any = 7, **given: Any) -> Any:
        optimizer = ao.AdaGrad(**given)
        return optimizer._coefficients(t, optimizer._values(t, {}))

    plain = graph(rule, {"lr": 0.1, "eps": 0.1})
    for given in ({}, {"initial": 0.5}, {"lr_decay": 0.5}, {"initial": 0.5, "lr_decay": lambda t: 0.0}):
        assert graph(ao.AdaGrad.rule, row(**given)) == plain
    assert len(graph(ao.AdaGrad.rule, row(eps_root=0.5)).nodes) == len(plain.nodes) + 1
    assert row() == {"lr": 0.01, "eps": 1e-7}
    assert row(lr_decay=0.5) == {"lr": 0.01 / 4.0, "eps": 1e-7}
    assert row(t=1, lr_decay=0.5) == row()
    traced = symbol(0)  # as under jax.jit and in replays: lr is a number all the same, unless it falls
    assert row(t=traced) == row()
    assert isinstance(row(t=traced, lr_decay=0.5)["lr"], Symbol)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_constants_of_methods_to_the_last_bit(engine: ao.EngineName, dtype: str) -> None:
    """What h and s start at, beside the transcriptions; a parameter that comes late starts there, too."""
    real = dtype.replace("complex64", "float32")
    params, grads = problem(dtype, steps=25)
    for k, g in enumerate(grads):
        g["s"] = g["s"] if k > 9 else None  # type: ignore[assignment]
    for name, constants in (("AdaGrad", {"initial": 0.1}), ("Rprop", {"initial": 0.3})):
        ours = {k: a.copy() for k, a in params.items()}
        run(getattr(ao, name)(engine=engine, **constants), ours, grads)
        for part in (np.real, np.imag) if "complex" in dtype else (np.real,):
            for key in params:
                theirs, method = {key: np.array(part(params[key]), real)}, textbook.METHODS[name](**constants)
                for g in grads:
                    if g[key] is not None:
                        method.update(theirs, {key: np.array(part(g[key]), real)})
                assert same_bits(np.array(part(ours[key])), theirs[key]), (name, key)
