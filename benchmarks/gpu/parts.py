"""The parts of a run: what each measures, how long it may take, and whether others may run beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.bits import bits
from benchmarks.gpu.graphs import graphs
from benchmarks.gpu.host import host
from benchmarks.gpu.masks import masks
from benchmarks.gpu.steps import steps
from benchmarks.gpu.streams import streams
from benchmarks.gpu.suite import host_tests, sanitizer, tests

__all__ = ["PARTS", "Part", "Row"]

Row = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """Rows of results, each made when it is called for."""

    title: str
    rows: Callable[[], Iterator[tuple[str, Row]]]
    seconds: float
    """After which it is ended."""
    beside_others: bool = False
    """Whether it measures no times and no memory, so that others like it may run meanwhile."""


PARTS: Mapping[str, Part] = {
    "bits": Part("a thousand steps of every method give NumPy's bits", bits, 150, beside_others=True),
    "tests": Part("the tests on CuPy's arrays and torch's CUDA tensors", tests, 215, beside_others=True),
    "host-tests": Part("the other tests about CUDA, which need no device", host_tests, 215, beside_others=True),
    "graphs": Part("updates that CUDA graphs replay", graphs, 80, beside_others=True),
    "sanitizer": Part("NVIDIA's compute-sanitizer finds nothing", sanitizer, 160, beside_others=True),
    "steps": Part("a step of Adam and of a chain, beside torch, CuPy and a copy", steps, 130),
    "host": Part("what a call costs the host", host, 45),
    "dropout": Part("Dropout, beside torch and a copy", masks, 60),
    "streams": Part("10,000 steps on two streams, and what memory grows by", streams, 60),
}
"""By name, in the order in which they run: first together those that may."""
