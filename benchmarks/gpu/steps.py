"""Steps and Dropout on a device, by anyoptim and others, beside a copy of as many bytes; and their cost to the host."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import anyoptim as ao
from benchmarks import optax_peer, torch_peers
from benchmarks.gpu.rigs import BLOCK, Rig, present
from benchmarks.gpu.runs import Rows
from benchmarks.harness import Arrays, Candidate, Case, Contest, measure, play
from benchmarks.methods import CHAIN, CHAINS, DECAY, MAX_NORM, METHODS
from benchmarks.names import FUSED, OPTAX
from benchmarks.own import averages
from benchmarks.problem import PARAMETERS, Drawn, Problem, Shapes
from benchmarks.reference import Reference
from benchmarks.updates import TOLERANCES

__all__ = ["COPY", "DIRECTIONS", "DROPOUT", "FIVE", "MASKS", "MODEL", "OURS", "SIZES", "host", "masks", "steps"]

FIVE, COPY, DROPOUT = "five lines, CuPy", "copy", "torch's dropout"
OURS: Mapping[str, str] = {"cupy": "anyoptim, CuPy", "torch-cuda": "anyoptim, torch"}
"""By library."""


class Tiled(Problem):
    """One long array of equal rows: what is drawn, sent and compared is one of them."""

    def __init__(self, rows: int) -> None:
        super().__init__({"w": (BLOCK,)})
        self.row, self.rows = Problem({"w": (BLOCK,)}), rows
        self.size = rows * BLOCK

    def start(self) -> Arrays:
        return self._tiled(self.row.start())

    def draw(self, rng: np.random.Generator) -> Drawn:
        drawn = self.row.draw(rng)
        return Drawn(self._tiled(drawn.arrays), drawn.norm * self.rows**0.5)

    def sample(self, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
        return self.row.sample({k: a.reshape(-1, BLOCK)[-1] for k, a in arrays.items()})

    def _tiled(self, arrays: Arrays) -> Arrays:
        return {k: np.broadcast_to(a, (self.rows, BLOCK)) for k, a in arrays.items()}


SIZES: Mapping[str, Callable[[], Problem]] = {
    **{name: partial(Problem, PARAMETERS[name]) for name in ("GPT-2", "ResNet-50", "1000 arrays of 1000")},
    **{f"one array of {n}M": partial(Tiled, n) for n in (16, 64, 256, 1024)},
}
SMALL = Problem({"W": (3, 4), "b": (4,), "long": (5000,)})
"""What each candidate has to do first, by itself: one that can't is left out."""
MODEL = "ResNet-50"
"""The list with 161 parameters."""
TIMED, MASKS, DIRECTIONS = ("Adam", CHAIN), (16, 64, 256), ("forward", "backward")
SECONDS = 5.0
"""For each case."""

Build = Callable[[], Candidate]
Make = Callable[[Sequence[str]], Case]


def together(elements: int) -> int:
    """How many steps a turn has, so that the host is ahead of the device in all but the first."""
    return min(8, max(1, (1 << 29) // elements))


def candidate(
    name: str, rig: Rig, step: Callable[[Any], object], off: Callable[[], float], take: Callable[[Any], Any]
) -> Candidate:
    """Of the harness: a turn is some steps one after another, until the device has done them."""

    def turn(given: Sequence[Any]) -> None:
        for one in given:
            step(one)
        rig.wait()

    def taken(drawn: Sequence[Any]) -> list[Any]:
        found = [take(one) for one in drawn]
        rig.wait()
        return found

    return Candidate(name, turn, off, taken)


def traffic(method: str, problem: Problem) -> int:
    """The bytes that a step must move: the gradient, and once more for a norm; p and the slots, there and back."""
    words = 1 + METHODS[method].measured + 2 * (1 + METHODS[method].slots)
    return words * problem.size * problem.dtype.itemsize


def copying(rigs: Mapping[str, Rig], n: int) -> Candidate:
    """The limit: half of about so many bytes read, and written elsewhere."""
    rig = next(iter(rigs.values()))
    block: Any = rig.array(np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32))
    source, target = (rig.rows(a, max(n // (8 * BLOCK), 1)) for a in (block, block - block))

    def off() -> float:
        """How many of the last elements did not arrive."""
        return float(np.sum(rig.numpy(source[-1]) != rig.numpy(target[-1])))

    return candidate(COPY, rig, lambda _: rig.assign(target, source), off, lambda _: None)


def _steps(method: str, rigs: Mapping[str, Rig], problem: Problem, who: Sequence[str]) -> Case:
    """The candidates of these names for steps of a method."""
    reference, n, chained = Reference(method, problem), together(problem.size), method in CHAINS

    def step_of(name: str, rig: Rig, params: Any, step: Callable[[Any], object], mean: Callable[[], Any]) -> Candidate:
        def off() -> float:
            return reference.deviation(*({k: rig.numpy(a) for k, a in of.items()} for of in (params, mean())))

        return candidate(name, rig, step, off, lambda drawn: rig.arrays(drawn.arrays))

    def ours(library: str) -> Candidate:
        rig, optimizer = rigs[library], METHODS[method].ours()
        params = rig.parameters(problem.start())
        mean = partial(averages, method, optimizer)
        return step_of(OURS[library], rig, params, partial(optimizer.update, params), mean)

    def fused() -> Candidate:
        """torch's optimizer; in the chain after torch's clipping, and before averaging by its foreach function."""
        rig = rigs["torch-cuda"]
        torch, params = rig.xp, rig.parameters(problem.start())
        tensors, average = list(params.values()), {k: p.detach().clone() for k, p in params.items()} if chained else {}
        optimizer = torch_peers.optimizer(method, tensors, fused=True)

        def step(grads: Mapping[str, Any]) -> None:
            for p, g in zip(tensors, grads.values(), strict=True):
                p.grad = g
            if chained:
                torch.nn.utils.clip_grad_norm_(tensors, MAX_NORM, foreach=True)
            optimizer.step()
            if chained:
                torch._foreach_lerp_(list(average.values()), [p.detach() for p in tensors], 1 - DECAY)

        return step_of(FUSED, rig, params, step, lambda: average)

    def five() -> Candidate:
        """NumPy's functions hand CuPy's arrays on to CuPy."""
        params = rigs["cupy"].parameters(problem.start())
        return step_of(FIVE, rigs["cupy"], params, partial(METHODS[method].by_hand().update, params), dict)

    def optax() -> Candidate:
        """As on the CPU: each step until it is done."""
        import jax

        if jax.default_backend() != "gpu":
            raise RuntimeError("JAX sees no GPU")
        made = optax_peer.candidate(OPTAX, method, problem, reference)
        return candidate(OPTAX, Rig(), made.turn, made.deviation, made.take)

    build: dict[str, Build] = {name: partial(ours, library) for library, name in OURS.items()}
    build |= {FUSED: fused, FIVE: five, OPTAX: optax, COPY: partial(copying, rigs, traffic(method, problem))}

    def follow(drawn: Sequence[Drawn]) -> None:
        for one in drawn:
            reference.follow(one)

    def draw(rng: np.random.Generator) -> list[Drawn]:
        return [problem.draw(rng) for _ in range(n)]

    return Case([build[name]() for name in who], draw, TOLERANCES["float32"], follow, settle=0)


def _masks(direction: str, rigs: Mapping[str, Rig], n: int, who: Sequence[str]) -> Case:
    """The candidates of these names for Dropout, of half of the elements, forward or backward."""
    forward, rows = direction == "forward", max(n // BLOCK, 1)
    block = 1 + np.random.default_rng(0).random(BLOCK, dtype=np.float32)  # away from 0

    def ours(library: str) -> Candidate:
        rig, layer = rigs[library], ao.Dropout(0.5, inverted=True, seed=7)
        start, last = rig.rows(rig.array(block), rows), list[Any]()
        layer.forward(start)

        def step(x: Any) -> None:
            last[:] = x, (layer.forward if forward else layer.backward)(x)

        def off() -> float:
            """How many elements of the first and last rows are not what NumPy makes of them."""
            wrong, call = 0, layer.calls - 1
            for i in (0, rows - 1):
                x, y = (rig.numpy(a[i]) for a in last)
                wrong += int(np.count_nonzero(y != ao.dropout(x, 0.5, 7, call, i * BLOCK, inverted=True)))
            return float(wrong)

        return candidate(OURS[library], rig, step, off, lambda _: rig.copy(start))

    def theirs() -> Candidate:
        rig = rigs["torch-cuda"]
        torch, start, last = rig.xp, rig.rows(rig.array(block), rows), list[Any]()

        def take(_: object) -> Any:
            x = rig.copy(start).requires_grad_()
            return (x,) if forward else (x, torch.nn.functional.dropout(x, 0.5, True), rig.copy(start))

        def step(given: Any) -> None:
            x, *more = given
            y = torch.nn.functional.dropout(x, 0.5, True) if forward else torch.autograd.grad(more[0], x, more[1])[0]
            last[:] = (x if forward else more[1]), y

        def off() -> float:
            """How many are neither 0 nor scaled; all, where another share than about half is kept."""
            x, y = (rig.numpy(a[-1]) for a in last)
            return float(np.sum((y != 0) & (y != 2 * x))) if abs(np.mean(y != 0) - 0.5) < 0.02 else float(BLOCK)

        return candidate(DROPOUT, rig, step, off, take)

    build: dict[str, Build] = {name: partial(ours, library) for library, name in OURS.items()}
    build |= {DROPOUT: theirs, COPY: partial(copying, rigs, 8 * n)}
    return Case([build[name]() for name in who], lambda _: [None] * together(n), tolerance=0, settle=0)


def contest(
    name: str, rigs: Mapping[str, Rig], who: Sequence[str], small: Make, whole: Make, n: int, seconds: float = SECONDS
) -> dict[str, Any]:
    """Those who did the work on small arrays by themselves, timed at all of it; and the reasons of the others."""
    left_out = {}
    for one in who:
        try:
            case = small([one])
            play(case, 2, np.random.default_rng(0))
            off = case.candidates[0].deviation()
            if not off <= case.tolerance:
                left_out[one] = f"off the reference by {off:.3g}"
        except Exception as error:
            left_out[one] = f"{type(error).__name__}: {error}"

    def build(seated: Sequence[str]) -> Case:
        gc.collect()
        for rig in rigs.values():
            rig.free()
        return whole(seated)

    able = Contest([one for one in who if one not in left_out], build, together=n <= 1 << 27)
    return {**asdict(measure(name, able, COPY, seconds)), "steps": together(n), "left_out": left_out}


def steps() -> Rows:
    """A row for each method and size: the chain on models alone, optax where what it copies from the host is short."""
    rigs = present()
    for size, make in SIZES.items():
        for method in TIMED[: 1 if "one array" in size else 2]:
            problem, name = make(), f"{method}, {size}"
            peers = [FUSED, *([] if method in CHAINS else [FIVE]), *([OPTAX] if problem.size < 1 << 28 else [])]
            small, whole = (partial(_steps, method, rigs, of) for of in (SMALL, problem))
            yield name, partial(contest, name, rigs, [*OURS.values(), *peers, COPY], small, whole, problem.size)


def masks() -> Rows:
    """A row for each direction and size of Dropout."""
    rigs = present()
    for millions in MASKS:
        for direction in DIRECTIONS:
            name, n = f"{direction}, {millions}M", millions * BLOCK
            small, whole = (partial(_masks, direction, rigs, of) for of in (BLOCK, n))
            yield name, partial(contest, name, rigs, [*OURS.values(), DROPOUT, COPY], small, whole, n)


def host() -> Rows:
    """A row for Adam and the chain, two lists of shapes and each library."""
    for library, rig in present().items():
        for method in TIMED:
            for size in (MODEL, "1000 arrays of 1000"):
                yield f"{method}, {size}: {OURS[library]}", partial(costs, method, PARAMETERS[size], rig)


def costs(method: str, shapes: Shapes, rig: Rig, calls: int = 140) -> dict[str, Any]:
    """Quartiles of the microseconds that a call takes, with new gradients each time, and which engines it is for.

    One call after another without ever waiting for the device, and then with waiting before each call.
    """
    optimizer, start = METHODS[method].ours(), {k: np.ones(shape, np.float32) for k, shape in shapes.items()}
    params, ones = rig.parameters(start), rig.arrays(start)
    found: dict[str, Any] = {}
    for state, before in {"behind": lambda: None, "idle": rig.wait}.items():
        times = []
        gc.collect()
        gc.disable()
        for _ in range(calls):
            grads = {k: rig.copy(g) for k, g in ones.items()}
            before()
            began = time.perf_counter_ns()
            optimizer.update(params, grads)
            times.append((time.perf_counter_ns() - began) / 1e3)
        gc.enable()
        rig.wait()
        found[state] = np.percentile(times[calls // 7 :], (25, 50, 75)).tolist()
    found["engines"] = {share.engine: len(share.parameters) for share in optimizer.explain(params, grads)}
    return found
