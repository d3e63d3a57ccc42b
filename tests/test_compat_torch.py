"""The constructors of torch.optim: its names and defaults, and what it does, to round-off."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.compat_torch import FREE, OPTIONS, Beside, drawn, random, shapes
from tests.libraries import Library

STEPS = 200
DRAWS = range(8)


@pytest.fixture(autouse=True)
def torch(need: Callable[[str], Library], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """torch in float64: NAdam's product and ASGD's rates are of its default dtype. And its Muon without bfloat16."""
    need("torch")
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    yield torch
    torch.set_default_dtype(before)


def _make(name: str, options: Any) -> ao.Optimizer:
    make: Callable[..., ao.Optimizer] = getattr(ao.compat.torch, name)
    return make(**options)


def test_all_are_there(torch: Any) -> None:
    """Every optimizer of torch but those that the table of features says are not here; and draws of all options."""
    theirs = {name for name, value in vars(torch.optim).items() if isinstance(value, type)}
    assert theirs - set(ao.compat.torch.__all__) == {"Optimizer", "LBFGS", "SparseAdam"}
    assert set(OPTIONS) == theirs & set(ao.compat.torch.__all__)
    for name, options in OPTIONS.items():
        arguments = set(inspect.signature(getattr(torch.optim, name)).parameters)
        assert arguments - FREE - {"params", "differentiable"} == set(options), name


@pytest.mark.parametrize("name", OPTIONS)
def test_signatures_are_torchs(name: str, torch: Any) -> None:
    """The names, the order, the kinds and the defaults, but for `params`."""
    _, *theirs = inspect.signature(getattr(torch.optim, name)).parameters.values()
    ours = inspect.signature(getattr(ao.compat.torch, name)).parameters.values()
    assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs]


def _together(ours: ao.Optimizer, theirs: Beside, p: Any, rng: Any, steps: int, way: Any = None) -> Any:
    """Take steps beside each other: equal to 1e-12 of the way that each element went, and of itself.

    A step of some 20 operations, on means that carry the round-off of up to 1/(1-beta) steps before, is off by some
    1e-13 of what it would be if nothing in it cancelled: that is of the order of the steps around it.
    """
    way = {key: np.abs(a) for key, a in p.items()} if way is None else way
    for t in range(steps):
        of = {key: a.shape for key, a in p.items()}
        g = random(rng, of, scale=10.0 ** rng.integers(-1, 2))
        if t % 7 == 3:
            g["p1"] = None
        before = theirs.values
        ours.update(p, g)
        theirs.update(g)
        for key, q in theirs.values.items():
            way[key] = np.maximum(way[key] + np.abs(q - before[key]), np.abs(q))
            assert np.all(np.isfinite(q))
            np.testing.assert_array_less(np.abs(p[key] - q), 1e-12 * way[key] + 1e-300, err_msg=f"{key}, step {t}")
    return way


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_torch(name: str, draw: int, torch: Any) -> None:
    """200 steps in float64 beside torch itself: random shapes, all options drawn at random, some gradients None."""
    rng = np.random.default_rng([draw, *name.encode()])
    options = drawn(name, rng)
    p = random(rng, shapes(name, rng))
    theirs = Beside(torch, name, options, p)
    way = _together(_make(name, options), theirs, p, rng, STEPS)
    assert all(np.all(w > 0) for w in way.values()), options
