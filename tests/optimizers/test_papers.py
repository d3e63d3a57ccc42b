"""The methods compute what their papers say, and what their docstrings say of other conventions."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import anyoptim as ao
from anyoptim.optimizers import belief, nadam
from tests.reference import papers, textbook
from tests.support.libraries import METHODS, Library, same_bits
from tests.support.xla import quick

pytestmark = [pytest.mark.telling, pytest.mark.usefixtures("quickly")]

STEPS = 100

# A mean that forgets more slowly than the squares it is divided by would multiply its round-off by what they forget.
VALUES = {
    "lr": st.floats(1e-4, 1),
    "beta1": st.just(0.0) | st.floats(0.5, 0.95),
    "beta2": st.floats(0.91, 0.9999),
    "beta3": st.floats(0.91, 0.9999),
    "weight_decay": st.floats(0, 0.5),
    "eps": st.floats(1e-10, 1e-2),
    "eps_root": st.just(0.0) | st.floats(1e-12, 1e-2),
    "eps_corrected": st.just(0.0) | st.floats(1e-12, 1e-2),
    "eps_max": st.just(0.0) | st.floats(1e-12, 1e-2),
    "warmup": st.floats(0, 0.5),
    "momentum_decay": st.just(0.0) | st.floats(1e-4, 10),
    "threshold": st.sampled_from([0.0, 4.0, 5.0, 30.0]),
    "initial": st.floats(0, 1),
}
"""Of every method but for these."""

WITHIN = st.floats(0.1, 0.9)
"""All domains: of hyperparameters of any other name."""

OWN: dict[str, dict[str, Any]] = {"AdaBelief": {"beta1": st.floats(0.5, 0.95)}}
"""Without a mean, its s is made of round-off alone."""


def _names(method: type[Any]) -> tuple[str, ...]:
    return (*method.hyperparameters, *(["initial"] if hasattr(method, "initial") else []))


def _together(ours: Any, theirs: Any, p: Any, rng: Any, change: Callable[[], None] = lambda: None) -> None:
    """Take steps beside each other: equal to 1e-12 of the way that the parameter went, and of the parameter.

    A step of some 20 operations, on means that carry the round-off of up to 1/(1-beta) steps before, is off by some
    1e-13 of what it would be if nothing in it cancelled: that is of the order of the steps around it.
    """
    p = {key: np.asarray(a) for key, a in p.items()}
    q = {key: a.copy() for key, a in p.items()}
    way = {key: np.abs(a) for key, a in p.items()}
    for _ in range(STEPS):
        change()
        g = {key: 10.0 ** rng.integers(-2, 3) * np.asarray(rng.normal(size=a.shape)) for key, a in p.items()}
        before = {key: a.copy() for key, a in q.items()}
        ours.update(p, g)
        theirs.update(q, g)
        for key in p:
            way[key] = np.maximum(way[key] + np.abs(q[key] - before[key]), np.abs(q[key]))
            assert np.all(np.isfinite(q[key]))
            assert np.all(np.abs(p[key] - q[key]) <= 1e-12 * way[key]), key


@settings(max_examples=10)
@given(data=st.data())
@pytest.mark.parametrize("name", papers.METHODS)
def test_equals_the_paper(name: str, data: st.DataObject) -> None:
    """Random shapes and hyperparameters, 100 steps."""
    values = VALUES | OWN.get(name, {})
    hyper = {k: data.draw(values.get(k, WITHIN), label=k) for k in _names(METHODS[name])}
    shapes = data.draw(st.lists(array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=5), min_size=1, max_size=2))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), label="seed"))
    p = {str(i): rng.normal(size=shape) for i, shape in enumerate(shapes)}
    make: Any = METHODS[name]
    _together(make(**hyper), papers.METHODS[name](**hyper), p, rng)


@pytest.mark.parametrize("name", [name for name in papers.METHODS if name != "NAdam"])
def test_a_changed_attribute_takes_effect_at_the_next_step(name: str) -> None:
    """Every hyperparameter is read at every step. NAdam's product forgets what they were: its docstring says so."""
    rng, chosen = np.random.default_rng(0), np.random.default_rng(1)
    make: Any = METHODS[name]
    ours = make(**({"initial": 0.5} if hasattr(make, "initial") else {}))
    theirs = papers.METHODS[name](**{k: getattr(ours, k) for k in _names(make)})

    def change() -> None:
        for k in ours.hyperparameters:
            low, high = {"beta1": (0.5, 0.9), "beta2": (0.92, 0.99), "beta3": (0.92, 0.99)}.get(k, (0.01, 0.2))
            value = float(chosen.uniform(low, high)) * (30 if k == "threshold" else 1)
            setattr(ours, k, value)
            setattr(theirs, k, value)

    _together(ours, theirs, {"w": rng.normal(size=5)}, rng, change)


def test_defaults() -> None:
    """Constructed without arguments, the methods have the hyperparameters of their papers or of most libraries."""
    adam = "lr=0.001, beta1=0.9, beta2=0.999, eps=1e-07"
    for name in ("Adam", "AMSGrad", "CorrectedAMSGrad", "Adamax", "NAdam", "RAdam"):
        assert repr(METHODS[name]()) == f"{name}({adam})"
    assert repr(ao.AdamW()) == f"AdamW({adam}, weight_decay=0.01)"
    assert repr(ao.AdaBelief()) == "AdaBelief(lr=0.001, beta1=0.9, beta2=0.999, eps=1e-16, eps_root=1e-16)"
    assert repr(ao.Yogi()) == "Yogi(lr=0.01, beta1=0.9, beta2=0.999, eps=0.001)"
    assert repr(ao.Adan()) == "Adan(lr=0.001, beta1=0.98, beta2=0.92, beta3=0.99, eps=1e-08, weight_decay=0.0)"
    options = [("NAdam", "warmup"), ("NAdam", "momentum_decay"), ("RAdam", "threshold"), ("Yogi", "initial")]
    assert [getattr(METHODS[name](), option) for name, option in options] == [0.5, 0.004, 5.0, 1e-6]


def test_options_are_shown_where_they_are_set() -> None:
    """`repr` leaves out what goes by name alone and has its default; what it shows makes the same optimizer again."""
    for optimizer, shown in (
        (ao.RMSProp(), "RMSProp(lr=0.01, rho=0.99, eps=1e-07)"),
        (ao.RMSProp(eps_root=0.5), "RMSProp(lr=0.01, rho=0.99, eps=1e-07, eps_root=0.5)"),
        (ao.Adam(eps_root=1e-8), "Adam(lr=0.001, beta1=0.9, beta2=0.999, eps=1e-07, eps_root=1e-08)"),
        (ao.NAdam(warmup=0.0), "NAdam(lr=0.001, beta1=0.9, beta2=0.999, eps=1e-07, warmup=0.0)"),
        (ao.Yogi(initial=0.1), "Yogi(lr=0.01, beta1=0.9, beta2=0.999, eps=0.001, initial=0.1)"),
    ):
        assert repr(optimizer) == shown
        assert repr(eval(shown, dict(vars(ao)))) == shown  # noqa: S307 - our own text
    scheduled = ao.Adam(eps_root=lambda t: 0.0)
    assert "eps_root=<function" in repr(scheduled)


# Other conventions -------------------------------------------------------------------------------------------------


def test_plain_adam_is_the_table() -> None:
    """Options that are 0 change neither its kernel nor its bits; one that is not makes it the frameworks' form."""
    adam, theirs = ao.Adam(0.1, 0.8, 0.9, 1e-3), textbook.Adam(0.1, 0.8, 0.9, 1e-3)
    assert adam.kernel_source("blocked").count("partial(add, ") == 3
    assert not {"eps_root", "b1", "b2"} & set(re.findall(r"\w+", adam.kernel_source("blocked")))
    assert {"b1", "b2"} <= set(re.findall(r"\w+", ao.Adam(eps_corrected=1e-8).kernel_source("blocked")))
    assert "eps_root" in ao.Adam(eps_root=1e-8).kernel_source("blocked")
    p, q, rng = {"w": np.ones(5)}, {"w": np.ones(5)}, np.random.default_rng(3)
    for _ in range(50):
        g = {"w": rng.normal(size=5)}
        adam.update(p, g)
        theirs.update(q, g)
    assert same_bits(p["w"], q["w"])


def _paper_adamw(theta: Any, h: Any) -> papers.Run:
    """Loshchilov and Hutter 2019, algorithm 2: alpha is Adam's alone."""
    m, v, t = np.zeros_like(theta), np.zeros_like(theta), 0
    while True:
        g = yield theta
        t = t + 1
        m = 0.8 * m + 0.2 * g
        v = 0.9 * v + 0.1 * g**2
        m_hat, v_hat = m / (1 - 0.8**t), v / (1 - 0.9**t)
        theta = theta - 1 / t * (0.1 * m_hat / (np.sqrt(v_hat) + 1e-3) + 0.05 * theta)


def _paper_amsgrad(x: Any, h: Any) -> papers.Run:
    """Reddi, Kale and Kumar 2018, algorithm 2, as it stands."""
    m, v, v_hat = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    while True:
        g = yield x
        m = 0.8 * m + 0.2 * g
        v = 0.9 * v + 0.1 * g**2
        v_hat = np.maximum(v_hat, v)
        x = x - 0.1 * m / np.sqrt(v_hat)


def _paper_adamax(theta: Any, h: Any) -> papers.Run:
    """Kingma and Ba 2015, algorithm 2, as it stands."""
    m, u, t = np.zeros_like(theta), np.zeros_like(theta), 0
    while True:
        g = yield theta
        t = t + 1
        m = 0.8 * m + 0.2 * g
        u = np.maximum(0.9 * u, np.abs(g))
        theta = theta - (0.1 / (1 - 0.8**t)) * m / u


def _no_prox_adan(theta: Any, h: Any) -> papers.Run:
    """Adan without decay, and a share of the parameter beside its step."""
    inner = papers.adan(theta, h)
    next(inner)
    before = theta
    while True:
        g = yield theta
        after = inner.send(g)
        theta = theta - (before - after) - h.lr * 0.02 * theta
        before = after


REACHED: dict[str, tuple[Callable[[], ao.Optimizer], papers.Paper]] = {
    "the paper's AdamW": (
        lambda: ao.chain(
            ao.Adam(0.1, 0.8, 0.9, 0.0, eps_corrected=1e-3), ao.WeightDecay(0.05), ao.Scale(lambda t: 1 / t)
        ),
        papers.Paper(_paper_adamw),
    ),
    "the paper's AMSGrad": (
        lambda: ao.AMSGrad(lambda t: 0.1 * (1 - 0.8**t) / math.sqrt(1 - 0.9**t), 0.8, 0.9, eps=0.0),
        papers.Paper(_paper_amsgrad),
    ),
    "the paper's Adamax": (lambda: ao.Adamax(0.1, 0.8, 0.9, eps=0.0), papers.Paper(_paper_adamax)),
    "Adan with AdamW's decay": (
        lambda: ao.chain(ao.Adan(0.1, 0.8, 0.9, 0.95), ao.WeightDecay(0.1 * 0.02)),
        papers.Paper(_no_prox_adan, lr=0.1, beta1=0.8, beta2=0.9, beta3=0.95, eps=1e-8, eps_root=0.0, weight_decay=0.0),
    ),
}


@pytest.mark.parametrize("name", REACHED)
def test_other_forms_are_reached_as_the_docstrings_say(name: str) -> None:
    """Where a paper, or a library, has another equation."""
    make, theirs = REACHED[name]
    rng = np.random.default_rng(4)
    _together(make(), theirs, {"w": rng.normal(size=7)}, rng)


# NAdam's product ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum_decay", [0.0, 1e-6, 0.004, 1.0, 30.0, 1e5])
@pytest.mark.parametrize("warmup", [0.0, 1e-9, 0.3, 0.5])
def test_the_series_is_the_running_product(warmup: float, momentum_decay: float) -> None:
    """To 1e-12 for all counts up to 10**6, with means that forget in 2 steps, in 10, and in a million."""
    t = np.arange(1, 10**6 + 1)
    rate = nadam._LOG * momentum_decay
    # The sum of the logarithms by pairs, as NumPy has it in contiguous parts, is as good as exact.
    logs = np.log1p(-warmup * np.exp(-rate * t))
    for beta in (0.0, 0.5, 0.9, 0.999, 1 - 1e-6):
        for n in (1, 2, 3, 10, 100, 1000, 10**4, 10**5, 10**6):
            with np.errstate(divide="ignore"):
                wanted = -np.expm1(n * np.log(beta) + logs[:n].sum())
            assert nadam._one_minus_product(beta, warmup, rate, n) == pytest.approx(wanted, rel=1e-12)


def test_the_series_is_the_product_of_fifty_digits() -> None:
    """Near 1, where the logarithm of NumPy would be of no use, too."""
    for beta, warmup, momentum_decay in ((0.9, 0.5, 0.004), (1 - 1e-6, 1e-5, 0.0), (0.999, 0.5, 1.0), (0.3, 0.1, 7.0)):
        with localcontext(prec=50):
            q, product = Decimal("0.96") ** Decimal(momentum_decay), Decimal(1)
            for t in range(1, 301):
                product *= Decimal(beta) * (1 - Decimal(warmup) * q**t)
                found = nadam._one_minus_product(beta, warmup, nadam._LOG * momentum_decay, t)
                assert abs(Decimal(found) / (1 - product) - 1) < Decimal("1e-14")


def test_nadam_after_a_change_is_as_if_it_had_always_been_so() -> None:
    """Its product is no state: a new optimizer with the state and the new hyperparameters takes the same step."""
    p, g = {"w": np.ones(3)}, {"w": np.array([0.1, -2.0, 3.0])}
    changed = ao.NAdam(0.1)
    for _ in range(5):
        changed.update(p, g)
    assert changed.state is not None
    other, _ = ao.NAdam(0.1, 0.7).step(p, g, changed.state)
    changed.beta1 = 0.7
    changed.update(p, g)
    assert same_bits(p["w"], other["w"])


# RAdam's length ----------------------------------------------------------------------------------------------------


def test_the_length_of_the_mean_keeps_its_digits() -> None:
    """Against 60 digits; the paper's difference of two terms has none left where beta2 is near 1."""
    with localcontext(prec=60):
        for beta in (0.0, 1e-10, 0.5, 0.9, 0.999, 1 - 1e-6, 1 - 1e-12):
            b = Decimal(beta)
            for t in (1, 2, 3, 5, 6, 10, 100, 1000, 10**4, 10**6):
                rho = 2 / (1 - b) - 1 - 2 * t * b**t / (1 - b**t)
                found = 1 + belief._growth(beta, t) - belief._growth(beta, 1)
                assert abs(Decimal(found) / rho - 1) < Decimal("1e-14"), (beta, t)


@pytest.mark.parametrize("beta2", [0.0, 1 / 3, 0.6, 0.99, 0.999, 0.9999, 0.99999])
def test_float32_rectifies_at_the_same_step(beta2: float, need: Callable[[str], Library]) -> None:
    """Under `jax.jit`, where 1/(1-beta2) has few digits to spare: 1e-4 is what 1 - beta2**t keeps of them."""
    lib = need("jax")

    optimizer, twin = ao.RAdam(0.1, beta2=beta2), ao.RAdam(0.1, beta2=beta2)
    step, p, q = quick(optimizer.step), {"w": lib.array([1.0, 2.0])}, {"w": np.array([1.0, 2.0])}
    state = optimizer.init(p)
    for k in range(12):
        g = np.array([1.0, -0.5]) / (k + 1)
        p, state = step(p, {"w": lib.array(g)}, state)
        twin.update(q, {"w": g})
        np.testing.assert_allclose(lib.tonumpy(p["w"]), q["w"], rtol=1e-4)


# Yogi's start ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Yogi", "CorrectedYogi"])
def test_the_start_of_v_is_no_hyperparameter(name: str) -> None:
    """It can't be set, is checked, survives copies and pickles, and v starts there in the compute dtype."""
    make: Any = METHODS[name]
    optimizer = make(initial=0.25)
    with pytest.raises(AttributeError):
        optimizer.initial = 0.5
    for value in (-1.0, math.nan, "much"):
        with pytest.raises((TypeError, ValueError), match=r"initial is .*wanted"):
            make(initial=value)
    unpickled = pickle.loads(pickle.dumps(optimizer))  # noqa: S301
    for other in (optimizer, copy.copy(optimizer), copy.deepcopy(optimizer), unpickled):
        slots: Any = other.init({"h": np.ones(2, "f2"), "z": np.ones(2, "c8")}).slots
        assert slots["v"]["h"].dtype == np.float32
        assert slots["v"]["h"].tolist() == [0.25, 0.25]
        assert slots["v"]["z"].tolist() == [0.25 + 0.25j] * 2
        assert slots["m"]["h"].tolist() == [0.0, 0.0]
        assert repr(other) == repr(optimizer)
