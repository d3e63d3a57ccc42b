"""Hyperparameters are live attributes: numbers of any kind, or schedules."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.reference import textbook
from tests.support.libraries import METHODS, PAIRS, Library, allowed, same_bits


@pytest.mark.parametrize("name", textbook.METHODS)
def test_a_changed_attribute_takes_effect_at_the_next_step(name: str) -> None:
    """Every hyperparameter is read at every step, as a hand-written optimizer would; test_papers has the others."""
    rng = np.random.default_rng(10)
    ours, theirs = {"w": rng.normal(size=5)}, {}
    theirs["w"] = ours["w"].copy()
    optimizer, transcription = METHODS[name](), textbook.METHODS[name]()
    for k in range(20):
        for hyper in METHODS[name].hyperparameters:
            if hyper in signature(textbook.METHODS[name]).parameters:
                value = allowed(optimizer, hyper, float(rng.uniform(0.1, 0.9)))
                setattr(optimizer, hyper, value)
                setattr(transcription, hyper, value)
        g = {"w": rng.normal(size=5) * (k + 1)}
        optimizer.update(ours, g)
        transcription.update(theirs, g)
    assert same_bits(ours["w"], theirs["w"])


def test_any_hyperparameter_may_be_a_schedule(method: type[Any]) -> None:
    """A schedule is called with the step number, from 1, and gives what its values would give.

    Once a step, but for one at which it makes another kernel of the rule, as a beta that falls below 1/2 does.
    """
    rng = np.random.default_rng(11)
    for name in method.hyperparameters:
        calls: list[int] = []

        def schedule(t: int, calls: list[int] = calls) -> float:
            calls.append(t)
            return allowed(method, name, 0.5 / t)  # noqa: B023 - it is called in this round

        one, two = {"a": np.ones(3), "b": np.ones(2)}, {"a": np.ones(3), "b": np.ones(2)}
        scheduled, stepped = method(**{name: schedule}), method()
        for t in range(1, 8):
            g = {"a": rng.normal(size=3), "b": rng.normal(size=2)}
            scheduled.update(one, g)
            setattr(stepped, name, allowed(method, name, 0.5 / t))
            stepped.update(two, g)
        assert list(dict.fromkeys(calls)) == list(range(1, 8))
        assert len(calls) <= 8
        assert getattr(scheduled, name) is schedule
        assert all(same_bits(one[k], two[k]) for k in one)


def test_schedules_see_the_optimizers_step_and_rules_the_parameters_own() -> None:
    """A parameter that rested takes its first step with its own t = 1 and the lr of the step it takes it in."""
    optimizer = ao.Adam(lr=lambda t: 0.1 * t)
    params = {"a": np.ones(1), "b": np.ones(1)}
    optimizer.update(params, {"a": np.ones(1), "b": None})
    optimizer.update(params, {"a": np.ones(1), "b": np.ones(1)})
    fresh = ao.Adam(lr=0.2).update(np.ones(1), np.ones(1))
    assert same_bits(params["b"], fresh)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.array, int])
@pytest.mark.parametrize(("lib", "method"), PAIRS, indirect=True)
def test_numbers_of_numpy_leave_float32_alone(lib: Library, method: type[Any], kind: Callable[[float], Any]) -> None:
    """A NumPy float64 scalar, as `np.cos` in a schedule returns, would turn float32 arrays into float64."""
    for value in (kind(1), lambda t: kind(1)):
        optimizer = method(lr=value)
        params = {"w": lib.array([1.0, 2.0])}
        expected = {"w": lib.array([1.0, 2.0])}
        optimizer.update(params, {"w": lib.array([0.5, 0.5])})
        method(lr=1.0).update(expected, {"w": lib.array([0.5, 0.5])})
        assert lib.tonumpy(params["w"]).dtype == np.float32
        assert same_bits(lib.tonumpy(params["w"]), lib.tonumpy(expected["w"]))


def test_a_number_of_another_library_is_a_number(lib: Library) -> None:
    """A 0-d array as learning rate."""
    p = ao.SGD(lr=lib.array(0.5)).update(np.ones(1), np.ones(1))
    assert p.tolist() == [0.5]


def test_lr_zero_moves_nothing(method: type[Any]) -> None:
    """The bounds of the domains belong to them."""
    p = method(lr=0.0).update(np.arange(3.0), np.ones(3))
    assert p.tolist() == [0, 1, 2]


def test_repr_shows_schedules_and_values(method: type[Any]) -> None:
    """`repr` shows what the next step would use."""
    optimizer = method()
    optimizer.lr = 0.25
    assert repr(optimizer).startswith(f"{method.__name__}(lr=0.25")
