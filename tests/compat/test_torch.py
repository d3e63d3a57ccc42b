"""The constructors of torch.optim: its names and defaults, and what it does, to round-off."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.compat_torch import FREE, OPTIONS, Beside, drawn, flat, make, random, shapes
from tests.support.options import draws

STEPS = 100
"""More steps than what begins late needs: ASGD's mean, RAdam's rectified steps."""
DRAWS = 6


pytestmark = pytest.mark.usefixtures("torch")


def test_all_are_there(torch: Any) -> None:
    """Every optimizer of torch but those that the table of features says are not here; and draws of all options."""
    theirs = {name for name, value in vars(torch.optim).items() if isinstance(value, type)}
    assert theirs - set(ao.compat.torch.__all__) == {"Optimizer", "SparseAdam"}
    assert set(OPTIONS) | {"LBFGS"} == theirs & set(ao.compat.torch.__all__)
    for name, options in OPTIONS.items():
        arguments = set(inspect.signature(getattr(torch.optim, name)).parameters)
        assert arguments - FREE - {"params", "differentiable"} == set(options), name


@pytest.mark.parametrize("name", OPTIONS)
def test_signatures_are_torchs(name: str, torch: Any) -> None:
    """The names, the order, the kinds and the defaults, but for `params`."""
    _, *theirs = inspect.signature(getattr(torch.optim, name)).parameters.values()
    ours = inspect.signature(getattr(ao.compat.torch, name)).parameters.values()
    assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs]


def _together(
    ours: ao.Optimizer,
    theirs: Beside,
    p: Any,
    rng: Any,
    steps: int,
    between: Callable[[int], None] = lambda _: None,
    resting: bool = True,
) -> Any:
    """Take steps beside each other: equal to 1e-12 of the way that each element went, and of itself.

    A step of some 20 operations, on means that carry the round-off of up to 1/(1-beta) steps before, is off by some
    1e-13 of what it would be if nothing in it cancelled: that is of the order of the steps around it.
    """
    way = np.abs(flat(p))
    for t in range(steps):
        between(t)
        of = {key: a.shape for key, a in p.items()}
        g = random(rng, of, p["p0"].dtype.name, 10.0 ** rng.integers(-1, 2))
        if resting and t % 7 == 3:
            g["p1"] = None
        before = flat(theirs.params)
        ours.update(p, g)
        theirs.update(g)
        q = flat(theirs.params)
        way = np.maximum(way + np.abs(q - before), np.abs(q))
        assert np.isfinite(q).all()
        assert (np.abs(flat(p) - q) < 1e-12 * way + 1e-300).all(), f"step {t}: {p}, wanted {theirs.params}"
    return way


@pytest.mark.parametrize(("name", "draw"), draws(dict.fromkeys(OPTIONS, DRAWS), 1 / 3))
def test_equals_torch(name: str, draw: int, torch: Any) -> None:
    """100 steps in float64 beside torch itself: random shapes, all options drawn at random, some gradients None."""
    rng = np.random.default_rng([draw, *name.encode()])
    options = drawn(name, rng)
    p = random(rng, shapes(name, rng))
    theirs = Beside(torch, name, options, p)
    way = _together(make(name, options), theirs, p, rng, STEPS)
    assert (way > 0).all(), options


REAL = ("Adafactor", "Muon")
"""The constructors whose optimizers take no complex parameters."""


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in REAL])
def test_complex_parameters(name: str, torch: Any) -> None:
    """Complex parameters are two reals each, as in torch."""
    rng = np.random.default_rng([9, *name.encode()])
    options = drawn(name, rng)
    p = random(rng, shapes(name, rng), "complex128")
    theirs = Beside(torch, name, options, p)
    _together(make(name, options), theirs, p, rng, 40)


@pytest.mark.parametrize("name", OPTIONS)
def test_float32(name: str, torch: Any) -> None:
    """Each of 30 steps from torch's own parameters and state: to 2 ulp of the parameter and 4 of the longest step.

    Torch rounds the parameter once for each term that it adds, of which there are up to three.
    A step is some 20 operations on numbers that are to be rounded to 24 bits, and what cancels in it is at most as long
    as the longest step so far. Muon's polynomial multiplies its roundings: 100 ulp of its step.
    """
    torch.set_default_dtype(torch.float32)
    rng = np.random.default_rng([1, *name.encode()])
    options, of = drawn(name, rng), shapes(name, rng)
    start = random(rng, of, "float32")
    theirs = Beside(torch, name, options, start)
    longest = {key: np.zeros(shape) for key, shape in of.items()}
    eps, few = np.finfo(np.float32).eps, 100 if name == "Muon" else 4
    for t in range(30):
        p = theirs.params
        before = {key: a.copy() for key, a in p.items()}
        ours = ao.compat.torch.from_torch(theirs.optimizer.state_dict(), list(of), p) if t else make(name, options)
        g = random(rng, of, "float32")
        ours.update(p, g)
        theirs.update(g)
        for key, q in theirs.params.items():
            assert p[key].dtype == np.float32
            longest[key] = np.maximum(longest[key], np.max(np.abs(q - before[key]), initial=0))
            bound = eps * (2 * np.abs(q) + few * longest[key])
            np.testing.assert_array_less(np.abs(p[key] - q), bound + 1e-45, err_msg=f"{key}, step {t}, {options}")


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "Rprop"])
def test_schedules(name: str, torch: Any) -> None:
    """lr a schedule, beside torch under its scheduler; ASGD's rates are a step late in both."""
    rng = np.random.default_rng([7, *name.encode()])
    options = drawn(name, rng)
    p = random(rng, shapes(name, rng))
    theirs = Beside(torch, name, options, p)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(theirs.optimizer, 17, 1e-3)
    schedule = ao.compat.torch.lr_scheduler.CosineAnnealingLR(options["lr"], 17, 1e-3)

    def between(t: int) -> None:
        if t:
            scheduler.step()

    # What a parameter of ASGD rests, its rate is late in torch.
    _together(make(name, {**options, "lr": schedule}), theirs, p, rng, 60, between, resting=name != "ASGD")


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in {"Rprop", "ASGD"}])
def test_lr_is_set_in_training(name: str, torch: Any) -> None:
    """`optimizer.lr = ...`, whatever the stages are: torch's Rprop reads its lr but once, its ASGD a step late."""
    for draw in range(3):
        rng = np.random.default_rng([draw, *name.encode()])
        options = drawn(name, rng)
        p = random(rng, shapes(name, rng))
        theirs, ours = Beside(torch, name, options, p), make(name, options)
        assert ours.lr == options["lr"]  # type: ignore[attr-defined]

        def between(t: int, theirs: Any = theirs, ours: Any = ours) -> None:
            if t == 20:
                ours.lr = theirs.optimizer.param_groups[0]["lr"] = 0.005
                assert ours.lr == 0.005

        _together(ours, theirs, p, rng, 40, between)


@pytest.mark.parametrize("name", OPTIONS)
def test_what_changes_no_result_is_taken(name: str) -> None:
    """And what can't be had is refused, by name."""
    make = getattr(ao.compat.torch, name)
    arguments = set(inspect.signature(make).parameters)
    assert repr(make(**dict.fromkeys(FREE & arguments, True))) == repr(make())
    if "differentiable" in arguments:
        with pytest.raises(NotImplementedError, match=f"differentiable=True of torch.optim.{name} can't be had here"):
            make(differentiable=True)


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "lr is -1.0; wanted finite and at least 0": ("Adam", {"lr": -1}),
    "eps is -1.0; wanted finite and at least 0": ("AdamW", {"eps": -1}),
    r"betas\[1\] is 1.0; wanted at least 0 and below 1": ("NAdam", {"betas": (0.9, 1)}),
    r"betas is \(0.9,\); wanted two": ("RAdam", {"betas": (0.9,)}),
    "momentum is 1.0; wanted at least 0 and below 1": ("SGD", {"momentum": 1}),
    "nesterov wants a momentum above 0 and no dampening": ("SGD", {"nesterov": True}),
    "weight_decay is 'much'; wanted a real number": ("SGD", {"weight_decay": "much"}),
    "initial_accumulator_value is -1.0; wanted": ("Adagrad", {"initial_accumulator_value": -1}),
    r"etas\[1\] is 0.5; wanted finite and at least 1": ("Rprop", {"etas": (0.5, 0.5)}),
    "lr is <function .*, and Rprop reads it but once": ("Rprop", {"lr": lambda t: 0.1}),
    "beta2_decay is 0.8; wanted at most 0": ("Adafactor", {"beta2_decay": 0.8}),
    r"eps\[1\] is -1.0; wanted": ("Adafactor", {"eps": (None, -1)}),
    "adjust_lr_fn is 'mine'; wanted": ("Muon", {"adjust_lr_fn": "mine"}),
    r"ns_coefficients is \(1, 2\); wanted three": ("Muon", {"ns_coefficients": (1, 2)}),
    "rho is 1.0; wanted": ("Adadelta", {"rho": 1}),
    "alpha is 1.0; wanted": ("RMSprop", {"alpha": 1}),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_options(message: str) -> None:
    """Refused by the names that torch has for them."""
    name, options = BAD[message]
    with pytest.raises((TypeError, ValueError), match=message):
        make(name, options)


GIVEN: dict[str, Callable[[Any], Any]] = {
    "model.parameters()": lambda module: module.parameters(),
    "model.named_parameters()": lambda module: module.named_parameters(),
    "a list": lambda module: list(module.parameters()),
    "groups": lambda module: [{"params": list(module.parameters())}],
    "a dict": lambda module: dict(module.named_parameters()),
    "values of a dict": lambda module: dict(module.named_parameters()).values(),
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("name", OPTIONS)
def test_parameters_are_not_for_the_constructor(name: str, given: str, torch: Any) -> None:
    """Where torch has them: by place with options behind them or without, and by name."""
    constructor: Any = getattr(ao.compat.torch, name)
    params = GIVEN[given](torch.nn.Linear(2, 2))
    message = rf"ao\.compat\.torch\.{name} was given parameters; wanted them in update\(params, grads\)"
    for args, options in (((params,), {}), ((params,), {"lr": 0.1}), ((), {"params": params})):
        with pytest.raises(TypeError, match=message):
            constructor(*args, **options)


def test_tensors_are_numbers(torch: Any) -> None:
    """A learning rate that is a tensor is the number that it holds when it is given."""
    lr = torch.tensor(0.25)
    optimizer: Any = ao.compat.torch.SGD(lr, momentum=0.5)
    lr.mul_(2)
    assert optimizer.lr == 0.25
    assert type(optimizer.lr) is float


def test_they_are_optimizers_like_others() -> None:
    """Our optimizers can be part of a chain, copied and pickled, and are shown as what they are."""
    adam: Any = ao.compat.torch.Adam(weight_decay=0.1, maximize=True)
    stages = "Maximize(), WeightDecay(decay=0.1), Adam(lr=0.001, beta1=0.9, beta2=0.999, eps=0.0, eps_corrected=1e-08)"
    assert repr(adam) == f"chain({stages})"
    for again in (copy.deepcopy(adam), copy.copy(adam), pickle.loads(pickle.dumps(adam))):  # noqa: S301 - it is ours
        again.lr = 0.5
        assert again.stages[-1].lr == 0.5
        assert adam.lr == 0.001
    outer = ao.chain(ao.ClipGlobalNorm(1.0), adam, ao.EMA(0.9))
    assert len(outer.stages) == 5
    assert isinstance(ao.compat.torch.SGD(), ao.SGD)


@pytest.mark.parametrize("name", OPTIONS)
def test_next_to_nothing(name: str, torch: Any) -> None:
    """Gradients of 0 from the first step on, and then of 1e-20: what keeps divisions finite does it as in torch."""
    rng = np.random.default_rng([*name.encode()])
    options = {**drawn(name, rng), **({"eps": (None, 1e-3)} if name == "Adafactor" else {})}
    p = random(rng, shapes(name, rng))
    theirs, ours = Beside(torch, name, options, p), make(name, options)
    for scale in (0.0, 0.0, 1e-20, 1e-20, 1e-17, 0.0):
        g = random(rng, {key: a.shape for key, a in p.items()}, scale=scale)
        ours.update(p, g)
        theirs.update(g)
        for key, q in theirs.params.items():
            assert np.all(np.isfinite(q))
            np.testing.assert_allclose(p[key], q, rtol=1e-12, atol=1e-15)
