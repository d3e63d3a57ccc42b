"""One step of each method on parameters of each shape list, by everybody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from benchmarks import limit, optax_peer, own, torch_peers
from benchmarks.harness import Candidate, Case, Contest
from benchmarks.machine import memory
from benchmarks.methods import CHAIN, DECAYED, METHODS, SCALED
from benchmarks.names import ANYOPTIM, BASELINE, BLOCKED, LIMIT, OPTAX, TORCH
from benchmarks.problem import MODELS, PARAMETERS, Problem, Shapes
from benchmarks.reference import Reference

__all__ = ["BUILDERS", "TOLERANCES", "case", "cases", "contest", "names"]

TOLERANCES = {"float32": 5e-5, "float64": 0}
"""Of parameters and averages after all turns, against the method by hand in float64. Rounding to float32 adds up over
hundreds of steps, and so does what is left of eps and of a norm in float32. A step is 0.001 to 0.01 long, so that a
part of one that is missing shows. In float64 the bits agree."""

SHARE = 1 / 3
"""Of the machine's memory, for all candidates at once. Where they would hold more, each sits alone."""

EVERY = ("ResNet-50", "GPT-2")
"""The models with every method. The others have Adam and the chain alone, because a run with all takes too long."""

WITH_MODELS = (DECAYED, SCALED)
"""What is timed on these models alone."""

Builder = Callable[[str, str, Problem, Reference], Candidate]

BUILDERS: Mapping[str, Builder] = {
    BASELINE: own.five_lines,
    **dict.fromkeys(TORCH, torch_peers.candidate),
    OPTAX: optax_peer.candidate,
    BLOCKED: partial(own.anyoptim, engine="blocked"),
    ANYOPTIM: own.anyoptim,
    LIMIT: limit.candidate,
}


def cases() -> dict[str, Contest]:
    """Every case by name, in float32 where that says nothing. A case and its arrays are made when it is called for."""
    found: dict[str, Contest] = {}
    for method in METHODS:
        for size, shapes in PARAMETERS.items():
            if size in EVERY or (method not in WITH_MODELS and (size not in MODELS or method in {"Adam", CHAIN})):
                found[f"{method}, {size}"] = contest(method, "float32", shapes)
    for size, shapes in PARAMETERS.items():
        if size not in MODELS:
            found[f"Adam float64, {size}"] = contest("Adam", "float64", shapes)
    return found


def names(dtype: str) -> list[str]:
    """The candidates that there are on this machine. The peers are timed in float32 alone."""
    left_out = {
        *(() if dtype == "float32" and torch_peers.installed() else TORCH),
        *(() if dtype == "float32" and optax_peer.installed() else [OPTAX]),
    }
    return [name for name in BUILDERS if name not in left_out]


def contest(method: str, dtype: str, shapes: Shapes) -> Contest:
    """One step of a method, by everybody."""
    problem, who = Problem(shapes, dtype), names(dtype)
    # Parameters, slots, a gradient, and one that is still held.
    arrays = len(who) * (METHODS[method].slots + 3)
    together = arrays * problem.size * problem.dtype.itemsize < SHARE * memory()
    return Contest(who, partial(case, method, problem), together)


def case(method: str, problem: Problem, who: Sequence[str]) -> Case:
    """The candidates of these names, and their reference."""
    reference = Reference(method, problem)
    candidates = [BUILDERS[name](name, method, problem, reference) for name in who]
    return Case(candidates, problem.draw, TOLERANCES[problem.dtype.name], reference.follow)
