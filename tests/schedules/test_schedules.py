"""Schedules are values, plain floats on the host, and the same numbers under `jax.jit`."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import anyoptim as ao
from anyoptim import schedules
from anyoptim.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    InverseSqrt,
    Linear,
    MultiStep,
    OneCycle,
    Plateau,
    Polynomial,
    StepDecay,
    WarmupStableDecay,
    join,
    piecewise,
    warmup,
    warmup_cosine,
)
from tests.support.libraries import Library, same_bits
from tests.support.xla import quick

EXAMPLES: dict[str, Callable[[], list[Any]]] = {
    "Constant": lambda: [Constant(0.1), Constant(0.2)],
    "StepDecay": lambda: [StepDecay(0.1, 30), StepDecay(0.1, 7, 0.5)],
    "MultiStep": lambda: [MultiStep(0.1, [5, 20, 21], 0.5), MultiStep(0.1, ())],
    "Exponential": lambda: [Exponential(0.1, 0.97), Exponential(1e-6, 1.3, 10)],
    "Polynomial": lambda: [Polynomial(0.1, 50, 0.01, 2), Polynomial(0.1, 50, power=0.5), Polynomial(0.0, 9, 0.3, 3)],
    "Linear": lambda: [Linear(0.1, 50), Linear(0.01, 30, 0.1)],
    "Cosine": lambda: [Cosine(0.1, 50), Cosine(0.3, 70, 0.1), Cosine(0.0, 1, 0.5)],
    "InverseSqrt": lambda: [InverseSqrt(0.1), InverseSqrt(0.1, 30)],
    "CosineRestarts": lambda: [
        CosineRestarts(0.1, 10),
        CosineRestarts(0.1, 5, 0.01, 2),
        CosineRestarts(1, 3, 0, 3, 0.7),
    ],
    "Cyclic": lambda: [
        Cyclic(0.01, 0.1, 10),
        Cyclic(0.01, 0.1, 7, 13, "triangular2"),
        Cyclic(0.95, 0.85, 9, 4, "exp_range", 0.99),
    ],
    "OneCycle": lambda: [
        OneCycle(0.1, 50),
        OneCycle(0.1, 60, 20, 20, ease="linear"),
        OneCycle(0.8, 9, 4, None, 0.9, 0.9),
    ],
    "WarmupStableDecay": lambda: [
        WarmupStableDecay(0.1, 10, 20, 30),
        WarmupStableDecay(0.1, 0, 0, 9, 0.05, 0.01, "cosine"),
        WarmupStableDecay(0.1, 5, 5, 9, ease="sqrt"),
        WarmupStableDecay(0.1, 5, 5, 0),
    ],
    "join": lambda: [join([Linear(0.0, 10, 0.1), 0.1, Cosine(0.1, 30)], [10, 25]), join([Cosine(0.1, 9)], [])],
    "warmup": lambda: [warmup(10, Cosine(0.1, 40)), warmup(10, 0.1, start=0.05), warmup(0, InverseSqrt(0.1))],
    "warmup_cosine": lambda: [warmup_cosine(0.1, 60, 10), warmup_cosine(0.1, 50, 7, 0.01, 0.02)],
    "piecewise": lambda: [
        piecewise({0: 0.1, 10: 0.01, 50: 0.05}),
        piecewise([(5, 0.1), (30, 0.2)], "cosine"),
        piecewise({2: 0.3, 43: 0.1, 92: 0.2}, "constant"),  # 41/41 and 49/49 by reciprocals are below 1
        piecewise({2: 0.3, 20: 0.1}, "sqrt"),
        piecewise({7: 0.3}),
    ],
    "Plateau": lambda: [told(Plateau(0.1, 0.5)), told(Plateau(Cosine(0.1, 30), 0.3, 1, minimum=0.2), 1.0, 1.0, 1.0)],
}


def told(plateau: Plateau, *losses: float) -> Plateau:
    for loss in losses:
        plateau.tell(loss)
    return plateau


@pytest.fixture(params=[f"{name} {i}" for name, make in EXAMPLES.items() for i in range(len(make()))])
def build(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """Each example in turn: what builds it, anew each time."""
    name, i = request.param.split()
    return lambda: EXAMPLES[name]()[int(i)]


@pytest.fixture
def schedule(build: Callable[[], Any]) -> Any:
    return build()


STEPS = [*range(1, 220), 10_000, 2**31 - 1]


def test_every_public_schedule_has_examples() -> None:
    """The table is complete, so that what follows is said of all."""
    assert set(EXAMPLES) == set(schedules.__all__) - {"plot", "scalars"}
    for name in EXAMPLES:
        text = inspect.getdoc(getattr(schedules, name)) or ""
        assert "::\n" in text
        assert "Args:" in text
        assert "Source: " in text or name == "Constant"


@pytest.mark.parametrize("name", [name for name in schedules.__all__ if inspect.isclass(getattr(schedules, name))])
def test_wrong_arguments_are_refused_in_the_name_of_the_class(name: str) -> None:
    """Python names the class that was called, and no private base of it."""
    with pytest.raises(TypeError, match=rf"^{name}\.__init__\(\) "):
        getattr(schedules, name)(gamma=0.5)


def test_values_are_python_floats_at_every_step(schedule: Any) -> None:
    """Values are Python floats, finite far beyond the end; NumPy's float64 would turn float32 arrays into float64."""
    values = [schedule(t) for t in STEPS]
    assert all(type(v) is float for v in values)
    growing = isinstance(schedule, Exponential) and schedule.factor > 1
    assert all(math.isfinite(v) and v >= 0 for v in values[: -1 if growing else None])
    assert values == [schedule(t) for t in STEPS]  # it remembers nothing


def test_an_array_of_steps_gives_an_array_of_values(schedule: Any) -> None:
    """Of its shape, with the bits of number by number."""
    steps = np.arange(1, 21).reshape(4, 5)
    values = schedule(steps)
    assert values.dtype == np.float64
    assert values.tolist() == [[schedule(t) for t in row] for row in steps.tolist()]
    with pytest.raises(ValueError, match="step is 0; wanted at least 1"):
        schedule(steps - 1)
    with pytest.raises(TypeError, match=r"step is 1\.5; wanted an integer"):
        schedule(np.array([1.5]))


@pytest.mark.covering(1)  # a schedule is asked for the step that the library's array holds
def test_integers_of_other_kinds_are_steps(schedule: Any, lib: Library) -> None:
    """NumPy's scalars and known 0-d arrays of any library give the host's floats."""
    for t in (1, 12, 99):
        for step in (np.int64(t), np.uint8(t), lib.array(t, "int64" if lib.name != "jax" else "int32")):
            assert schedule(step) == schedule(t)
            assert type(schedule(step)) is float


def test_repr_builds_it_again(schedule: Any) -> None:
    """`eval` of the repr gives an equal schedule with equal values."""
    again = eval(repr(schedule), vars(schedules))  # noqa: S307 - it is ours
    assert again == schedule
    assert repr(again) == repr(schedule)
    assert [again(t) for t in range(1, 99)] == [schedule(t) for t in range(1, 99)]


def test_arguments_are_attributes_in_order(schedule: Any) -> None:
    """The repr names all arguments of the constructor, as they stand there, and nothing else."""
    assert list(inspect.signature(type(schedule)).parameters) == list(vars(schedule)) == list(schedule.arguments)


def test_equality_is_of_class_and_arguments() -> None:
    """All examples, built twice, equal their twins alone; hashes follow."""
    ones, twos = ([s for make in EXAMPLES.values() for s in make()] for _ in range(2))
    for (i, a), (j, b) in itertools.product(enumerate(ones), enumerate(twos)):
        assert (a == b) is (i == j)
        if i == j and not isinstance(a, Plateau):
            assert hash(a) == hash(b)
    assert Constant(0.1) != 0.1
    assert Linear(0.1, 50) != Cosine(0.1, 50)


def test_pickles_and_copies_are_equal(schedule: Any) -> None:
    """Copies and pickles, of the protocols that Python 3.11 writes by default and later, equal the schedule."""
    copies = [pickle.loads(pickle.dumps(schedule, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]  # noqa: S301 - ours
    for other in (*copies, copy.deepcopy(schedule), copy.copy(schedule)):
        assert other == schedule
        assert [other(t) for t in range(1, 99)] == [schedule(t) for t in range(1, 99)]


def test_arguments_never_change(schedule: Any) -> None:
    """No attribute changes, and none can be added by misspelling one."""
    before = repr(schedule)
    for name in (*schedule.arguments, "misspelt"):
        with pytest.raises(AttributeError, match="can't be changed"):
            setattr(schedule, name, 1)
    assert repr(schedule) == before


@pytest.mark.parametrize("x64", [False, pytest.param(True, marks=pytest.mark.product)])
def test_under_jit_the_values_are_the_hosts(schedule: Any, x64: bool, need: Callable[[str], Library]) -> None:
    """To the round-off of a handful of operations: on values, and on the exponents of powers.

    An operation in float32 is off by 2**-24 of its result. Every step towards a value is made of at most ten, on
    numbers no larger than the largest value; and the exponent k*log(factor), wherever powers enter, is below 32
    where its power is above 1e-14.
    """
    need("jax-x64" if x64 else "jax")
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(x64):
        steps = jnp.asarray(STEPS)
        both = (quick if x64 else jax.jit)(  # what users get, and the same text in float64
            jax.vmap(lambda t: (jnp.asarray(schedule(t)), jnp.asarray(schedule(t.astype(jnp.uint32)))))
        )
        traced, unsigned = map(np.asarray, both(steps))
    host = np.array([schedule(t) for t in STEPS])
    assert traced.dtype == (np.float64 if x64 else np.float32)
    eps = 2.0 ** (-53 if x64 else -24)
    finite = host < 1e30
    assert finite[:-2].all()
    for values in (traced, unsigned):
        np.testing.assert_allclose(values[finite], host[finite], rtol=32 * eps, atol=10 * eps * host[:219].max())


LONG = 2**33
"""More steps than the 32-bit counts of JAX without x64 reach."""

FAR: dict[str, Callable[[], Any]] = {
    "StepDecay": lambda: schedules.StepDecay(1.0, LONG),
    "MultiStep": lambda: schedules.MultiStep(1.0, [3, LONG]),
    "Exponential": lambda: schedules.Exponential(1.0, 0.5, LONG),
    "Polynomial": lambda: schedules.Polynomial(1.0, LONG, power=2.0),
    "Linear": lambda: schedules.Linear(1.0, LONG),
    "Cosine": lambda: schedules.Cosine(1.0, LONG),
    "InverseSqrt": lambda: schedules.InverseSqrt(1.0, LONG),
    "CosineRestarts": lambda: schedules.CosineRestarts(1.0, LONG),
    "growing": lambda: schedules.CosineRestarts(1.0, LONG, growth=2),
    "Cyclic": lambda: schedules.Cyclic(0.1, 1.0, LONG, LONG),
    "OneCycle": lambda: schedules.OneCycle(1.0, LONG),
    "WarmupStableDecay": lambda: schedules.WarmupStableDecay(1.0, 3, LONG, LONG),
    "join": lambda: schedules.join([schedules.Linear(1.0, LONG), schedules.Constant(0.1)], [LONG]),
    "warmup": lambda: schedules.warmup(LONG, schedules.Cosine(1.0, LONG)),
    "piecewise": lambda: schedules.piecewise({1: 1.0, LONG: 0.0}),
    "optax": lambda: ao.compat.optax.cosine_decay_schedule(1.0, LONG),
    "optax, stairs": lambda: ao.compat.optax.piecewise_constant_schedule(1.0, {LONG: 0.5}),
    "Keras": lambda: ao.compat.keras.schedules.CosineDecay(0.1, LONG, warmup_target=1.0, warmup_steps=LONG),
    "Keras, again": lambda: ao.compat.keras.schedules.PolynomialDecay(1.0, LONG, cycle=True),
    "Keras, stairs": lambda: ao.compat.keras.schedules.ExponentialDecay(1.0, LONG, 0.5, staircase=True),
}


@pytest.mark.parametrize("name", FAR)
def test_lengths_that_traced_counts_do_not_reach(name: str, need: Callable[[str], Library]) -> None:
    """The values under `jax.jit` are the host's, to float32's round-off in a handful of operations."""
    need("jax")
    import jax

    far = FAR[name]()
    traced = jax.jit(far)
    for t in (1, 2, 5, 10**6, 2**31 - 1):
        assert abs(float(traced(np.int32(t))) - far(t)) <= 32 * 2.0**-24


@pytest.mark.parametrize(
    ("schedule", "step"), [(Exponential(0.1, 0.9999), 50_001), (Polynomial(0.1, 100_000, power=0.5), 100_000)]
)
def test_powers_under_jit_are_of_numbers_that_are_not_rounded_first(
    schedule: Any, step: int, need: Callable[[str], Library]
) -> None:
    """0.9999 in float32 is another number, of which 50,000 steps make an error of nearly 1e-3; so is 1 - 0.99999.

    The tolerance: an exponent near 5, and a handful of roundings.
    """
    need("jax")
    import jax

    assert float(jax.jit(schedule)(step)) == pytest.approx(schedule(step), rel=16 * 2.0**-24)


def test_schedules_of_adam_are_live(build: Callable[[], Any]) -> None:
    """Adam with a schedule takes the steps of an Adam whose lr is set by hand, in float32, bit for bit."""
    rng = np.random.default_rng(0)
    scheduled, by_hand, schedule = ao.Adam(lr=build()), ao.Adam(), build()
    one, two = np.ones(5, np.float32), np.ones(5, np.float32)
    for t in range(1, 40):
        g = rng.normal(size=5).astype(np.float32)
        scheduled.update(one, g)
        by_hand.lr = schedule(t)
        by_hand.update(two, g)
    assert one.dtype == np.float32
    assert same_bits(one, two)


@pytest.mark.product  # the values of each under jit are tested above, and a schedule in a scan in core/test_jax.py
@pytest.mark.covering(1)
@pytest.mark.parametrize("x64", [False, True])
def test_schedules_of_adam_under_jit(build: Callable[[], Any], x64: bool, need: Callable[[str], Library]) -> None:
    """Compiled once, the pure form follows the schedule, and keeps float32; `update` is the reference."""
    need("jax-x64" if x64 else "jax")
    import jax
    import jax.numpy as jnp

    compiled = 0
    with jax.enable_x64(x64):
        optimizer, eager = ao.Adam(lr=build()), ao.Adam(lr=build())

        def step(p: Any, g: Any, state: Any) -> Any:
            nonlocal compiled
            compiled += 1
            return optimizer.step(p, g, state)

        jitted = quick(step)

        p, w = jnp.ones(3, jnp.float32), np.ones(3, np.float32)
        state = optimizer.init(p)
        for t in range(1, 30):
            g = np.array([1.0, -t, 1 / t], np.float32)
            p, state = jitted(p, jnp.asarray(g), state)
            eager.update(w, g)
        assert p.dtype == jnp.float32
        # 30 steps of float32 arithmetic on numbers near 1, and on sums of rates that are below 0.5 each.
        np.testing.assert_allclose(np.asarray(p), w, rtol=1e-5, atol=1e-5)
    assert compiled <= 2  # the first state has numbers of the host


VALUE = st.floats(0, 1e3)
LENGTH = st.integers(1, 10_000)
SMALL = 4 * 2.0**-52
"""Three roundings of values, with room for that of the cosine."""


@given(start=VALUE, end=VALUE, steps=LENGTH, t=st.integers(1, 20_000), p=st.floats(0.1, 5))
def test_ways_between_two_values_stay_between_them(start: float, end: float, steps: int, t: int, p: float) -> None:
    """Schedules begin and end exactly, never leave the interval by more than rounding, and never turn back."""
    low, high = min(start, end), max(start, end)
    ways: list[Any] = [Linear(start, steps, end), Cosine(start, steps, end), Polynomial(start, steps, end, p)]
    ways += [piecewise({0: start, steps: end}, ease) for ease in ("linear", "cosine", "sqrt", "constant")]
    ways += [WarmupStableDecay(start, 0, 0, steps, 0.0, end, ease) for ease in ("linear", "cosine", "sqrt")]
    ways += [warmup(steps, end, start), join([Linear(start, steps, end), end], [steps])]
    for way in ways:
        assert way(1) == start
        assert way(steps + 1) == way(steps + 2) == way(steps + t) == end
        assert low - SMALL * high <= way(t) <= high + SMALL * high
        here, there = way(t), way(t + 1)
        assert (there - here) * (1 if end >= start else -1) >= -SMALL * high


@given(start=st.floats(1e-3, 1e3), factor=st.floats(0.01, 1), steps=LENGTH, t=st.integers(1, 100_000))
def test_decays_fall_for_ever_and_never_below_zero(start: float, factor: float, steps: int, t: int) -> None:
    """The value at step 1 is exactly the start, and each later one at most the one before."""
    for decay in (StepDecay(start, steps, factor), Exponential(start, factor, steps), InverseSqrt(start, steps)):
        assert decay(1) == start
        assert 0 <= decay(t + 1) <= decay(t) <= start
    assert StepDecay(start, steps, factor)(steps) == start
    assert StepDecay(start, steps, factor)(steps + 1) == start * factor


@given(
    low=VALUE,
    high=VALUE,
    up=LENGTH,
    down=LENGTH,
    t=st.integers(1, 10**9),
    growth=st.integers(1, 4),
    decay=st.floats(0.1, 1),
)
def test_cycles_stay_in_their_interval(
    low: float, high: float, up: int, down: int, t: int, growth: int, decay: float
) -> None:
    """Cycles repeat, wherever in them, and each restart begins at the top."""
    bottom, top = min(low, high) - SMALL * 1e3, max(low, high) + SMALL * 1e3
    for mode in ("triangular", "triangular2", "exp_range"):
        cyclic = Cyclic(low, high, up, down, mode, 0.999)
        assert cyclic(1) == cyclic(up + down + 1) == low
        assert bottom <= cyclic(t) <= top
    assert Cyclic(low, high, up, down)(up + 1) == high
    restarts = CosineRestarts(high, up, 0.0, growth, decay)
    assert -SMALL <= restarts(t) <= high + SMALL * high
    assert restarts(1) == high
    assert restarts(up + 1) == pytest.approx(high * decay, rel=SMALL)
    assert restarts(up + up * growth + 1) == pytest.approx(high * decay**2, rel=SMALL)


def test_transformers_schedule() -> None:
    """Vaswani et al., equation 3, scaled to its peak: min(n/w, sqrt(w/n)), with n = t - 1."""
    w = 40
    ours = warmup(w, InverseSqrt(0.3, w))
    theirs = [0.3 * min(n / w, math.sqrt(w / n)) for n in range(1, 400)]
    # A handful of roundings each.
    np.testing.assert_allclose([ours(n + 1) for n in range(1, 400)], theirs, rtol=1e-15, atol=0)
    assert ours(1) == 0
    np.testing.assert_allclose([InverseSqrt(0.3)(t) for t in (1, 4, 100)], [0.3, 0.15, 0.03], rtol=1e-15)


def test_the_way_down_along_a_root() -> None:
    """Hägele et al., section 3: 1 - sqrt((n - beginning)/decay)."""
    ours = WarmupStableDecay(0.1, 10, 20, 50, ease="sqrt")
    theirs = [0.1 * (1 - math.sqrt((n - 30) / 50)) for n in range(30, 81)]
    np.testing.assert_allclose([ours(n + 1) for n in range(30, 81)], theirs, rtol=0, atol=1e-16)


def test_joined_schedules_count_their_own_steps_and_are_asked_for_no_others() -> None:
    """Lists that are indexed by the step would fail otherwise."""
    calls: list[tuple[str, int]] = []

    def listed(name: str, values: list[float]) -> Callable[[int], float]:
        return lambda t: (calls.append((name, t)), values[t - 1])[1]  # type: ignore[func-returns-value]

    joined = join([listed("a", [1, 2, 3]), listed("b", [4, 5]), lambda t: 6.0], [3, 5])
    assert [joined(t) for t in range(1, 8)] == [1, 2, 3, 4, 5, 6, 6]
    assert set(calls) == {("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2)}
    warm = warmup(2, listed("c", [4, 5]))
    assert [warm(t) for t in range(1, 5)] == [0, 2, 4, 5]


def test_what_others_schedules_give_becomes_a_float() -> None:
    """A schedule that somebody wrote may give NumPy scalars and 0-d arrays; NaN is refused with its place."""
    kinds: list[Callable[[int], Any]] = [np.float64, np.array, lambda t: 3]
    for kind in kinds:
        for wrapped in (join([kind], []), warmup(1, kind), Plateau(kind)):
            assert type(wrapped(1)) is float
    with pytest.raises(ValueError, match=r"schedules\[1\] at its step 2 is nan; wanted finite"):
        join([1.0, lambda t: math.nan if t == 2 else 1.0], [3])(5)


def test_powers_that_are_too_large_are_infinite_and_refused_by_the_optimizer() -> None:
    """The refusal names the hyperparameter and the step, and is no OverflowError from nowhere."""
    optimizer = ao.SGD(lr=Exponential(1.0, 1e300))
    p = optimizer.update(optimizer.update(1.0, 0.0), 0.0)
    with pytest.raises(ValueError, match=r"lr, from its schedule at step 3, is inf; wanted finite and at least 0"):
        optimizer.update(p, 0.0)


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: Constant("x"), TypeError, "value is 'x'; wanted a real number, finite"),  # type: ignore[arg-type]
    (lambda: Constant(math.nan), ValueError, "value is nan; wanted finite"),
    (lambda: Linear(math.inf, 3), ValueError, "start is inf; wanted finite"),
    (lambda: Linear(0.1, 0), ValueError, "steps is 0; wanted at least 1"),
    (lambda: Linear(0.1, 2.5), TypeError, "steps is 2.5; wanted an integer"),  # type: ignore[arg-type]
    (lambda: Linear(0.1, 3, None), TypeError, "end is None; wanted a real number"),  # type: ignore[arg-type]
    (lambda: Cosine(0.1, -3), ValueError, "steps is -3; wanted at least 0"),
    (lambda: StepDecay(0.1, 3, 0.0), ValueError, "factor is 0.0; wanted finite and above 0"),
    (lambda: MultiStep(0.1, [3, 3]), ValueError, "boundaries is (3, 3); wanted integers that increase"),
    (lambda: MultiStep(0.1, [0, 3]), ValueError, "boundaries[0] is 0; wanted at least 1"),
    (lambda: MultiStep(0.1, [1, "3"]), TypeError, "boundaries[1] is '3'; wanted an integer"),  # type: ignore[list-item]
    (lambda: MultiStep(0.1, 3), TypeError, "boundaries is 3; wanted integers that increase"),  # type: ignore[arg-type]
    (lambda: Exponential(0.1, -0.5), ValueError, "factor is -0.5; wanted finite and above 0"),
    (lambda: Polynomial(0.1, 3, power=0), ValueError, "power is 0.0; wanted finite and above 0"),
    (lambda: CosineRestarts(0.1, 3, growth=0), ValueError, "growth is 0; wanted at least 1"),
    (lambda: CosineRestarts(0.1, 3, decay=1.5), ValueError, "decay is 1.5; wanted above 0 and at most 1"),
    (lambda: Cyclic(0, 1, 0), ValueError, "up is 0; wanted at least 1"),
    (lambda: Cyclic(0, 1, 1, 0), ValueError, "down is 0; wanted at least 1"),
    (
        lambda: Cyclic(0, 1, 1, mode="square"),
        ValueError,
        "mode is 'square'; wanted one of 'triangular', 'triangular2', ",
    ),
    (lambda: Cyclic(0, 1, 1, gamma=2), ValueError, "gamma is 2.0; wanted above 0 and at most 1"),
    (lambda: OneCycle(0.1, 1), ValueError, "steps is 1; wanted at least 2"),
    (lambda: OneCycle(0.1, 9, 5, 4), ValueError, "up is 5 and down is 4; wanted less than steps, 9, together"),
    (
        lambda: OneCycle(0.1, 9, ease="constant"),
        ValueError,
        "ease is 'constant'; wanted one of 'linear', 'cosine', 'sqrt'",
    ),
    (lambda: WarmupStableDecay(0.1, -1, 3, 3), ValueError, "warmup is -1; wanted at least 0"),
    (lambda: join([], []), ValueError, "boundaries has 0 for 0 schedules; wanted one less"),
    (lambda: join([0.1, 0.2], [3, 4]), ValueError, "boundaries has 2 for 2 schedules; wanted one less"),
    (lambda: join([0.1, "x"], [3]), TypeError, "schedules[1] is 'x'; wanted a real number"),  # type: ignore[list-item]
    (lambda: join(Cosine(0.1, 3), [3]), TypeError, "wanted a list of schedules"),  # type: ignore[arg-type]
    (lambda: warmup(3, None), TypeError, "schedule is None; wanted a real number"),  # type: ignore[arg-type]
    (lambda: warmup_cosine(0.1, 10, 10), ValueError, "warmup_steps is 10; wanted less than steps, 10"),
    (lambda: piecewise({}), ValueError, "points is empty; wanted at least one"),
    (lambda: piecewise([3]), TypeError, "points is [3]; wanted a dict"),  # type: ignore[list-item]
    (lambda: piecewise({3: 0.1, 1: 0.2}), ValueError, "steps of points is (3, 1); wanted integers that increase"),
    (lambda: piecewise({3: math.nan}), ValueError, "points[3] is nan; wanted finite"),
    (lambda: piecewise({3: 1.0}, "spline"), ValueError, "ease is 'spline'; wanted one of 'constant', 'linear', "),
    (lambda: Plateau(0.1, 1.0), ValueError, "factor is 1.0; wanted above 0 and below 1"),
    (lambda: Plateau(0.1, patience=-1), ValueError, "patience is -1; wanted at least 0"),
    (lambda: Plateau(0.1, threshold_mode="x"), ValueError, "threshold_mode is 'x'; wanted one of 'rel', 'abs'"),
    (lambda: Plateau(0.1, mode="x"), ValueError, "mode is 'x'; wanted one of 'min', 'max'"),
    (lambda: Plateau(0.1, minimum=2), ValueError, "minimum is 2.0; wanted at least 0 and at most 1"),
    (
        lambda: Plateau(0.1, state={"best": 1}),
        ValueError,
        "state is {'best': 1}; wanted a dict with multiplier, best, ",
    ),
    (lambda: Plateau(0.1).tell("x"), TypeError, "loss is 'x'; wanted a real number"),  # type: ignore[arg-type]
    (lambda: Constant(0.1)(0), ValueError, "step is 0; wanted at least 1"),
    (lambda: Constant(0.1)(1.5), TypeError, "step is 1.5; wanted an integer"),  # type: ignore[arg-type]
    (lambda: schedules.plot(0.1, steps=0), ValueError, "steps is 0; wanted at least 1"),
    (lambda: schedules.plot("x", steps=3), TypeError, "schedules[0] is 'x'; wanted"),  # type: ignore[arg-type]
    (lambda: schedules.plot(0.1, steps=3, labels=[]), ValueError, "labels has 0 for 1 schedules; wanted one for each"),
]


@pytest.mark.parametrize(("call", "kind", "text"), BAD, ids=[text for _, _, text in BAD])
def test_errors_name_the_argument_what_came_and_what_was_wanted(
    call: Callable[[], Any], kind: type[Exception], text: str
) -> None:
    """Arguments are refused by name before anything is built."""
    with pytest.raises(kind) as caught:
        call()
    assert text in str(caught.value)


def test_plateau_keeps_its_multiplier_but_for_tell() -> None:
    """No number of steps changes it, nor does NaN reset anything; patience counts what is told."""
    plateau = Plateau(Linear(1.0, 10, 2.0), factor=0.5, patience=1)
    assert [plateau(t) for t in (1, 6, 11, 11)] == [1.0, 1.5, 2.0, 2.0]
    told(plateau, math.nan, 3.0, 3.0)
    assert plateau(11) == 2.0
    plateau.tell(math.inf)
    assert [plateau(t) for t in (1, 11)] == [0.5, 1.0]
    assert plateau.state == {"multiplier": 0.5, "best": 3.0, "failures": 0, "resting": 0}


def test_relative_threshold_of_a_negative_best() -> None:
    """What is worse by less than the threshold is no improvement, though torch takes it for one."""
    plateau = told(Plateau(1.0, 0.5, patience=0, threshold=0.1), -1.0, -0.95)
    assert plateau(1) == 0.5
    assert told(Plateau(1.0, 0.5, patience=0, threshold=0.1), -1.0, -1.05)(1) == 0.5
    assert told(Plateau(1.0, 0.5, patience=0, threshold=0.1), -1.0, -1.11)(1) == 1.0


def test_plateau_continues_from_its_state() -> None:
    """A state, through JSON, continues as the plateau itself does; and is not shared."""
    import json

    losses = np.random.default_rng(3).normal(size=60).tolist()
    one = told(Plateau(0.1, 0.7, 2, cooldown=2), *losses[:25])
    two = Plateau(0.1, 0.7, 2, cooldown=2, state=json.loads(json.dumps(one.state)))
    three = Plateau(0.1, 0.7, 2, cooldown=2, state=one.state)
    assert one == two
    for loss in losses[25:]:
        one.tell(loss)
        two.tell(loss)
        assert one == two
    assert one(1) < three(1)
    low = {"multiplier": 0.1, "best": 1.0, "failures": 0, "resting": 0}
    assert told(Plateau(1.0, patience=0, minimum=0.5, state=low), 1.0)(1) == 0.1  # nothing ever raises it


def test_copies_of_a_plateau_are_told_on_their_own() -> None:
    """Both kinds of copies are told on their own, and so is the one in a copy of an optimizer."""
    plateau = told(Plateau(0.5, 0.5, patience=0), 1.0)
    optimizer: Any = ao.SGD(lr=plateau)
    others: list[Any] = [copy.copy(plateau), copy.deepcopy(plateau), copy.copy(optimizer).lr]
    plateau.tell(1.0)
    assert [other(1) for other in others] == [0.5, 0.5, 0.5]
    assert optimizer.update(1.0, 1.0) == 0.75  # and the optimizer's own one is live


def test_plateau_under_jit_refuses_a_traced_loss(need: Callable[[str], Library]) -> None:
    """It would remember a value that is not known; a known 0-d array is fine, of any library."""
    need("jax")
    import jax
    import jax.numpy as jnp

    plateau = Plateau(0.1)
    with pytest.raises(TypeError, match="loss is traced; wanted a number that is known"):
        jax.jit(plateau.tell)(1.0)
    plateau.tell(jnp.asarray(0.5))
    assert plateau.state["best"] == 0.5
    assert type(plateau.state["best"]) is float


@pytest.fixture
def pyplot() -> Any:
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib draws the picture")
    pyplot.switch_backend("agg")
    yield pyplot
    pyplot.close("all")


def test_plot_draws_the_values(pyplot: Any, schedule: Any) -> None:
    """Each schedule is a line of its values at steps 1 to `steps`, with its name as the label, in a new figure."""
    other = math.sqrt
    ax = schedules.plot(schedule, 0.5, other, steps=30)
    lines = ax.get_lines()
    assert [line.get_xdata().tolist() for line in lines] == [list(range(1, 31))] * 3
    assert lines[0].get_ydata().tolist() == [schedule(t) for t in range(1, 31)]
    assert lines[1].get_ydata().tolist() == [0.5] * 30
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[1:] == ["0.5", "sqrt"]
    assert 0 < len(labels[0]) < 40
    assert schedules.plot(steps=3) is not ax


def test_plot_has_short_names_that_tell_schedules_apart(pyplot: Any) -> None:
    """The class, and what differs; the legend stands outside the picture, and within the figure."""
    steep = warmup(10, Cosine(0.1, 40))
    drawn: list[Any] = [Cosine(0.1, 9), Cosine(0.1, 30), Linear(0.1, 9), steep, 0.5, math.sqrt, math.sqrt]
    ax = schedules.plot(*drawn, steps=30)
    legend = ax.get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["Cosine(steps=9)", "Cosine(steps=30)", "Linear", "warmup", "0.5", "sqrt", "sqrt (2)"]
    ax.figure.canvas.draw()
    box = legend.get_window_extent()
    assert box.x0 >= ax.get_window_extent().x1
    assert box.x1 <= ax.figure.bbox.x1


def test_plot_draws_into_axes(pyplot: Any, tmp_path: Any) -> None:
    """Given Axes come back, with more lines and other labels; the figure can be written."""
    _, ax = pyplot.subplots()
    assert schedules.plot(Cosine(0.1, 9), Linear(0.1, 9), steps=12, labels=["down", "line"], ax=ax) is ax
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["down", "line"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "value")
    ax.figure.savefig(tmp_path / "schedules.png")
    assert (tmp_path / "schedules.png").stat().st_size > 1000


def test_plot_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to install matplotlib."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"plot needs matplotlib, .* pip install matplotlib"):
        schedules.plot(0.1, steps=3)
