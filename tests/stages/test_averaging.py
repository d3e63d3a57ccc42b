"""SWA and Lookahead at the edges: bits, schedules, steps of a parameter's own, and what is no number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.chains import agree, flat, problem, run
from tests.support.libraries import ENGINES, Library, same_bits
from tests.support.xla import quick

# Each stage is compiled in a chain of core/test_chains.py.
pytestmark = [pytest.mark.telling, pytest.mark.own_loops, pytest.mark.usefixtures("quickly")]

SPECIAL = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, 1e-45, 3e38]


class Follow(ao.Optimizer):
    """p <- g, to the last bit: parameters of any kind at any step."""

    rule = staticmethod(lambda xp, p, x, c: p - x)


def _told(stage: ao.ParameterStage, engine: ao.EngineName) -> ao.chain:
    """A chain in which the parameter before the stage is what it is told to be: 0 - (0 - p)."""
    return ao.chain(Follow(), stage, engine=engine)


def _tell(optimizer: ao.Optimizer, p: np.ndarray[Any, Any], values: Any) -> Any:
    """One step from p = 0 to these values; the slot of the stage. A -0.0 would come out as 0.0."""
    p[...] = 0
    optimizer.update(p, np.array(values, p.dtype))
    assert optimizer.state is not None
    (slot,) = optimizer.state.slots[1].values()
    return slot.copy()


@pytest.mark.parametrize("engine", ENGINES)
def test_swa_is_the_mean_of_what_is_in_it(engine: ao.EngineName) -> None:
    """Counted by hand: steps 3, 5 and 7 of 8; until then the average is p."""
    optimizer, p = _told(ao.SWA(3, every=2), engine), np.zeros(1)
    found = [_tell(optimizer, p, [v])[0] for v in (1.0, 2.0, 3.0, 100.0, 7.0, 100.0, 8.0, 100.0)]
    assert found == [1.0, 2.0, 3.0, 3.0, 5.0, 5.0, 6.0, 6.0]


@pytest.mark.parametrize("engine", ENGINES)
def test_swa_from_the_beginning(engine: ao.EngineName) -> None:
    """With a start of 0 the parameter before its first step counts; with 1 the first is the one after it."""
    for start, expected in ((0, [3.0, 4.0]), (1, [4.0, 5.0])):
        optimizer, p = ao.chain(ao.SGD(1.0), ao.SWA(start), engine=engine), np.full(1, 2.0)
        found = []
        for _ in range(2):
            optimizer.update(p, np.full(1, -2.0))
            assert optimizer.state is not None
            found.append(optimizer.state.slots[1]["average"][0])
        assert found == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "complex64"])
def test_swa_before_its_start_is_p_to_the_last_bit(engine: ao.EngineName, dtype: str) -> None:
    """And at the first step of the mean: no rounding, no infinity less infinity, no overflow on the way."""
    optimizer, p = _told(ao.SWA(4), engine), np.zeros(len(SPECIAL), dtype)
    with np.errstate(all="ignore"):
        for k in range(4):
            values = np.roll(np.array(SPECIAL, dtype), k)
            if "complex" in dtype:
                values = values + np.array(SPECIAL[::-1], "f4").astype(dtype) * 1j
            average = _tell(optimizer, p, values)
            assert agree(average, p.astype(average.dtype))
    assert np.isnan(p).any()
    assert np.isinf(p).any()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_swa_rests_between_its_steps(engine: ao.EngineName, dtype: str) -> None:
    """Whatever p is, NaN and infinite too: the average keeps its very bits."""
    optimizer, p = _told(ao.SWA(1, every=3), engine), np.zeros(len(SPECIAL), dtype)
    rng = np.random.default_rng(1)
    first = _tell(optimizer, p, rng.normal(size=p.shape))
    with np.errstate(all="ignore"):
        assert same_bits(_tell(optimizer, p, SPECIAL), first)
        assert same_bits(_tell(optimizer, p, SPECIAL[::-1]), first)
    second = rng.normal(size=p.shape).astype(dtype)
    mean = _tell(optimizer, p, second)
    wide = second.astype(first.dtype)
    assert same_bits(mean, first + first.dtype.type(0.5) * (wide - first))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stage", [lambda: ao.SWA(2, every=2), lambda: ao.Lookahead(3)], ids=["SWA", "Lookahead"])
def test_steps_are_the_parameters_own(engine: ao.EngineName, stage: Callable[[], ao.ParameterStage]) -> None:
    """A parameter without a gradient now and then has its average, and its way back, by its own count."""
    params, grads = problem(steps=12)
    optimizer = ao.chain(ao.Momentum(0.1), stage(), engine=engine)
    given = [{**g, "b": g["b"] if k % 3 else None, "s": g["s"] if k > 5 else None} for k, g in enumerate(grads)]
    p, slots = run(optimizer, {k: a.copy() for k, a in params.items()}, given)
    for key in params:
        alone = ao.chain(ao.Momentum(0.1), stage(), engine=engine)
        q, of = run(alone, {key: params[key].copy()}, [{key: g[key]} for g in given if g[key] is not None])
        assert agree(p[key], q[key])
        assert all(agree(slots[1][name][key], of[1][name][key]) for name in of[1])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
def test_lookahead_leaves_p_alone_between_its_steps(engine: ao.EngineName, dtype: str) -> None:
    """It has the bits that it has without the stage, and goes back at every fifth; slots of the method go on."""
    params, grads = problem(dtype, steps=14)
    optimizer, plain = ao.chain(ao.Momentum(0.1), ao.Lookahead(), engine=engine), ao.Momentum(0.1, engine="portable")
    p, q = ({k: a.copy() for k, a in params.items()} for _ in range(2))
    slow = {k: a.astype(np.result_type(a, np.float32)) for k, a in params.items()}
    half, last = np.float32(0.5), params
    for t, g in enumerate(grads, 1):
        optimizer.update(p, g)
        plain.update(q, g)
        assert optimizer.state is not None
        if t % 5 == 0:
            if dtype == "float16":  # before it is rounded
                before = {k: a.astype("f4") for k, a in last.items()}
                assert plain.state is not None
                ahead = {k: before[k] + plain.state.slots["v"][k] for k in q}
            else:
                ahead = q
            slow = {k: slow[k] + half.astype(slow[k].real.dtype) * (ahead[k] - slow[k]) for k in q}
            for k in q:
                q[k][...] = slow[k]
        last = {k: a.copy() for k, a in q.items()}
        assert agree(p, q)
        assert agree(optimizer.state.slots[1]["slow"], slow)


@pytest.mark.parametrize("engine", ENGINES)
def test_lookahead_is_spoilt_by_what_is_no_number_only_where_it_goes(engine: ao.EngineName) -> None:
    """Between, `slow` keeps its bits; p keeps its NaN and infinities; where it goes back, they are in both."""
    optimizer, p = _told(ao.Lookahead(3, 0.25), engine), np.zeros(len(SPECIAL))
    for k in range(3):
        slow = _tell(optimizer, p, np.roll(SPECIAL, k))
        told = np.roll(SPECIAL, k) + 0.0  # without -0.0
        if k < 2:
            assert same_bits(slow, np.zeros(len(SPECIAL)))
            assert same_bits(p, told)
        else:
            with np.errstate(all="ignore"):
                assert same_bits(slow, 0.0 + 0.25 * (told - 0.0))
            assert same_bits(p, slow)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_negative_zero_is_left_alone(engine: ao.EngineName) -> None:
    """Of a parameter that does not move: p, and the average that it starts as."""
    p = np.array([-0.0, 0.0])
    for stage in (ao.SWA(1, every=2), ao.SWA(5), ao.Lookahead(2)):
        optimizer, q = ao.chain(ao.SGD(1.0), stage, engine=engine), p.copy()
        optimizer.update(q, np.zeros(2))
        assert optimizer.state is not None
        assert same_bits(q, p)
        assert same_bits(*(next(iter(optimizer.state.slots[1].values())), p))


@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "portable"])
@pytest.mark.parametrize(("made", "how"), [(ao.SWA, (3, 2)), (ao.Lookahead, (3,))], ids=["SWA", "Lookahead"])
def test_one_kernel_for_all_steps(engine: ao.EngineName, made: Any, how: tuple[int, ...]) -> None:
    """The rule is traced once, whether or not a step counts."""
    calls = []

    class Counted(made):  # type: ignore[misc]
        @staticmethod
        def rule(*arguments: Any) -> Any:
            calls.append(arguments)
            return made.rule(*arguments)

    params, grads = problem(steps=12)
    expected = run(ao.chain(ao.SGD(0.1), made(*how), engine=engine), {k: a.copy() for k, a in params.items()}, grads)
    assert agree(run(ao.chain(ao.SGD(0.1), Counted(*how), engine=engine), params, grads), expected)
    assert len(calls) == 1


@pytest.mark.parametrize("kind", ["int32", "uint32"])
@pytest.mark.parametrize("make", [lambda: ao.SWA(4, every=3), lambda: ao.SWA(0), lambda: ao.Lookahead(3)])
def test_counts_of_any_integer_dtype_under_jit(
    make: Callable[[], ao.ParameterStage], kind: str, need: Callable[[str], Library]
) -> None:
    """Traced once, with t as it came out of a file: what NumPy gives, to 1e-6; before the start, nothing wraps."""
    lib = need("jax")
    import jax
    import jax.numpy as jnp

    params, grads = problem("float32", steps=15)
    optimizer, traces = ao.chain(ao.SGD(0.1), make()), []

    def step(p: Any, g: Any, state: Any) -> Any:
        traces.append(p)
        return optimizer.step(p, g, state)

    new: Any = {k: lib.asarray(a) for k, a in params.items()}
    state = optimizer.init(new)
    zero = jnp.zeros((), kind)
    state = state._replace(step=zero, t=dict.fromkeys(state.t, zero))
    jitted = quick(step)
    for g in grads:
        new, state = jitted(new, {k: lib.asarray(a) for k, a in g.items()}, state)
    expected = run(ao.chain(ao.SGD(0.1), make()), params, grads)
    assert len(traces) == 1
    for a, b in zip(flat(jax.tree.map(np.asarray, (new, state.slots))), flat(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_share_of_lookahead_is_live(engine: ao.EngineName) -> None:
    """A schedule, or set between steps; 0 goes back all the way, 1 nowhere."""
    for share in (lambda t: 0.5 if t == 2 else 0.0, 0.5):
        optimizer, p = ao.chain(ao.SGD(1.0), ao.Lookahead(2, share), engine=engine), np.zeros(1)
        path = []
        for k in range(4):
            optimizer.update(p, np.full(1, -1.0))
            path.append(p[0])
            if k == 1 and share == 0.5:
                optimizer.stages[1].share = 0.0
        assert path == [1.0, 1.0, 2.0, 1.0]


def test_averages_of_complex_parameters_are_two() -> None:
    """Of both parts, as those of two real parameters."""
    params, grads = problem("complex128", steps=9)
    for stage in (ao.SWA(2, every=2), ao.Lookahead(4)):
        p, slots = run(ao.chain(ao.Momentum(0.1), stage), {k: a.copy() for k, a in params.items()}, grads)
        parts = [
            run(
                ao.chain(ao.Momentum(0.1), stage),
                {k: np.array(part(a)) for k, a in params.items()},
                [{k: np.array(part(a)) for k, a in g.items()} for g in grads],
            )
            for part in (np.real, np.imag)
        ]
        (re, of_re), (im, of_im) = parts
        (name,) = stage.slots
        for k in params:
            assert same_bits(p[k], re[k] + 1j * im[k])
            assert same_bits(slots[1][name][k], of_re[1][name][k] + 1j * of_im[1][name][k])
