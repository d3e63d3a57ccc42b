"""What is learned of each parameter while it is updated: the numbers of NumPy, at no cost to the step."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import Library, same_bits

PATHS = ["encoder.W", "encoder.b", "s"]


def _problem(lib: Library, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return {
        "encoder": {"W": lib.asarray(rng.normal(size=(5, 4))), "b": lib.asarray(rng.normal(size=4))},
        "s": lib.asarray(np.asarray(rng.normal())),
    }


def _arrays(lib: Library, tree: Any) -> dict[str, Any]:
    return {
        "encoder.W": lib.tonumpy(tree["encoder"]["W"]),
        "encoder.b": lib.tonumpy(tree["encoder"]["b"]),
        "s": lib.tonumpy(tree["s"]),
    }


@pytest.mark.telling
@pytest.mark.parametrize("name", ["numpy", "strict", "torch", "jax-x64", "dask", "cuda-shim"])
def test_norms_of_gradients_and_steps(name: str, need: Callable[[str], Library]) -> None:
    """Of the gradient before it is clipped, of the step, and of the parameter before it; to rounding, as NumPy's."""
    lib = need(name)
    with lib.context():
        params = _problem(lib)
        optimizer = ao.chain(ao.Metrics("gradient"), ao.ClipGlobalNorm(0.5), ao.SGD(0.1), ao.Metrics("step"))
        for seed in (1, 2, 3):
            grads, before = _problem(lib, seed), {k: np.array(a) for k, a in _arrays(lib, params).items()}
            optimizer.update(params, grads)
            after, g = _arrays(lib, params), _arrays(lib, grads)
            found = optimizer.last_metrics
            assert list(found) == ["gradient", "step"]
            assert sorted(found["gradient"]) == sorted(found["step"]) == PATHS
            for path in PATHS:
                gradient, step = found["gradient"][path], found["step"][path]
                weight = np.linalg.norm(before[path])
                assert gradient.norm == pytest.approx(np.linalg.norm(g[path]), rel=1e-13)
                assert gradient.parameter_norm == step.parameter_norm == pytest.approx(weight, rel=1e-13)
                assert step.ratio == pytest.approx(np.linalg.norm(before[path] - after[path]) / weight, rel=1e-9)
                assert gradient.nonfinite == step.nonfinite == 0


def test_what_is_not_finite_is_counted_by_path() -> None:
    """Also where the step is then called off, so that one sees why."""
    params = {"a": np.ones(5), "b": np.ones((2, 2))}
    optimizer = ao.chain(ao.Metrics(), ao.SkipNonFinite(), ao.SGD(0.1))
    optimizer.update(params, {"a": np.array([1, np.nan, np.inf, 2, -np.inf]), "b": np.ones((2, 2))})
    found = optimizer.last_metrics["gradient"]
    assert (found["a"].nonfinite, found["b"].nonfinite) == (3, 0)
    assert not math.isfinite(found["a"].norm)
    assert optimizer.state is not None
    assert optimizer.state.step == 0
    assert same_bits(params["a"], np.ones(5))


def test_parameters_that_rest_have_none() -> None:
    """And those of before are forgotten."""
    params = {"a": np.ones(2), "b": np.ones(2)}
    optimizer = ao.chain(ao.Metrics(), ao.SGD(0.1))
    assert optimizer.last_metrics == {"gradient": {}}
    optimizer.update(params, {"a": np.ones(2), "b": np.ones(2)})
    assert [*optimizer.last_metrics["gradient"]] == ["a", "b"]
    optimizer.update(params, {"a": None, "b": np.ones(2)})
    assert [*optimizer.last_metrics["gradient"]] == ["b"]


def test_steps_keep_their_bits_and_copies_their_metrics() -> None:
    """With metrics or without, on every engine's path; a parameter of zeros has an infinite ratio, or none."""
    one, two = ({"w": np.linspace(-1, 1, 7), "z": np.zeros(3)} for _ in range(2))
    plain, watched = (
        ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam()),
        ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam(), ao.Metrics()),
    )
    for k in range(5):
        grads = {"w": np.full(7, k + 1.0), "z": np.zeros(3)}
        plain.update(one, grads)
        watched.update(two, grads)
    assert all(same_bits(one[k], two[k]) for k in one)
    assert watched.last_metrics["gradient"]["z"].ratio == 0.0
    assert ao.Metric(1.0, 0.0, 0).ratio == math.inf
    assert pickle.loads(pickle.dumps(watched)).last_metrics == watched.last_metrics  # noqa: S301 - our own


def test_names() -> None:
    with pytest.raises(TypeError, match="name is 3; wanted a string"):
        ao.Metrics(3)  # type: ignore[arg-type]
    assert repr(ao.Metrics("step")) == "Metrics('step')"
    assert ao.chain(ao.SGD()).last_metrics == {}
