"""Whether a thousand steps on a device give NumPy's bits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from numpy.typing import NDArray

import anyoptim as ao
from benchmarks.gpu.gradients import Gradients, compared, parameters, trained
from benchmarks.gpu.rigs import Host, Rig, present
from benchmarks.problem import Shapes
from tests.libraries import METHODS

__all__ = ["CHAINED", "DTYPES", "SUBJECTS", "bits", "row", "rows"]

SHAPES: Shapes = {
    "scalar": (),
    "odd": (1003,),
    "unaligned": (4999,),
    "matrix": (37, 53),
    "none": (0, 3),
    "long": (70_001,),
}
DTYPES = ("float32", "float64")
STEPS = 1000
CHECKS = (1, 10, 100, STEPS, STEPS + 1)
"""After which steps everything is compared; before the last one there was no infinity and no NaN."""

CHAINED = "clip + Adam + EMA"
SUBJECTS: Mapping[str, Callable[[], Any]] = {
    **METHODS,
    CHAINED: lambda: ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(), ao.EMA(0.9)),
}

Snapshots = dict[int, dict[str, NDArray[Any]]]


def bits() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """A row for each method, dtype and library."""
    yield from rows(present())


def rows(
    rigs: Mapping[str, Rig], shapes: Shapes = SHAPES, checks: tuple[int, ...] = CHECKS
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """A row for each method and dtype on each of these."""
    for subject in SUBJECTS:
        for dtype in DTYPES:
            gradients = Gradients(shapes, dtype, checks[-1] - 1)
            # When it is first asked for, so that what it raises is of that row alone.
            expected = functools.cache(partial(_snapshots, Host(), subject, gradients, checks))
            for name, rig in rigs.items():
                yield f"{subject}, {dtype}, {name}", partial(row, rig, subject, gradients, checks, expected)


def _snapshots(rig: Rig, subject: str, gradients: Gradients, checks: tuple[int, ...]) -> Snapshots:
    return dict(trained(rig, SUBJECTS[subject](), gradients, checks))


def row(
    rig: Rig, subject: str, gradients: Gradients, checks: tuple[int, ...], expected: Callable[[], Snapshots]
) -> dict[str, Any]:
    """The first difference that was found, if there is one, and who ran the steps."""
    optimizer, wanted = SUBJECTS[subject](), expected()
    engines = {
        share.engine: list(share.parameters)
        for share in optimizer.explain(parameters(rig, gradients.start), gradients.on(rig)(0))
    }
    for step, found in trained(rig, optimizer, gradients, checks):
        off = compared(found, wanted[step])
        if off.elements:
            return {"equal": False, "after": step, **off._asdict(), "engines": engines}
    return {"equal": True, "after": checks[-1], "elements": 0, "ulp": 0.0, "where": [], "engines": engines}
