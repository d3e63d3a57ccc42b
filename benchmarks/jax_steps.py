"""A step on JAX arrays: anyoptim's `update`, and its `step` compiled by the user, beside optax compiled by the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import optax_peer
from benchmarks.harness import Candidate, Case, Contest, measure
from benchmarks.machine import memory
from benchmarks.methods import CHAINS, DECAYED, METHODS
from benchmarks.names import OPTAX
from benchmarks.own import averages
from benchmarks.problem import PARAMETERS, Problem, Shapes
from benchmarks.reference import Reference
from benchmarks.report import Sheet
from benchmarks.updates import SHARE, TOLERANCES

__all__ = ["UPDATE", "jax_steps"]

UPDATE, STEP = "anyoptim update", "anyoptim step, jit"
SIZES: Mapping[str, Shapes] = {size: PARAMETERS[size] for size in ("ResNet-50", "784-50-10 network")}


def jax_steps(seconds: float, sizes: Mapping[str, Shapes] = SIZES) -> Sheet:
    """The time of a step of Adam, and of a chain, by each."""
    rows: list[list[str | float]] = []
    names = [OPTAX, UPDATE, STEP] if optax_peer.installed() else []
    for size, shapes in sizes.items() if names else ():
        problem = Problem(shapes)
        for method in ("Adam", DECAYED):
            # Parameters, twice where they are not donated, slots, a gradient, and one that is still held.
            arrays = len(names) * (METHODS[method].slots + 4)
            together = arrays * problem.size * problem.dtype.itemsize < SHARE * memory()
            contest = Contest(names, partial(_case, method, problem), together)
            outcome = measure(f"JAX, {method}, {size}", contest, OPTAX, seconds * 2)
            times = [outcome.timings[name].median for name in names]
            rows.append([f"{method}, {size}", *times, *(outcome.ratios[name] for name in names[1:])])
    return Sheet(
        ["ms a step on JAX arrays", OPTAX, UPDATE, STEP, f"{OPTAX} / {UPDATE}", f"{OPTAX} / {STEP}"],
        rows,
        "Until the results are there. optax and `step` with parameters and state donated; `update` donates its slots, "
        "and leaves the parameters of before to whoever has them. Medians.",
    )


def _case(method: str, problem: Problem, names: Sequence[str]) -> Case:
    reference = Reference(method, problem)
    build = {OPTAX: optax_peer.candidate, UPDATE: _update, STEP: _step}
    candidates = [build[name](name, method, problem, reference) for name in names]
    return Case(candidates, problem.draw, TOLERANCES[problem.dtype.name], reference.follow)


def _off(reference: Reference, params: Any, average: Any) -> float:
    return reference.deviation(*({k: np.asarray(a) for k, a in of.items()} for of in (params, average)))


def _update(name: str, method: str, problem: Problem, reference: Reference) -> Candidate:
    import jax

    params = optax_peer.arrays(problem.start())
    optimizer = METHODS[method].ours()

    def turn(grads: Any) -> None:
        jax.block_until_ready(optimizer.update(params, grads))

    return Candidate(
        name,
        turn,
        lambda: _off(reference, params, averages(method, optimizer)),
        partial(optax_peer.taken, METHODS[method].scale),
    )


def _step(name: str, method: str, problem: Problem, reference: Reference) -> Candidate:
    import jax

    optimizer = METHODS[method].ours()
    params = optax_peer.arrays(problem.start())
    carried = params, optimizer.init(params)
    step = jax.jit(optimizer.step, donate_argnums=(0, 2))
    del params

    def turn(grads: Any) -> None:
        nonlocal carried
        carried = jax.block_until_ready(step(carried[0], grads, carried[1]))

    def off() -> float:
        params, state = carried
        return _off(reference, params, state.slots[-1]["average"] if method in CHAINS else {})

    return Candidate(name, turn, off, partial(optax_peer.taken, METHODS[method].scale))
