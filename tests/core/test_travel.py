"""Training that stops with one library or engine and goes on, from a checkpoint, with another: as if it had not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.chains import CHAINS, agree, problem, run
from tests.support.libraries import COMPOSED, DISCOVERED, METHODS, Library

pytestmark = pytest.mark.usefixtures("quickly")

Make = Callable[[ao.EngineName | None], ao.Optimizer]

CONTROLLED: dict[str, Make] = {
    "six stages": lambda e: ao.chain(
        ao.ClipGlobalNorm(0.5),
        ao.WeightDecay(0.1),
        ao.Trace(0.5),
        ao.Adam(lr=0.1),
        ao.EMA(0.9),
        ao.FlushSubnormals(),
        engine=e,
    ),
    "the tail of a loop": lambda e: ao.chain(
        ao.Accumulate(3),
        ao.LossScale(interval=2, initial=4.0),
        ao.Metrics("gradient"),
        ao.ClipGlobalNorm(0.5),
        ao.AdamW(lr=0.1),
        ao.EMA(0.9),
        ao.groups({"b": {"AdamW.lr": 0.05}, ...: {}}),
        engine=e,
    ),
    "a partition": lambda e: ao.chain(
        ao.partition({"W": ao.Adam(lr=0.1), "b": ao.Momentum(lr=0.1), "s": None}), ao.EMA(0.9), engine=e
    ),
}

EVERY: dict[str, Make] = {
    **{name: lambda e, method=method: method(engine=e) for name, method in DISCOVERED.items()},  # type: ignore[misc]
    **{name: make for name, make in CHAINS.items() if name not in DISCOVERED},
    **{
        name: lambda e, method=DISCOVERED[name]: ao.partition({"W": method(), ...: ao.SGD()}, engine=e)  # type: ignore[misc]
        for name in ("Muon", "Shampoo")  # which take matrices alone
    },
    **CONTROLLED,
}
RARE = {*CHAINS, *METHODS} - {*COMPOSED, "clip, Adam, EMA", "SGD", "Adam", "Adan", "ASGD", "NAdam", "RAdam", "Rprop"}
"""What others of these have: slots and counts travel alike, whatever the rule."""

STOPS: list[tuple[str, ao.EngineName | None]] = [
    ("numpy", "portable"),
    ("numpy", "blocked"),
    ("torch", None),
    ("strict", None),
    ("cuda-shim", None),
]
"""The libraries and engines that have NumPy's bits."""


def _slowed(optimizer: ao.Optimizer) -> None:
    """Change hyperparameters, as a user does in mid-training: they travel, too."""
    for stage in optimizer.stages:
        if "lr" in stage.hyperparameters:
            stage.lr = 0.75 * stage.lr
    groups = optimizer.groups if isinstance(optimizer, ao.chain) else None
    if groups is not None:
        groups["b"]["AdamW.lr"] = 0.03


def _moved(path: Path, params: Any, optimizer: ao.Optimizer, like: Any, other: ao.Optimizer) -> Any:
    """Through a file: parameters like others, and what the optimizer remembers in another one."""
    ao.save(path, params=params, optimizer=optimizer)
    found = ao.load(path, like=like)
    assert found.optimizer is not None
    assert other.load_state_dict(found.optimizer, found.params) == []
    return found.params


def _run(lib: Library, optimizer: ao.Optimizer, params: Any, grads: list[Any]) -> None:
    for g in grads:
        optimizer.update(params, {k: lib.asarray(a) for k, a in g.items()})


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.product if name in RARE else ()) for name in EVERY],
)
def test_a_stopover_changes_no_bit(name: str, need: Callable[[str], Library], tmp_path: Path) -> None:
    """From compiled NumPy to each of the others and back: parameters, slots, counts, numbers, hyperparameters."""
    make, numpy = EVERY[name], need("numpy")
    whole = any(stage.array_rule for stage in make(None).stages)
    home: ao.EngineName | None = None if whole else "compiled"
    params, grads = problem("float32", steps=12)

    def begun() -> tuple[dict[str, Any], ao.Optimizer]:
        here, optimizer = {k: a.copy() for k, a in params.items()}, make(home)
        _run(numpy, optimizer, here, grads[:2])
        _slowed(optimizer)
        return here, optimizer

    straight, through = begun()
    _run(numpy, through, straight, grads[2:])
    for other, engine in STOPS:
        if whole and other != "numpy":
            continue  # its own products of matrices have bits of their own
        lib = need(other)
        here, first = begun()
        _run(numpy, first, here, grads[2:4])
        second, third = make(engine), make(home)
        blank = {k: np.zeros_like(a) for k, a in params.items()}
        there = _moved(tmp_path / "out", here, first, {k: lib.asarray(a) for k, a in blank.items()}, second)
        _run(lib, second, there, grads[4:8])
        back = _moved(tmp_path / "back", there, second, blank, third)
        _run(numpy, third, back, grads[8:])
        assert agree(back, straight), other
        assert third.state is not None
        assert through.state is not None
        assert agree(list(third.state), list(through.state)), other
        assert repr(third) == repr(through), other
        assert third.loss_scale == through.loss_scale


@pytest.mark.covering(1)  # a file is of NumPy's arrays, whoever made them; engines/test_chain_bits.py has chains
@pytest.mark.parametrize("name", ["Adam", "LAMB", "six stages"])
def test_a_stopover_elsewhere_comes_close(name: str, lib: Library, tmp_path: Path) -> None:
    """The same with the libraries that have bits of their own: as close as a run there comes."""
    make = EVERY[name]
    params, grads = problem("float32", steps=6)
    straight = {k: a.copy() for k, a in params.items()}
    run(make(None), straight, grads)
    here = {k: a.copy() for k, a in params.items()}
    first, second, third = make(None), make(None), make(None)
    run(first, here, grads[:2])
    blank = {k: np.zeros_like(a) for k, a in params.items()}
    there = _moved(tmp_path / "out", here, first, {k: lib.asarray(a) for k, a in blank.items()}, second)
    _run(lib, second, there, grads[2:4])
    back = _moved(tmp_path / "back", there, second, blank, third)
    run(third, back, grads[4:])
    for k, a in straight.items():
        # Two steps of at most 2 ulp each there, in parameters of about 1, and Adam's quotients carry them on.
        np.testing.assert_allclose(back[k], a, rtol=0, atol=64 * 2.0**-23)


def test_the_state_goes_on_in_the_pure_form(lib: Library) -> None:
    """A state of `step` as plain dicts, and what another optimizer makes of them, is the same state."""
    params, grads = ({k: lib.asarray(a) for k, a in tree.items()} for tree in (problem("float32")[0],) * 2)
    optimizer = EVERY["the tail of a loop"](None)
    state = optimizer.init(params)
    for _ in range(4):
        params, state = optimizer.step(params, grads, state)
    other = EVERY["the tail of a loop"](None)
    other.load_state_dict(optimizer.state_dict(state), params)
    assert other.state is not None
    assert agree(*(lib.values(optimizer.step(params, grads, of)) for of in (state, other.state)))
