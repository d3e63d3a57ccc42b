"""Each method reaches the loss that it documents on three problems, and would not if it were broken."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from benchmarks import problems
from tests.reference.methods import METHODS, wanted
from tests.reference.problems import PROBLEMS, TOLERANCE, Run, excess, make
from tests.support.libraries import DISCOVERED

FAR = 0.05
"""The share of the loss at the start that may be left."""

BETTER = 2 / 3
"""The share of SGD's loss that a method has to be below, on one problem at least."""


def _rows(name: str) -> dict[str, Run]:
    return dict(zip(PROBLEMS, wanted(name).reached, strict=True))


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", DISCOVERED)
def test_reaches_the_documented_loss(name: str, problem: str) -> None:
    """To the tolerance, above and below: a method that has become better has become another. Far below the start."""
    documented, built = _rows(name)[problem], PROBLEMS[problem]()
    reached = excess(make(name, documented.hyper, built.steps), built)
    assert reached == pytest.approx(documented.loss, rel=TOLERANCE)
    assert reached < FAR * built.loss(built.start())


@pytest.mark.parametrize("name", DISCOVERED)
def test_is_better_than_sgd_somewhere(name: str) -> None:
    """Or says why not."""
    ratios = [mine.loss / sgd.loss for mine, sgd in zip(_rows(name).values(), METHODS["SGD"].reached, strict=True)]
    assert (min(ratios) > BETTER) == bool(METHODS[name].slow), ratios


def _longer(optimizer: ao.Optimizer, before: Any, params: Any) -> ao.Optimizer:
    for key, p in params.items():
        p[...] += 0.02 * (p - before[key])
    return optimizer


def _forgetful(optimizer: ao.Optimizer, before: Any, params: Any) -> ao.Optimizer:
    return fresh(optimizer)


def fresh(optimizer: ao.Optimizer) -> ao.Optimizer:
    """The same without what it remembers."""
    copy = deepcopy(optimizer)
    copy._training.state = None
    return copy


BROKEN: dict[str, Callable[[ao.Optimizer, Any, Any], ao.Optimizer]] = {
    "steps that are 2 % too long": _longer,
    "no memory": _forgetful,
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize(
    "name",  # that the table is tight need not be seen of all each time
    [pytest.param(name, marks=pytest.mark.product if i % 6 else ()) for i, name in enumerate(DISCOVERED)],
)
def test_would_notice_a_broken_method(name: str, how: str) -> None:
    """What is documented is missed on one problem at least: the tolerance is not so wide that anything would pass."""
    if how == "no memory" and not DISCOVERED[name].slots:
        pytest.skip(f"{name} remembers nothing")

    def missed(problem: str, documented: Run) -> bool:
        built = PROBLEMS[problem]()
        reached = excess(make(name, documented.hyper, built.steps), built, after=BROKEN[how])
        return reached != pytest.approx(documented.loss, rel=TOLERANCE)

    assert any(missed(*row) for row in _rows(name).items())


@pytest.mark.parametrize("problem", PROBLEMS)
def test_gradients_are_those_of_the_losses(problem: str) -> None:
    """By differences, at the start and at a random place; and no loss is below the least."""
    built, rng = PROBLEMS[problem](), np.random.default_rng(0)
    for scale in (0, 0.3):
        params = {key: p + scale * rng.normal(size=p.shape) for key, p in built.start().items()}
        assert built.loss(params) > 0
        direction = {key: rng.normal(size=p.shape) for key, p in params.items()}
        high, low = (
            built.loss({key: p + sign * 1e-6 * direction[key] for key, p in params.items()}) for sign in (1, -1)
        )
        slope = sum(float(np.sum(g * direction[key])) for key, g in built.gradient(params).items())
        assert (high - low) / 2e-6 == pytest.approx(slope, rel=1e-6)


def test_the_page_is_made_of_the_rows() -> None:
    """docs/problems.md is what `python -m benchmarks.problems` writes."""
    made = problems.document()
    assert problems.DOCUMENT.read_text(encoding="utf-8") == made, "wanted `python -m benchmarks.problems`"


def test_the_search_proposes_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of the learning rates, those left out that lead elsewhere from a start beside the start."""
    monkeypatch.setattr(problems, "RATES", (0.0005, 0.001, 0.002, 0.01))
    found = problems.search("SGD", PROBLEMS["rosenbrock"](), {})
    documented = METHODS["SGD"].reached
    assert found == documented[1]
    assert problems.row(documented) == "reached=({}),".format(
        ", ".join(f"run({of.loss:.3g}, lr={of.hyper['lr']})" for of in documented)
    )
    monkeypatch.setattr(problems, "RATES", (1.0,))
    with pytest.raises(ValueError, match="SGD reaches nothing on Rosenbrock"):
        problems.search("SGD", PROBLEMS["rosenbrock"](), {})
