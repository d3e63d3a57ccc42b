"""The parameters to evaluate with: averages, of the state of the last update or of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import Library, same_bits


def _step(lib: Library, optimizer: ao.Optimizer, params: Any, steps: int = 7) -> Any:
    rng = np.random.default_rng(1)
    for _ in range(steps):
        optimizer.update(
            params, {k: lib.asarray(rng.normal(size=tuple(a.shape)).astype("float32")) for k, a in params.items()}
        )
    return params


AVERAGING: dict[str, tuple[Callable[[], ao.Stage], str]] = {
    "EMA": (lambda: ao.EMA(0.9), "average"),
    "SWA": (lambda: ao.SWA(2, every=2), "average"),
    "Lookahead": (lambda: ao.Lookahead(3), "slow"),
}


@pytest.mark.parametrize("name", ["numpy", "strict", "torch", "jax", "dask", "cuda-shim"])
@pytest.mark.parametrize("stage", AVERAGING)
def test_averages_are_the_slots(stage: str, name: str, need: Callable[[str], Library]) -> None:
    """In arrays of the user's library that are nobody's but the caller's, after `update` and of a state."""
    lib = need(name)
    make, slot = AVERAGING[stage]
    optimizer = ao.chain(ao.SGD(0.1), make())
    params = _step(
        lib, optimizer, {"W": lib.asarray(np.ones((3, 2), "float32")), "b": lib.asarray(np.ones(2, "float32"))}
    )
    assert optimizer.state is not None
    for found in (optimizer.eval_params(params), optimizer.eval_params(params, optimizer.state)):
        assert [*found] == ["W", "b"]
        for k, a in found.items():
            kept = optimizer.state.slots[1][slot][k]
            assert type(a) is type(params[k])
            assert a is not kept
            assert same_bits(lib.tonumpy(a), lib.tonumpy(kept))


def test_averaged_sgd() -> None:
    """ASGD's own average, too."""
    optimizer, w = ao.ASGD(lr=0.1, t0=2), np.arange(3.0)
    for _ in range(5):
        optimizer.update(w, np.ones(3))
    assert optimizer.state is not None
    assert same_bits(optimizer.eval_params(w), optimizer.state.slots["average"])


def test_it_is_cast_to_the_parameter() -> None:
    """Averages have at least float32; what evaluates wants the network's own dtype."""
    optimizer, params = ao.chain(ao.SGD(0.1), ao.EMA(0.5)), {"w": np.ones(3, "float16")}
    for _ in range(3):
        optimizer.update(params, {"w": np.ones(3, "float16")})
    assert optimizer.state is not None
    found, average = optimizer.eval_params(params)["w"], optimizer.state.slots[1]["average"]["w"]
    assert (found.dtype, average.dtype) == (np.dtype("float16"), np.dtype("float32"))
    assert same_bits(found, average.astype(np.float16))


def test_it_is_the_parameter_before_the_first_step() -> None:
    """And no state comes into being that `update` did not ask for."""
    optimizer, w = ao.chain(ao.SGD(0.1), ao.EMA(0.5)), np.arange(3.0)
    found = optimizer.eval_params({"w": w})["w"]
    assert found is not w
    assert same_bits(found, w)
    assert optimizer.state is None


def test_what_is_written_to_is_nobodys() -> None:
    """Neither the parameters nor the averages."""
    optimizer, w = ao.chain(ao.SGD(0.1), ao.EMA(0.5)), np.arange(3.0)
    optimizer.update(w, np.ones(3))
    assert optimizer.state is not None
    before, average = w.copy(), optimizer.state.slots[1]["average"].copy()
    optimizer.eval_params(w)[...] = 7
    assert same_bits(w, before)
    assert same_bits(optimizer.state.slots[1]["average"], average)


def test_without_averages() -> None:
    with pytest.raises(ValueError, match=r"SGD\(lr=0.01\) has no stage that averages, such as ao.EMA\(\)"):
        ao.SGD().eval_params(np.ones(3))
