"""State as plain dicts: what it says, what is checked of it, and what loading changes."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import Library, same_bits


def _params() -> dict[str, Any]:
    return {"W": np.ones((2, 3), np.float32), "deep": [{"b": np.ones(3, np.float32)}], "rests": None}


def _grads() -> dict[str, Any]:
    return {"W": np.full((2, 3), 0.5, np.float32), "deep": [{"b": np.ones(3, np.float32)}], "rests": None}


def _make() -> ao.chain:
    return ao.chain(
        ao.WeightDecay(0.1),
        ao.LossScale(initial=2.0),
        ao.Momentum(lr=ao.schedules.warmup(5, ao.schedules.Plateau(0.1, patience=0))),
        ao.SWA(1),
        ao.groups({"**.b": {"decay": 0.2}, ...: {}}),
    )


def _trained() -> tuple[ao.chain, dict[str, Any]]:
    optimizer, params = _make(), _params()
    for _ in range(2):
        optimizer.update(params, _grads())
    return optimizer, params


def test_it_says_what_is_promised() -> None:
    """Every entry, by the paths of the parameters; the arrays are copies."""
    optimizer, params = _trained()
    state = optimizer.state_dict()
    assert list(state) == ["version", "step", "t", "stages", "groups"]
    assert (state["version"], state["step"]) == (1, 2)
    assert state["t"] == {"W": 2, "deep.0.b": 2}
    assert [stage["name"] for stage in state["stages"]] == ["WeightDecay", "LossScale", "Momentum", "SWA"]
    assert state["stages"][0]["hyperparameters"] == {"decay": 0.1}
    assert state["stages"][1]["scalars"] == {"scale": 2.0, "good": 2.0, "skipped": 0.0, "consecutive": 0.0}
    assert state["stages"][1]["constants"] == {"initial": 2.0}
    assert state["stages"][3]["constants"] == {"start": 1, "every": 1}
    assert set(state["stages"][2]["slots"]["v"]) == {"W", "deep.0.b"}
    assert state["groups"] == {"**.b": {"decay": 0.2}, "...": {}}
    before = state["stages"][2]["slots"]["v"]["W"].copy()
    optimizer.update(params, _grads())
    assert same_bits(state["stages"][2]["slots"]["v"]["W"], before)
    assert optimizer.state_dict()["step"] == 3


def test_a_bare_array_has_no_path() -> None:
    """Its key is empty."""
    optimizer = ao.Momentum()
    optimizer.update(np.ones(2), np.ones(2))
    assert optimizer.state_dict()["t"] == {"": 1}


def test_before_the_first_update_there_are_hyperparameters(lib: Library) -> None:
    """Which are loaded; and an optimizer that has taken steps begins anew."""
    optimizer = ao.Adam()
    params = {"W": lib.array([1.0])}
    optimizer.update(params, {"W": lib.array([1.0])})
    optimizer.load_state_dict(ao.Adam(lr=0.5).state_dict(), params)
    assert optimizer.state is None
    assert optimizer.lr == 0.5


def test_schedules_keep_what_they_were_told() -> None:
    """A plateau within a warmup goes on counting; the schedules themselves are the new optimizer's."""
    optimizer, params = _trained()
    plateau = optimizer.stages[2].lr.schedule
    for loss in (1.0, 2.0, 3.0):
        plateau.tell(loss)
    other = _make()
    other.load_state_dict(optimizer.state_dict(), params)
    told = other.stages[2].lr.schedule
    assert told is not plateau
    assert told.state == plateau.state
    assert told.state["multiplier"] < 1
    assert told(9) == plateau(9)


def test_loaded_slots_are_the_optimizers_own(lib: Library) -> None:
    """Neither the caller's arrays nor those of the optimizer that was saved change when it goes on."""
    params, grads = {"W": lib.array([1.0, 2.0])}, {"W": lib.array([1.0, 1.0])}
    one, two = ao.Momentum(), ao.Momentum()
    one.update(params, grads)
    state = one.state_dict()
    two.load_state_dict(state, params)
    two.update(params, grads)
    assert same_bits(lib.tonumpy(state["stages"][0]["slots"]["v"]["W"]), np.array([-0.01, -0.01], np.float32))
    assert one.state is not None
    assert same_bits(lib.tonumpy(one.state.slots["v"]["W"]), np.array([-0.01, -0.01], np.float32))


def test_slots_get_the_memory_order_of_their_parameters() -> None:
    """So that a run that goes on is as fast as it was."""
    params = {"W": np.asfortranarray(np.ones((3, 4)))}
    optimizer, other = ao.Momentum(), ao.Momentum()
    optimizer.update(params, {"W": np.arange(12.0).reshape(3, 4)})
    state = optimizer.state_dict()
    state["stages"][0]["slots"]["v"]["W"] = np.ascontiguousarray(state["stages"][0]["slots"]["v"]["W"])
    other.load_state_dict(state, params)
    assert optimizer.state is not None
    assert other.state is not None
    assert other.state.slots["v"]["W"].flags.f_contiguous
    assert same_bits(other.state.slots["v"]["W"], optimizer.state.slots["v"]["W"])


def test_tied_parameters_share_their_slots() -> None:
    """One array under two names has one slot, and counts once."""
    w = np.ones(2)
    optimizer, other = ao.Momentum(), ao.Momentum()
    for _ in range(2):
        optimizer.update({"a": w, "b": w}, {"a": np.ones(2), "b": None})
    other.load_state_dict(optimizer.state_dict(), {"a": w, "b": w})
    other.update({"a": w, "b": w}, {"a": np.ones(2), "b": None})
    assert other.state is not None
    assert other.state.t == {"a": 3, "b": 3}


def test_tied_parameters_that_were_two_are_refused() -> None:
    """One of two slots would be lost in silence."""
    params = {"a": np.ones(2), "b": np.ones(2)}
    optimizer = ao.Momentum()
    optimizer.update(params, {"a": np.ones(2), "b": 3 * np.ones(2)})
    w = np.ones(2)
    with pytest.raises(ValueError, match=r"params\['a'\] and params\['b'\] are one array, in it two"):
        ao.Momentum().load_state_dict(optimizer.state_dict(), {"a": w, "b": w})


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("saved", "came"),
    [("v", "is a builtins.str; wanted an array"), (None, "is a builtins.NoneType; wanted"), (np.ones(2, int), "int64")],
)
def test_a_slot_of_a_tied_parameter_that_is_none_is_refused_by_name(saved: Any, came: str, strict: bool) -> None:
    """Under the second name as under the first."""
    w = np.ones(2)
    optimizer = ao.Momentum()
    optimizer.update({"a": w, "b": w}, {"a": np.ones(2), "b": None})
    state = optimizer.state_dict()
    for name in ("b", "a"):
        state["stages"][0]["slots"]["v"][name] = saved
        with pytest.raises(TypeError, match=rf"state\['stages'\]\[0\]\['slots'\]\['v'\]\['{name}'\] .*{came}"):
            ao.Momentum().load_state_dict(state, {"a": w, "b": w}, strict=strict)


def test_the_patterns_of_a_partition_are_part_of_the_state() -> None:
    """Methods of one class for other parameters are others, frozen ones among them."""
    params = {"W": np.ones(2), "b": np.ones(2)}
    optimizer = ao.partition({"W": ao.SGD(0.1), "b": ao.SGD(0.001)})
    optimizer.update(params, params)
    state = optimizer.state_dict()
    assert state["stages"][1]["constants"] == {"for": "b"}
    with pytest.raises(ValueError, match=r"\['constants'\]\['for'\] is 'W', not 'b'"):
        ao.partition({"b": ao.SGD(0.001), "W": ao.SGD(0.1)}).load_state_dict(state, params)
    frozen = ao.partition({"W": ao.SGD(), "b": None})
    with pytest.raises(ValueError, match=r"\['constants'\]\['for'\] is 'W', not 'b'"):
        ao.partition({"b": ao.SGD(), "W": None}).load_state_dict(frozen.state_dict(), params)


def test_schedules_of_the_users_own_are_the_programs() -> None:
    """With whatever they call state, and if they hold each other."""

    class Own:
        state = {"n": 1}
        other: Any = None

        def __call__(self, t: int) -> float:
            return 0.5

    one, two = Own(), Own()
    one.other, two.other = two, one
    optimizer, params = ao.SGD(lr=one), {"W": np.ones(1)}
    optimizer.update(params, params)
    assert optimizer.state_dict()["stages"][0]["hyperparameters"]["lr"]["states"] == []
    assert optimizer.load_state_dict(optimizer.state_dict(), params) == []


Change = Callable[[dict[str, Any]], Any]


def _at(*keys: Any, to: Any) -> Change:
    def change(state: dict[str, Any]) -> None:
        of: Any = state
        for key in keys[:-1]:
            of = of[key]
        of[keys[-1]] = to

    return change


def _without(*keys: Any) -> Change:
    def change(state: dict[str, Any]) -> None:
        of: Any = state
        for key in keys[:-1]:
            of = of[key]
        del of[keys[-1]]

    return change


V = ("stages", 2, "slots", "v")

DIFFERENT: dict[str, tuple[Change, str]] = {
    "a parameter less": (_without("t", "W"), r"params\['W'\] is not in it"),
    "a parameter more": (_at("t", "new", to=3), "it has 'new', for which there is no parameter"),
    "a slot of nobody": (_at(*V, "new", to=np.ones(2)), "it has 'new', for which there is no parameter"),
    "no slot of a parameter": (
        _without(*V, "W"),
        r"state\['stages'\]\[2\]\['slots'\]\['v'\] has none of params\['W'\]",
    ),
    "another shape": (_at(*V, "W", to=np.ones((3, 2), np.float32)), r"has shape \(3, 2\), but that of .* \(2, 3\)"),
    "another dtype": (_at(*V, "W", to=np.ones((2, 3))), "has dtype float64, but that of .* has float32"),
    "a complex slot": (_at(*V, "W", to=np.ones((2, 3), np.complex64)), "has dtype complex64"),
    "another stage": (_at("stages", 0, "name", to="Scale"), "stages Scale, .* not WeightDecay, "),
    "a stage less": (_without("stages", 0), "it is of the stages LossScale, Momentum, SWA, not"),
    "another constant": (_at("stages", 3, "constants", "every", to=2), r"\['constants'\]\['every'\] is 2, not 1"),
    "a constant more": (_at("stages", 2, "constants", "start", to=2), r"\['constants'\] has \['start'\], not \[\]"),
    "a number less": (_without("stages", 1, "scalars", "good"), r"has \['consecutive', 'scale', 'skipped'\], not"),
    "another hyperparameter": (_at("stages", 0, "hyperparameters", to={"share": 0.1}), "has .'share'., not .'decay'."),
    "a number for a schedule": (_at("stages", 2, "hyperparameters", "lr", to=0.1), r"\['lr'\] is 0.1, not"),
    "a schedule for a number": (
        _at("stages", 0, "hyperparameters", "decay", to={"schedule": "Cosine", "states": []}),
        r"\['decay'\] is .*Cosine.*, not 0.1",
    ),
    "a schedule that was told nothing": (
        _at("stages", 2, "hyperparameters", "lr", "states", to=[]),
        r"\['lr'\] has the states \[\], not those",
    ),
    "other groups": (_at("groups", to={}), r"state\['groups'\] has \[\], not"),
    "a group that rests": (_at("groups", "**.b", to=None), r"state\['groups'\]\['\*\*.b'\] is None, not"),
    "a group with another value": (_at("groups", "**.b", to={"lr": 1.0}), r"has \['lr'\], not \['decay'\]"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_is_refused_by_name_or_left(what: str) -> None:
    """Strictly nothing is changed; otherwise the rest is loaded, it is said what was left, and training goes on."""
    change, message = DIFFERENT[what]
    optimizer, params = _trained()
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.stages[0].decay = 0.125
    before, text = optimizer.state_dict(), repr(optimizer)
    change(state)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state, params)
    assert repr(optimizer) == text
    assert repr(optimizer.state_dict()) == repr(before)
    other = _make()
    (left,) = other.load_state_dict(state, params, strict=False)
    assert re.search(message, left)
    other.update(params, _grads())
    assert other.state is not None
    assert other.state.step == 3
    optimizer.load_state_dict(state, params, strict=False)


NONSENSE: dict[str, tuple[Change | Any, str]] = {
    "no dict": (lambda _: 3, "state is a int; wanted a dict"),
    "an entry less": (_without("groups"), r"state has .*; wanted \['groups', 'pending', 'stages', 'step', 't', "),
    "of the future": (_at("version", to=2), r"state\['version'\] is 2; wanted 1"),
    "half a step": (_at("step", to=1.5), r"state\['step'\] is 1.5"),
    "a negative count": (_at("t", "W", to=-1), r"state\['t'\]\['W'\] is -1"),
    "no list of stages": (_at("stages", to={}), r"state\['stages'\] is a dict; wanted a list"),
    "a stage without slots": (_without("stages", 2, "slots"), r"state\['stages'\]\[2\] has .*; wanted .*'slots'"),
    "a name that is none": (_at("stages", 2, "name", to=3), r"\['name'\] is 3; wanted a string"),
    "a slot that is no array": (_at(*V, "W", to="v"), r"\['v'\]\['W'\] is a builtins.str; wanted an array"),
    "a slot of integers": (_at(*V, "W", to=np.ones((2, 3), int)), r"\['v'\]\['W'\] has dtype int64"),
    "slots that are none": (_at(*V, to=3), r"\['slots'\]\['v'\] is a int; wanted a dict"),
    "no scale of a loss": (
        _at("stages", 1, "scalars", "scale", to=0),
        r"state\['stages'\]\[1\]\['scalars'\]\['scale'\] is 0.0; wanted above 0 and finite",
    ),
    "a scale that is infinite": (
        _at("stages", 1, "scalars", "scale", to=math.inf),
        r"\['scale'\] is inf; wanted above 0",
    ),
    "half a skip": (_at("stages", 1, "scalars", "skipped", to=0.5), r"\['skipped'\] is 0.5; wanted a whole number"),
    "a negative pending": (_at("pending", to={"W": -1}), r"state\['pending'\]\['W'\] is -1"),
    "a number that is none": (_at("stages", 1, "scalars", "good", to="x"), r"\['scalars'\]\['good'\] is 'x'"),
    "a decay below 0": (_at("stages", 0, "hyperparameters", "decay", to=-1), r"\['decay'\] is -1"),
    "a text for a decay": (_at("stages", 0, "hyperparameters", "decay", to="x"), r"\['decay'\] is 'x'"),
    "a bad state of a schedule": (
        _at("stages", 2, "hyperparameters", "lr", "states", to=[{"multiplier": 1.0}]),
        "state is {'multiplier': 1.0}; wanted",
    ),
    "a bad value of a group": (_at("groups", "**.b", "decay", to=-0.5), r"state\['groups'\].* is -0.5; wanted"),
    "keys that are no strings": (_at("t", to={1: 2}), r"state\['t'\] is a dict with the keys \[1\]"),
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_is_refused_before_anything_changes(what: str, strict: bool) -> None:
    """Whether differences are or not."""
    change, message = NONSENSE[what]
    optimizer, params = _trained()
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.stages[0].decay = 0.125
    before, text = optimizer.state_dict(), repr(optimizer)
    changed = change(state)
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.load_state_dict(state if changed is None else changed, params, strict=strict)
    assert repr(optimizer) == text
    assert repr(optimizer.state_dict()) == repr(before)


def test_paths_that_are_alike_are_refused() -> None:
    """A key with a dot may look like a nest."""
    optimizer = ao.Momentum()
    params = {"a.b": np.ones(1), "a": {"b": np.ones(1)}}
    optimizer.update(params, params)
    with pytest.raises(ValueError, match=r"params\['a'\]\['b'\] and params\['a.b'\] have the same path, 'a.b'"):
        optimizer.state_dict()
    with pytest.raises(ValueError, match="same path"):
        ao.Momentum().load_state_dict(ao.Momentum().state_dict() | {"step": 1, "t": {"a.b": 1}}, params)


def test_functions_stand_by_their_place() -> None:
    """A selector that is a function has no name that another process would know."""

    def make() -> ao.Optimizer:
        return ao.chain(ao.SGD(), ao.groups({lambda path, p: path == "W": {"lr": 0.5}, ...: {}}))

    optimizer, params = make(), {"W": np.ones(1), "b": np.ones(1)}
    optimizer.update(params, params)
    assert optimizer.state_dict()["groups"] == {"<function 0>": {"lr": 0.5}, "...": {}}
    other = make()
    assert other.load_state_dict(optimizer.state_dict(), params) == []


@pytest.mark.parametrize("order", [1, -1])
def test_patterns_that_read_like_the_names_of_other_selectors(order: int) -> None:
    """Each group is saved and gets its own values back: none takes another's name."""
    params = {"...": np.ones(1), "<function 1>": np.ones(1), "W": np.ones(1), "b": np.ones(1)}

    def make(rates: Sequence[float]) -> ao.chain:
        selectors = ("...", lambda path, p: path == "W", "<function 1>", ...)
        of = {selector: {"lr": lr} for selector, lr in zip(selectors, rates, strict=True)}
        return ao.chain(ao.SGD(), ao.groups(dict(list(of.items())[::order])))

    optimizer, other = make([0.5, 0.25, 0.125, 0.0625]), make([0.0] * 4)
    optimizer.update(params, params)
    assert other.load_state_dict(optimizer.state_dict(), params) == []
    found, wanted = dict(other.groups or {}), dict(optimizer.groups or {})
    assert [of["lr"] for of in found.values()] == [of["lr"] for of in wanted.values()] != []
    parts = ao.partition({"...": ao.SGD(), "W": ao.SGD(), "<*": None, ...: ao.SGD()})
    parts.update(params, params)
    assert len({stage["constants"]["for"] for stage in parts.state_dict()["stages"]}) == 3
