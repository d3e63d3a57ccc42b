"""A step on a device, by anyoptim, by torch, by hand in CuPy, and the time to copy as many bytes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import torch_peers
from benchmarks.gpu.rigs import Copy, Rig, present
from benchmarks.gpu.watch import candidate, measured, rehearsed
from benchmarks.harness import Arrays, Candidate, Case
from benchmarks.methods import CHAIN, CHAINS, DECAY, MAX_NORM, METHODS, NUMBERS
from benchmarks.names import TORCH
from benchmarks.own import averages
from benchmarks.problem import PARAMETERS, Drawn, Problem, Shapes
from benchmarks.reference import Reference
from benchmarks.updates import TOLERANCES

__all__ = [
    "COPY",
    "FIVE",
    "FOREACH",
    "FUSED",
    "OURS",
    "SIZES",
    "FiveLines",
    "Table",
    "case",
    "contest",
    "steps",
    "unable",
]

_, FOREACH, FUSED = TORCH
FIVE, COPY = "five lines, CuPy", "copy"
OURS: Mapping[str, str] = {"cupy": "anyoptim, CuPy", "torch-cuda": "anyoptim, torch"}
"""By library."""

SIZES = ("GPT-2", "ResNet-50", "1000 arrays of 1000", "one array of 16M")
TIMED = ("Adam", CHAIN)
SECONDS = 6.0
"""For each case."""

SMALL: Shapes = {"W": (3, 4), "b": (4,), "long": (5000,)}
"""What each candidate has to do first, by itself: one that can't is left out."""


class FiveLines:
    """Adam by hand, with the functions of any library that has NumPy's."""

    def __init__(self, xp: Any, lr: float, beta1: float, beta2: float, eps: float) -> None:
        self.xp, self.lr, self.beta1, self.beta2, self.eps = xp, lr, beta1, beta2, eps
        self.t = 0
        self.m: dict[str, Any] = {}
        self.v: dict[str, Any] = {}

    def update(self, params: dict[str, Any], grads: dict[str, Any]) -> None:
        if not self.m:
            self.m, self.v = ({k: self.xp.zeros_like(p) for k, p in params.items()} for _ in range(2))
        self.t += 1
        lr_t = self.lr * (1 - self.beta2**self.t) ** 0.5 / (1 - self.beta1**self.t)
        for k in params:
            self.m[k] += (1 - self.beta1) * (grads[k] - self.m[k])
            self.v[k] += (1 - self.beta2) * (grads[k] * grads[k] - self.v[k])
            params[k] -= lr_t * self.m[k] / (self.xp.sqrt(self.v[k]) + self.eps)


@dataclass
class Table:
    """A rig, with the gradients of a round copied there from pools that are there already."""

    rig: Rig
    pools: list[tuple[NDArray[Any], Any]] = field(default_factory=list)
    """The last two, here and there."""

    def fresh(self, drawn: Drawn) -> dict[str, Any]:
        """The gradients in new arrays."""
        return {k: self._copy(a) for k, a in drawn.arrays.items()}

    def _copy(self, view: NDArray[Any]) -> Any:
        pool = view.base
        assert isinstance(pool, np.ndarray)  # noqa: S101 - `Drawn.arrays` are views
        begin = (_address(view) - _address(pool)) // view.itemsize
        return self.rig.copy(self._there(pool)[begin : begin + view.size]).reshape(view.shape)

    def _there(self, pool: NDArray[Any]) -> Any:
        for here, there in self.pools:
            if here is pool:
                return there
        self.pools = [*self.pools[-1:], (pool, self.rig.array(pool))]
        return self.pools[-1][1]


def _address(a: NDArray[Any]) -> int:
    address: int = a.__array_interface__["data"][0]
    return address


def _numpy(rig: Rig, arrays: Mapping[str, Any]) -> Arrays:
    return {k: rig.numpy(a) for k, a in arrays.items()}


def _ours(library: str, tables: Mapping[str, Table], method: str, problem: Problem, reference: Reference) -> Candidate:
    """anyoptim."""
    table = tables[library]
    params, optimizer = table.rig.parameters(problem.start()), METHODS[method].ours()

    def off() -> float:
        return reference.deviation(*(_numpy(table.rig, of) for of in (params, averages(method, optimizer))))

    return candidate(OURS[library], table.rig, partial(optimizer.update, params), off, table.fresh)


def _torch(name: str, tables: Mapping[str, Table], method: str, problem: Problem, reference: Reference) -> Candidate:
    """torch's optimizer; in the chain after torch's clipping, and before averaging by its foreach function."""
    import torch

    table = tables["torch-cuda"]
    params = table.rig.parameters(problem.start())
    average = {k: p.detach().clone() for k, p in params.items()} if method in CHAINS else {}
    tensors, averages = list(params.values()), list(average.values())
    optimizer = torch_peers.optimizer(method, tensors, **torch_peers.IMPLEMENTATIONS[name])

    def take(drawn: Drawn) -> list[Any]:
        grads = list(table.fresh(drawn).values())
        for p, g in zip(tensors, grads, strict=True):
            p.grad = g
        return grads

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def chained(_: object) -> None:
        torch.nn.utils.clip_grad_norm_(tensors, MAX_NORM, foreach=True)
        optimizer.step()
        torch._foreach_lerp_(averages, tensors, 1 - DECAY)

    def off() -> float:
        return reference.deviation(*(_numpy(table.rig, of) for of in (params, average)))

    return candidate(name, table.rig, chained if method in CHAINS else lambda _: optimizer.step(), off, take)


def _five(tables: Mapping[str, Table], method: str, problem: Problem, reference: Reference) -> Candidate:
    """The five lines; there are none for the chain."""
    table = tables["cupy"]
    params, by_hand = table.rig.parameters(problem.start()), FiveLines(table.rig.xp, **NUMBERS[method])

    def off() -> float:
        return reference.deviation(_numpy(table.rig, params), {})

    return candidate(FIVE, table.rig, partial(by_hand.update, params), off, table.fresh)


def traffic(method: str, problem: Problem) -> int:
    """The bytes that a step must move: the gradient, and once more for a norm; p and the slots, there and back."""
    words = 1 + METHODS[method].measured + 2 * (1 + METHODS[method].slots)
    return words * problem.size * problem.dtype.itemsize


def _copying(tables: Mapping[str, Table], method: str, problem: Problem, _: Reference) -> Candidate:
    """The limit: half of the bytes read, and written elsewhere."""
    rig = next(iter(tables.values())).rig
    copy = Copy(rig, traffic(method, problem) // 2)
    return candidate(COPY, rig, lambda _: copy(), copy.wrong)


Builder = Callable[[Mapping[str, Table], str, Problem, Reference], Candidate]


def builders(method: str) -> dict[str, Builder]:
    """Who takes part, by name."""
    return {
        **{name: partial(_ours, library) for library, name in OURS.items()},
        **{name: partial(_torch, name) for name in (FUSED, FOREACH)},
        **({} if method in CHAINS else {FIVE: _five}),
        COPY: _copying,
    }


def case(method: str, problem: Problem, tables: Mapping[str, Table], names: Sequence[str]) -> Case:
    """The candidates of these names, and their reference."""
    reference, build = Reference(method, problem), builders(method)
    candidates = [build[name](tables, method, problem, reference) for name in names]
    return Case(candidates, problem.draw, TOLERANCES[problem.dtype.name], reference.follow, settle=0)


def unable(method: str, tables: Mapping[str, Table]) -> dict[str, str]:
    """Of each candidate what went wrong when it did the work by itself on small arrays: nothing, mostly."""
    return rehearsed(builders(method), lambda name: case(method, Problem(SMALL), tables, [name]))


def contest(
    method: str, problem: Problem, tables: Mapping[str, Table], wrong: Mapping[str, str], seconds: float = SECONDS
) -> dict[str, Any]:
    """The candidates with which nothing was wrong, timed in turns, and the reasons of the others."""
    played = case(method, problem, tables, [name for name, why in wrong.items() if not why])
    try:
        timings = measured(played, seconds)
    finally:
        del played
        gc.collect()
        for table in tables.values():
            table.rig.free()
    return {
        "arrays": len(problem.shapes),
        "elements": problem.size,
        "bytes": traffic(method, problem),
        "tolerance": TOLERANCES[problem.dtype.name],
        "candidates": dict(timings),
        "left_out": {name: why for name, why in wrong.items() if why},
    }


def steps() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """A row for each method and list of shapes."""
    tables = {name: Table(rig) for name, rig in present().items()}
    wrong = {method: unable(method, tables) for method in TIMED}
    for size in SIZES:
        problem = Problem(PARAMETERS[size])
        for method in TIMED:
            yield f"{method}, {size}", partial(contest, method, problem, tables, wrong[method])
