"""Each method has a row in tests/reference/methods.py, and takes the steps of its paper: the first to see it broken."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from tests.reference.methods import METHODS, TRANSCRIBED, wanted
from tests.support.libraries import DISCOVERED, allowed


def test_no_row_is_of_another_method() -> None:
    assert set(METHODS) <= set(DISCOVERED)
    assert set(TRANSCRIBED) <= set(DISCOVERED)


@pytest.mark.parametrize("name", DISCOVERED)
def test_the_first_steps_are_those_of_its_paper(name: str) -> None:
    """With the hyperparameters of its row and else the defaults, in float64: to 1e-12 of the largest element."""
    hyper: dict[str, Any] = {
        "lr" if key == "cosine" else key: value for key, value in wanted(name).reached[0].hyper.items()
    }
    assert name in TRANSCRIBED, f"{name} has no transcription; wanted one in METHODS in tests/reference/papers.py"
    optimizer, rng = DISCOVERED[name](**hyper), np.random.default_rng(0)
    given: dict[str, Any] = {
        key: getattr(optimizer, key)
        for key in inspect.signature(DISCOVERED[name]).parameters
        if key not in {"engine", "seed", "stream"}
    }
    parameters = inspect.signature(TRANSCRIBED[name]).parameters
    if "noise" in parameters:
        given["noise"] = lambda key, t: 0.0  # of which the temperature of its row makes nothing
    if not any(of.kind is of.VAR_KEYWORD for of in parameters.values()):
        given = {key: value for key, value in given.items() if key in parameters}
    transcription = TRANSCRIBED[name](**given)
    ours, theirs = ({"W": np.random.default_rng(1).normal(size=(3, 2))} for _ in range(2))
    for t in range(20):
        g = rng.normal(size=(3, 2))
        optimizer.update(ours, {"W": g.copy()})
        transcription.update(theirs, {"W": g.copy()})
        np.testing.assert_allclose(
            ours["W"], theirs["W"], rtol=0, atol=1e-12 * np.abs(theirs["W"]).max(), err_msg=f"{t}"
        )


@pytest.mark.parametrize("name", DISCOVERED)
def test_each_coefficient_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rule: one that is not would leave what it stands for undone, in silence."""
    method, unread = DISCOVERED[name], list[str]()

    def reading(rule: Any) -> Any:
        def read(*arguments: Any) -> Any:
            names = set[str]()

            class Reads:
                def __getattr__(self, key: str) -> Any:
                    names.add(key)
                    return getattr(arguments[-1], key)

            result = rule(*arguments[:-1], Reads())
            unread.extend({*vars(arguments[-1])} - names)
            return result

        return staticmethod(read)

    for stage in method().stages:
        monkeypatch.setattr(type(stage), "rule", reading(stage.rule))
    for value in (0.0, 0.25):
        whole = {"seed", "stream", "steps"}
        hyper = {key: allowed(method, key, value) for key in method.hyperparameters if key not in whole}
        method(**hyper, engine="portable").update(np.ones((3, 2)), np.ones((3, 2)))
    assert unread == []
