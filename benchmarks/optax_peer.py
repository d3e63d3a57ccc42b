"""optax's optimizers in one `jax.jit`, with parameters and state donated."""

from __future__ import annotations

import functools
import importlib.util
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness import Candidate
from benchmarks.methods import CHAINS, DECAY, MAX_NORM, METHODS, numbers
from benchmarks.problem import Drawn, Problem
from benchmarks.reference import Reference

__all__ = ["arrays", "candidate", "installed", "taken"]


def installed() -> bool:
    """Whether there are optax and JAX."""
    return importlib.util.find_spec("optax") is not None


def _transformation(method: str) -> Any:
    import optax

    given = numbers(method)
    match method:
        case "SGD":
            return optax.sgd(given["lr"])
        case "Momentum":
            return optax.sgd(given["lr"], momentum=given["momentum"])
        case "AdaGrad":
            # Its eps is inside the root, and its sums would start at 0.1.
            return optax.adagrad(given["lr"], initial_accumulator_value=0, eps=given["eps"] ** 2)
    decay = {"weight_decay": given["weight_decay"]} if "weight_decay" in given else {}
    kind = optax.adamw if decay else optax.adam
    adam = kind(given["lr"], b1=given["beta1"], b2=given["beta2"], eps=given["eps"], **decay)
    if method not in CHAINS:
        return adam
    # Optax scales no losses; what is not finite it skips.
    unscale = optax.scale(1 / METHODS[method].scale) if METHODS[method].scale != 1 else optax.identity()
    chain = optax.chain(unscale, optax.clip_by_global_norm(MAX_NORM), adam)
    return chain if METHODS[method].scale == 1 else optax.apply_if_finite(chain, max_consecutive_errors=5)


@functools.cache  # of a new function nothing would be compiled yet
def _compiled(method: str) -> tuple[Any, Any]:
    import jax
    import optax

    transformation = _transformation(method)

    def step(params: Any, state: Any, average: Any, grads: Any) -> tuple[Any, Any, Any]:
        updates, state = transformation.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        if average:
            average = optax.incremental_update(params, average, 1 - DECAY)
        return params, state, average

    return transformation.init, jax.jit(step, donate_argnums=(0, 1, 2))


def arrays(values: Any) -> Any:
    """The values in JAX arrays."""
    import jax
    import jax.numpy as jnp

    # A copy, because JAX would take memory of NumPy's as it is, and that can't be donated.
    return jax.block_until_ready({k: jnp.array(a, copy=True) for k, a in values.items()})


def taken(scale: float, drawn: Drawn) -> Any:
    """The gradients of a round, that many times as large."""
    return arrays(drawn.arrays if scale == 1 else drawn.fresh(scale))


def candidate(name: str, method: str, problem: Problem, reference: Reference) -> Candidate:
    """A step until its results are there, on gradients that are JAX's own already."""
    import jax

    init, step = _compiled(method)

    start = problem.start()
    params = arrays(start)
    carried = params, init(params), arrays(start) if method in CHAINS else {}
    del start, params

    def turn(grads: Any) -> None:
        nonlocal carried
        carried = jax.block_until_ready(step(*carried, grads))

    def off() -> float:
        params, _, average = carried
        return reference.deviation(*({k: np.asarray(a) for k, a in of.items()} for of in (params, average)))

    return Candidate(name, turn, off, partial(taken, METHODS[method].scale))
