"""What groups of parameters with hyperparameters of their own cost: a step with five of them beside one with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import anyoptim as ao
from benchmarks import torch_peers
from benchmarks.harness import Arrays, Candidate, Case, Contest, measure
from benchmarks.machine import memory
from benchmarks.methods import NUMBERS
from benchmarks.names import ANYOPTIM, FUSED
from benchmarks.problem import PARAMETERS, Drawn, Problem, Shapes
from benchmarks.reference import Reference
from benchmarks.report import Sheet
from benchmarks.updates import SHARE, TOLERANCES
from tests.reference import textbook

__all__ = ["GROUPS", "SIZES", "groups"]

MODEL = PARAMETERS["ResNet-50"]
SIZES: Mapping[str, Shapes] = {
    "ResNet-50": MODEL,
    "as many empty arrays": dict.fromkeys(MODEL, (0,)),
}
"""On empty arrays what is left of a step is what groups can cost."""

GROUPS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "1 group": ((0.001, 0.01),),
    "5 groups": ((0.001, 0.01), (0.0005, 0.02), (0.002, 0.0), (0.004, 0.005), (0.00025, 0.04)),
}
"""The learning rate and the decay of each. Parameters go to them in turn, so that neighbours are in different ones."""

ADAM = {name: value for name, value in NUMBERS["Adam"].items() if name != "lr"}

Numbers = Mapping[str, tuple[float, float]]
"""By parameter."""


class _ByHand:
    """The same for each group by itself, in NumPy."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self.methods = {of: textbook.Adam(lr=of[0], **ADAM) for of in dict.fromkeys(numbers.values())}

    def update(self, params: Arrays, grads: Arrays) -> None:
        for (lr, decay), method in self.methods.items():
            mine = {k: p for k, p in params.items() if self.numbers[k] == (lr, decay)}
            for p in mine.values():
                p *= 1 - lr * decay  # noqa: PLW2901 - in place
            method.update(mine, {k: grads[k] for k in mine})


def groups(seconds: float, sizes: Mapping[str, Shapes] = SIZES) -> Sheet:
    """The time of a step of AdamW in each of these groupings, by anyoptim and by torch's fused kernel."""
    rows: list[list[str | float]] = []
    one, *others = GROUPS
    for size, shapes in sizes.items():
        problem = Problem(shapes)
        names = [f"{who}, {grouping}" for who in _who() for grouping in GROUPS]
        # Parameters, two slots, a gradient, and one that is still held.
        together = len(names) * 5 * problem.size * problem.dtype.itemsize < SHARE * memory()
        # A case for each grouping, because each has results of its own.
        contest = Contest(names, partial(_case, problem), together)
        timings = measure(f"groups, {size}", contest, f"{ANYOPTIM}, {one}", seconds * 2).timings
        for who in _who():
            milliseconds = [timings[f"{who}, {grouping}"].median for grouping in GROUPS]
            rows.append([f"{size}, {who}", *milliseconds, *(ms / milliseconds[0] for ms in milliseconds[1:])])
    return Sheet(
        ["ms a step of AdamW", one, *others, *(f"{grouping} / {one}" for grouping in others)],
        rows,
        f"{len(MODEL)} parameters, which have their lr and decay from their group, in turn. Medians.",
    )


def _who() -> list[str]:
    return [ANYOPTIM, FUSED] if torch_peers.installed() else [ANYOPTIM]


def _case(problem: Problem, names: Sequence[str]) -> Case:
    numbers = {grouping: {k: of[i % len(of)] for i, k in enumerate(problem.shapes)} for grouping, of in GROUPS.items()}
    references = {grouping: Reference("Adam", problem, _ByHand(numbers[grouping])) for grouping in GROUPS}
    candidates = []
    for name in names:
        who, _, grouping = name.partition(", ")
        build = _ours if who == ANYOPTIM else _torch
        candidates.append(build(name, problem, numbers[grouping], references[grouping]))

    def follow(drawn: Drawn) -> None:
        for reference in references.values():
            reference.follow(drawn)

    return Case(candidates, problem.draw, TOLERANCES[problem.dtype.name], follow)


def _ours(name: str, problem: Problem, numbers: Numbers, reference: Reference) -> Candidate:
    params = problem.start()
    kinds = [*dict.fromkeys(numbers.values())]
    lr, decay = kinds[0]
    optimizer: ao.Optimizer = ao.AdamW(**{**NUMBERS["AdamW"], "lr": lr, "weight_decay": decay})
    if len(kinds) > 1:
        of = {_having(numbers, kind): {"lr": kind[0], "weight_decay": kind[1]} for kind in kinds}
        optimizer = ao.chain(optimizer, ao.groups(of))
    optimizer.compile(params)
    return Candidate(name, partial(optimizer.update, params), lambda: reference.deviation(params, {}), Drawn.fresh)


def _having(numbers: Numbers, kind: tuple[float, float]) -> Callable[[str, Any], bool]:
    return lambda path, _: numbers[path] == kind


def _torch(name: str, problem: Problem, numbers: Numbers, reference: Reference) -> Candidate:
    import torch

    params = {k: torch.nn.Parameter(torch.from_numpy(a)) for k, a in problem.start().items()}
    adam = torch.optim.AdamW(
        [
            {"params": [p for k, p in params.items() if numbers[k] == of], "lr": of[0], "weight_decay": of[1]}
            for of in dict.fromkeys(numbers.values())
        ],
        betas=(ADAM["beta1"], ADAM["beta2"]),
        eps=ADAM["eps"],
        fused=True,
    )

    def take(drawn: Drawn) -> list[Any]:
        grads = [torch.from_numpy(g) for g in drawn.fresh().values()]
        for p, g in zip(params.values(), grads, strict=True):
            p.grad = g
        return grads

    def off() -> float:
        return reference.deviation({k: p.detach().numpy() for k, p in params.items()}, {})

    return Candidate(name, lambda _: adam.step(), off, take, torch_peers.ways())
