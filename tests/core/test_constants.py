"""What a stage is made with and keeps: constants beside its hyperparameters; and what `repr` shows of both."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import copy, deepcopy
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import allowed

CONSTANTS: dict[str, tuple[Callable[[], ao.Stage], dict[str, Any], str]] = {
    "AdaGrad": (
        lambda: ao.AdaGrad(initial=0.1, eps_root=1e-3),
        {"initial": 0.1},
        "AdaGrad(lr=0.01, eps=1e-07, initial=0.1, eps_root=0.001)",
    ),
    "Rprop": (
        lambda: ao.Rprop(initial=0.5),
        {"initial": 0.5},
        "Rprop(lr=1.0, eta_minus=0.5, eta_plus=1.2, step_min=1e-06, step_max=50.0, initial=0.5)",
    ),
    "SWA": (lambda: ao.SWA(3, every=2), {"start": 3, "every": 2}, "SWA(start=3, every=2)"),
    "Lookahead": (lambda: ao.Lookahead(7), {"every": 7}, "Lookahead(every=7, share=0.5)"),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_are_shown_kept_and_not_set(name: str) -> None:
    """By copies of all kinds, and by what `repr` makes."""
    make, constants, text = CONSTANTS[name]
    stage = make()
    copies = [copy(stage), deepcopy(stage), pickle.loads(pickle.dumps(stage)), eval(text, dict(vars(ao)))]  # noqa: S301, S307
    for one in (stage, *copies):
        assert repr(one) == text
        for constant, value in constants.items():
            assert getattr(one, constant) == value
            with pytest.raises(AttributeError, match=f"property '{constant}' of '{name}' object has no setter"):
                setattr(one, constant, value)


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "below 0": (lambda: ao.AdaGrad(initial=-0.1), ValueError, "initial is -0.1; wanted finite and at least 0"),
    "infinite": (lambda: ao.Rprop(initial=float("inf")), ValueError, "initial is inf; wanted finite and at least 0"),
    "a schedule": (lambda: ao.Rprop(initial=lambda t: 1.0), TypeError, "initial is <function.*wanted a real number"),  # type: ignore[arg-type]
    "no step": (lambda: ao.Lookahead(0), ValueError, "every is 0; wanted at least 1"),
    "half a step": (lambda: ao.SWA(1, 0.5), TypeError, "every is 0.5; wanted an integer"),  # type: ignore[arg-type]
    "before the start": (lambda: ao.SWA(-1), ValueError, "start is -1; wanted at least 0"),
    "a long way": (lambda: ao.Lookahead(5, 1.5), ValueError, "share is 1.5; wanted at least 0 and at most 1"),
    "a shrinking growth": (lambda: ao.Rprop(eta_plus=0.5), ValueError, "eta_plus is 0.5; wanted finite and at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_refusals(name: str) -> None:
    """With the name, and what was wanted."""
    make, error, says = BAD[name]
    with pytest.raises(error, match=says):
        make()


def test_options_at_their_defaults_are_not_shown(method: type[ao.Optimizer]) -> None:
    """Those by keyword only: a method looks as plain as it is; shown or not, what is printed makes the same again."""
    optimizer = method()
    assert repr(eval(repr(optimizer), dict(vars(ao)))) == repr(optimizer)  # noqa: S307
    for k, name in enumerate(method.hyperparameters):
        setattr(optimizer, name, allowed(method, name, (k + 1) / 64))
        assert f"{name}={getattr(optimizer, name)!r}" in repr(optimizer)
    assert repr(eval(repr(optimizer), dict(vars(ao)))) == repr(optimizer)  # noqa: S307


def test_what_is_shown_of_other_kinds_of_values() -> None:
    """Schedules and arrays, which may be equal to a default, are shown; what is no hyperparameter is not."""
    assert repr(ao.AdaGrad(eps_root=np.array(0.0))) == "AdaGrad(lr=0.01, eps=1e-07, eps_root=array(0.))"
    schedule = ao.schedules.Constant(0.0)
    assert repr(ao.RMSProp(eps_root=schedule)).endswith(f"eps_root={schedule!r})")
    assert repr(ao.WeightDecay(0.5, where=lambda path, p: False)) == "WeightDecay(decay=0.5)"
    assert repr(ao.Adam(engine="blocked")) == repr(ao.Adam())


def test_constants_start_the_slots() -> None:
    """In the compute dtype, for complex parameters in both parts."""
    for dtype, slot in (("float16", "float32"), ("float64", "float64"), ("complex64", "complex64")):
        p = np.ones(3, dtype)
        state = ao.AdaGrad(initial=0.25).init(p)
        assert state.slots["h"].dtype == slot
        assert state.slots["h"].tolist() == [0.25 + 0.25j if "complex" in dtype else 0.25] * 3
        state = ao.Rprop(initial=0.25).init(p)
        assert state.slots["s"].tolist() == [0.25 + 0.25j if "complex" in dtype else 0.25] * 3
        assert not state.slots["d"].any()
