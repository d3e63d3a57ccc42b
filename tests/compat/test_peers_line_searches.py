"""The line searches of torch's and optax's L-BFGS beside these themselves, on many functions of one number."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim.compat._solvers import Asked
from anyoptim.compat.torch._line_search import strong_wolfe
from anyoptim.solvers import Trial
from tests.support.libraries import Library
from tests.support.xla import quick

pytestmark = pytest.mark.usefixtures("quickly")


def functions(n: int) -> Any:
    """Numbers of functions that fall at 0, with waves on them; some without a minimum, some only far away."""
    rng = np.random.default_rng(0)
    curvatures = rng.choice([-0.01, 0.0, 0.5, 50.0], n) * rng.uniform(0.5, 2, n)
    sizes, waves = rng.choice([0.01, 0.1, 1.0, 3.0], n), rng.uniform(0.1, 20, n)
    return np.stack([rng.uniform(-2, 2, n), rng.uniform(0.5, 4, n), curvatures, sizes, waves, rng.uniform(0, 6, n)], 1)


def value(of: Any, t: Any, sin: Callable[[Any], Any]) -> Any:
    offset, slope, curvature, size, wave, phase = of
    return offset - slope * t + curvature * t**2 + size * sin(wave * t + phase) - size * sin(phase)


def slope(of: Any, t: float) -> float:
    _, slope, curvature, size, wave, phase = of
    return float(-slope + 2 * curvature * t + size * wave * math.cos(wave * t + phase))


def found(of: Any) -> Callable[[float], Trial]:
    """What such a function is at a step length."""
    return lambda t: Trial(t, float(value(of, t, math.sin)), slope(of, t))


def followed(
    at: Callable[[float], Trial], steps: Callable[[Trial], Generator[Asked, Trial, Trial]]
) -> tuple[list[float], float]:
    """The step lengths of a search, and the one that it takes: it has to be known there what the gradient is."""
    start = at(0.0)
    search, ts = steps(start), list[float]()
    kept = trial = start
    asked = next(search)
    while True:
        kept = trial if asked.keep else kept
        ts.append(asked.t)
        trial = at(asked.t)
        try:
            asked = search.send(trial)
        except StopIteration as end:
            taken = end.value
            break
    assert taken in {start, kept, trial}
    return ts, taken.t


@pytest.mark.parametrize("tries", [0, 1, 2, 4, 25])
def test_torchs(tries: int, torch: Any) -> None:
    """The same step lengths, but for what rounding does to them, from trial to trial."""
    from torch.optim.lbfgs import _strong_wolfe

    direction, kinds = torch.ones(1), set()
    for of in functions(400):
        if slope(of, 0.0) >= -0.1:
            continue
        theirs: list[float] = []

        def asked(x: Any, t: float, d: Any, of: Any = of, theirs: list[float] = theirs) -> tuple[float, Any]:
            theirs.append(float(t))
            return float(value(of, float(t), math.sin)), torch.tensor([slope(of, float(t))])

        g = torch.tensor([slope(of, 0.0)])
        *_, taken, count = _strong_wolfe(
            asked, None, 1.0, direction, float(value(of, 0.0, math.sin)), g, g.dot(direction), max_ls=tries
        )
        ours, t = followed(found(of), lambda start: strong_wolfe(start, 1.0, 1.0, tries))
        if max(theirs) > 1e3:  # far away, where the waves' phase is lost to rounding
            continue
        assert len(ours) == count
        np.testing.assert_allclose(ours, theirs, rtol=1e-7)
        np.testing.assert_allclose(t, float(taken), rtol=1e-7)
        kinds.add((min(count, 5), t == 0, t == ours[-1]))
    assert len(kinds) > (tries > 0) + (tries > 1)


def test_torchs_goes_back_to_what_it_kept() -> None:
    """Before a wall lies the best trial, and none beyond it is better."""
    ours, t = followed(lambda t: Trial(t, -t if t <= 1 else 9.0, -1.0), lambda start: strong_wolfe(start, 1.0, 1.0, 4))
    assert (len(ours), t) == (5, 1.0)


OPTIONS: list[dict[str, Any]] = [
    {"max_linesearch_steps": 20},
    {"max_linesearch_steps": 5, "approx_dec_rtol": None, "curv_rtol": 0.05, "slope_rtol": 0.04},
    {"max_linesearch_steps": 12, "max_learning_rate": 1.7, "increase_factor": 1.5, "curv_rtol": 0.1},
    {"max_linesearch_steps": 30, "tol": 1e-2, "curv_rtol": 1e-3, "stepsize_precision": 0.05},
    {"max_linesearch_steps": 3, "slope_rtol": 0.45, "curv_rtol": 0.5, "approx_dec_rtol": 0.1},
]


@pytest.mark.parametrize(
    "options", [*OPTIONS[:2], *(pytest.param(of, marks=pytest.mark.product) for of in OPTIONS[2:])]
)
def test_optaxs(options: dict[str, Any], need: Callable[[str], Library]) -> None:
    """As many trials, and the same step length in the end, but for what rounding does to it, from trial to trial."""
    pytest.importorskip("optax", reason="optax is not installed")
    with need("jax-x64").context():
        import jax
        import optax
        from jax import numpy as jnp

        transform = optax.scale_by_zoom_linesearch(**options, initial_guess_strategy="one")

        def searched(of: Any) -> tuple[Any, Any]:
            def fun(t: Any) -> Any:
                return value(of, t[0], jnp.sin)

            x = jnp.zeros(1)
            at, g = jax.value_and_grad(fun)(x)
            _, state = transform.update(jnp.ones(1), transform.init(x), x, value=at, grad=g, value_fn=fun)
            return state.info.num_linesearch_steps, state.learning_rate

        every = np.array([of for of in functions(400) if slope(of, 0.0) < -0.1])
        counts, lengths = (np.array(a) for a in quick(jax.vmap(searched))(every))
    search = ao.compat.optax.scale_by_zoom_linesearch(**options, initial_guess_strategy="one")
    kinds = set()
    for of, count, length in zip(every, counts, lengths, strict=True):
        ours, t = followed(found(of), lambda start: search.steps(start, 1.0))
        assert len(ours) == count, of
        np.testing.assert_allclose(t, length, rtol=1e-7, err_msg=f"{of}")
        kinds.add((min(count, 5), t == ours[-1]))
    assert len(kinds) > 2


@pytest.mark.parametrize("name", ["torch", "optax"])
def test_a_search_that_finds_nothing_leaves_point_and_gradient(name: str) -> None:
    """At a wall, behind which no gradient was kept that could be taken for that of the start."""
    of = ao.compat
    solver = of.torch.LBFGS(line_search_fn="strong_wolfe") if name == "torch" else of.optax.lbfgs()
    x = solver.update(np.zeros(1), lambda x: (math.nan, np.array([math.nan])) if x[0] > 0 else (-x[0], -np.ones(1)))
    assert x[0] == 0
    assert solver.evaluations > 5
    assert solver.run.vectors["g"][0] == -1
