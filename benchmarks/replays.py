"""A small step in the forms in which parameters and gradients come: what each costs beside arrays of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import anyoptim as ao
from benchmarks import optax_peer
from benchmarks.harness import Arrays, Candidate, Case, Contest, measure
from benchmarks.methods import MAX_NORM, NUMBERS, ClippedAveragedAdam
from benchmarks.problem import Drawn, Problem
from benchmarks.reference import Reference
from benchmarks.report import Sheet
from benchmarks.updates import TOLERANCES
from tests.reference import textbook

__all__ = ["ENGINES", "FORMS", "replays"]

ENGINES: tuple[ao.EngineName, ...] = ("blocked", "compiled", "jax")
SHAPES = {f"w{i}": (25, 40) for i in range(4)}
ADAM = NUMBERS["Adam"]
OWN_RATE = 0.0001
"""The learning rate of the group that `w0` has to itself."""


class _ByHand:
    """Adam by hand, clipped or not, in groups or not, of the parameters that have a gradient."""

    def __init__(self, clipped: bool = False, grouped: bool = False, resting: str = "") -> None:
        kind = ClippedAveragedAdam if clipped else textbook.Adam
        rates = {k: OWN_RATE if grouped and k == "w0" else ADAM["lr"] for k in SHAPES if k != resting}
        self.clipped = clipped
        self.parts = [
            ([k for k, its in rates.items() if its == lr], kind(**{**ADAM, "lr": lr}))
            for lr in dict.fromkeys(rates.values())
        ]

    def update(self, params: Arrays, grads: Arrays) -> None:
        norm = np.sqrt(sum(np.sum(g**2) for g in grads.values())) if self.clipped else None
        for keys, method in self.parts:
            method.update({k: params[k] for k in keys}, {k: grads[k] for k in keys}, *([norm] if self.clipped else []))


def _adam(engine: ao.EngineName) -> ao.Optimizer:
    return ao.Adam(**ADAM, engine=engine)


def _chain(*stages: Any, engine: ao.EngineName) -> ao.Optimizer:
    return ao.chain(*stages, engine=engine)


def _groups() -> ao.groups:
    return ao.groups({"w0": {"lr": OWN_RATE}, ...: {}})


def _as_it_is(arrays: Arrays) -> Arrays:
    return arrays


def _views(arrays: Arrays) -> Arrays:
    """The same in one flat buffer."""
    flat = np.concatenate([a.reshape(-1) for a in arrays.values()])
    pieces = np.split(flat, np.cumsum([a.size for a in arrays.values()])[:-1])
    return {k: piece.reshape(a.shape) for (k, a), piece in zip(arrays.items(), pieces, strict=True)}


class Form(NamedTuple):
    """What parameters and gradients look like, and the optimizer."""

    make: Callable[..., ao.Optimizer] = _adam
    params: Callable[[Arrays], dict[str, Any]] = _as_it_is
    grads: Callable[[Arrays], dict[str, Any]] = _as_it_is
    by_hand: Callable[[], _ByHand] = _ByHand


FORMS: Mapping[str, Form] = {
    "arrays of their own": Form(),
    "gradients are views of one buffer": Form(grads=_views),
    "parameters are views of one buffer": Form(params=_views),
    "transposed gradients": Form(grads=lambda g: {k: np.asfortranarray(a) for k, a in g.items()}),
    "float64 gradients": Form(grads=lambda g: {k: a.astype(np.float64) for k, a in g.items()}),
    "one gradient None": Form(grads=lambda g: {**g, "w3": None}, by_hand=partial(_ByHand, resting="w3")),
    "a tied weight": Form(params=lambda p: {**p, "tied": p["w0"]}, grads=lambda g: {**g, "tied": None}),
    "two groups": Form(partial(_chain, ao.Adam(**ADAM), _groups()), by_hand=partial(_ByHand, grouped=True)),
    "clipped": Form(partial(_chain, ao.ClipGlobalNorm(MAX_NORM), ao.Adam(**ADAM)), by_hand=partial(_ByHand, True)),
    "clipped, two groups": Form(
        partial(_chain, ao.ClipGlobalNorm(MAX_NORM), ao.Adam(**ADAM), _groups()), by_hand=partial(_ByHand, True, True)
    ),
}


def replays(seconds: float) -> Sheet:
    """The time of a step of Adam in each form, by each engine."""
    engines = [engine for engine in ENGINES if engine != "jax" or optax_peer.installed()]
    problem, names = Problem(SHAPES), [*FORMS]
    medians = {}
    for engine in engines:
        contest = Contest(names, partial(_case, engine, problem))
        timings = measure(f"replays, {engine}", contest, names[0], seconds).timings
        medians[engine] = {name: timings[name].median * 1e3 for name in names}
    rows: list[list[str | float]] = [
        [name, *(medians[e][name] for e in engines), *(medians[e][name] / medians[e][names[0]] for e in engines)]
        for name in names
    ]
    return Sheet(
        ["µs a step of Adam on 4 arrays of 1,000", *engines, *(f"{engine}, of the first" for engine in engines)],
        rows,
        "float32. Steps are replayed, as `explain` says: without checks that would only repeat themselves. Transposed "
        "and float64 gradients are copied by blocked, which takes them in place of compiled; what is clipped is read "
        "once more, for the norm. JAX until the results are there. Medians.",
    )


def _case(engine: ao.EngineName, problem: Problem, names: list[str]) -> Case:
    references = {name: Reference("Adam", problem, FORMS[name].by_hand()) for name in names}
    candidates = [_candidate(name, engine, problem, references[name]) for name in names]

    def follow(drawn: Drawn) -> None:
        for reference in references.values():
            reference.follow(drawn)

    return Case(candidates, problem.draw, TOLERANCES[problem.dtype.name], follow)


def _candidate(name: str, engine: ao.EngineName, problem: Problem, reference: Reference) -> Candidate:
    form = FORMS[name]
    optimizer, params = form.make(engine=engine), form.params(problem.start())
    if engine == "jax":
        params = _on_jax(params)
    optimizer.compile(params)

    def turn(grads: dict[str, Any]) -> None:
        optimizer.update(params, grads)
        if engine == "jax":
            import jax

            jax.block_until_ready(params)

    def take(drawn: Drawn) -> dict[str, Any]:
        grads = form.grads(drawn.fresh())
        return _on_jax(grads) if engine == "jax" else grads

    return Candidate(name, turn, lambda: reference.deviation({k: np.asarray(params[k]) for k in SHAPES}, {}), take)


def _on_jax(arrays: dict[str, Any]) -> dict[str, Any]:
    """The same as JAX arrays: what is one array is one there, too."""
    import jax.numpy as jnp

    made = {id(a): None if a is None else jnp.asarray(a) for a in arrays.values()}
    return {k: made[id(a)] for k, a in arrays.items()}
