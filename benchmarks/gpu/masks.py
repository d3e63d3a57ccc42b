"""Dropout on a device, forward and backward: by anyoptim, by torch, and the time of a copy."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

import anyoptim as ao
from benchmarks.gpu.rigs import BLOCK, Copy, Rig, present
from benchmarks.gpu.steps import COPY, OURS
from benchmarks.gpu.watch import candidate, measured, rehearsed
from benchmarks.harness import Candidate, Case

__all__ = ["DIRECTIONS", "SIZES", "TORCH", "contest", "masks", "unable"]

SIZES = {"16M": 16 << 20, "64M": 64 << 20, "256M": 256 << 20}
SMALL = 300_000
RATIO, SEED = 0.5, 7
CHECKED = 100_000
"""Elements at either end that are compared with NumPy's."""
SECONDS = 4.0
DIRECTIONS = ("forward", "backward")
TORCH = "torch.nn.functional.dropout"


class _Turns:
    """Random input, away from 0, and the last input and output."""

    def __init__(self, rig: Rig, n: int) -> None:
        self.rig = rig
        block = rig.array(1 + np.random.default_rng(0).random(BLOCK, dtype=np.float32))
        self.input = rig.empty(n)
        for i in range(0, n, BLOCK):
            part = self.input[i : i + BLOCK]
            rig.assign(part, block[: len(part)])
        self.last: tuple[Any, Any] = (self.input, self.input)

    def take(self, _: object) -> Any:
        """New input."""
        return self.rig.copy(self.input)

    def ends(self) -> list[tuple[int, Any, Any]]:
        """Where the ends of the last input and output begin, and these, as NumPy's."""
        n = len(self.input)
        size = min(n, CHECKED)
        x, y = self.last
        return [(i, self.rig.numpy(x[i : i + size]), self.rig.numpy(y[i : i + size])) for i in (0, n - size)]


class _Ours(_Turns):
    """anyoptim's layer, scaled in training as torch's."""

    def __init__(self, rig: Rig, n: int) -> None:
        super().__init__(rig, n)
        self.layer = ao.Dropout(RATIO, inverted=True, seed=SEED)
        self.layer.forward(self.input)

    def forward(self, x: Any) -> None:
        self.last = x, self.layer.forward(x)

    def backward(self, dout: Any) -> None:
        self.last = dout, self.layer.backward(dout)

    def off(self) -> float:
        """How many elements are not what NumPy makes of the last input."""
        call = self.layer.calls - 1
        return float(
            sum(np.sum(y != ao.dropout(x, RATIO, SEED, call, offset, inverted=True)) for offset, x, y in self.ends())
        )


class _Theirs(_Turns):
    """torch's function, and its gradient."""

    def __init__(self, rig: Rig, n: int) -> None:
        super().__init__(rig, n)
        import torch

        self.torch = torch

    def taken(self, _: object) -> tuple[Any, Any, Any]:
        """New input, what became of it, and the gradient of that."""
        x = self.rig.copy(self.input).requires_grad_()
        return x, self.torch.nn.functional.dropout(x, RATIO, True), self.rig.copy(self.input)

    def forward(self, x: Any) -> None:
        self.last = x, self.torch.nn.functional.dropout(x.requires_grad_(), RATIO, True)

    def backward(self, given: tuple[Any, Any, Any]) -> None:
        x, y, dout = given
        self.last = dout, self.torch.autograd.grad(y, x, dout)[0]

    def off(self) -> float:
        """How many elements are neither 0 nor scaled; all, where another share than about half is kept."""
        found = self.ends()
        kept = np.mean([np.mean(y != 0) for _, _, y in found])
        wrong = sum(np.sum((y != 0) & (y != x / np.float32(1 - RATIO))) for _, x, y in found)
        return float(wrong) if abs(kept - (1 - RATIO)) < 0.02 else float(len(self.input))


def _ours(library: str, rigs: Mapping[str, Rig], direction: str, n: int) -> Candidate:
    turns = _Ours(rigs[library], n)
    return candidate(OURS[library], turns.rig, getattr(turns, direction), turns.off, turns.take)


def _theirs(rigs: Mapping[str, Rig], direction: str, n: int) -> Candidate:
    turns = _Theirs(rigs["torch-cuda"], n)
    take = turns.take if direction == "forward" else turns.taken
    return candidate(TORCH, turns.rig, getattr(turns, direction), turns.off, take)


def _copying(rigs: Mapping[str, Rig], _: str, n: int) -> Candidate:
    rig = next(iter(rigs.values()))
    copy = Copy(rig, 4 * n)
    return candidate(COPY, rig, lambda _: copy(), copy.wrong)


BUILDERS: Mapping[str, Callable[[Mapping[str, Rig], str, int], Candidate]] = {
    **{name: partial(_ours, library) for library, name in OURS.items()},
    TORCH: _theirs,
    COPY: _copying,
}


def case(rigs: Mapping[str, Rig], direction: str, n: int, names: Sequence[str]) -> Case:
    """The candidates of these names."""
    return Case([BUILDERS[name](rigs, direction, n) for name in names], lambda _: None, tolerance=0, settle=0)


def unable(rigs: Mapping[str, Rig], direction: str) -> dict[str, str]:
    """Of each candidate what went wrong when it did the work by itself on a small array: nothing, mostly."""
    return rehearsed(BUILDERS, lambda name: case(rigs, direction, SMALL, [name]))


def contest(
    rigs: Mapping[str, Rig], direction: str, n: int, wrong: Mapping[str, str], seconds: float = SECONDS
) -> dict[str, Any]:
    """The candidates with which nothing was wrong, timed in turns, and the reasons of the others."""
    played = case(rigs, direction, n, [name for name, why in wrong.items() if not why])
    try:
        timings = measured(played, seconds)
    finally:
        del played
        gc.collect()
        for rig in rigs.values():
            rig.free()
    left_out = {name: why for name, why in wrong.items() if why}
    return {"elements": n, "bytes": 8 * n, "tolerance": 0, "candidates": dict(timings), "left_out": left_out}


def masks() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """A row for each direction and size."""
    rigs = present()
    wrong = {direction: unable(rigs, direction) for direction in DIRECTIONS}
    for size, n in SIZES.items():
        for direction in DIRECTIONS:
            yield f"{direction}, {size}", partial(contest, rigs, direction, n, wrong[direction])
