"""The same gradients, step by step, for every library; and what has become of the parameters, to the last bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.rigs import Rig
from benchmarks.harness import Arrays
from benchmarks.problem import Shapes

__all__ = ["Difference", "Gradients", "compared", "difference", "everything", "parameters", "trained"]

SLACK = 4096
"""From how many places in a pool a gradient may begin: from most of them it is not aligned."""

QUIET = 2.0**-12
"""How much smaller the gradients of every other pool are, so that a norm is now above its limit and now below."""

UNALIGNED = "unaligned"
"""The parameter that begins at the second element of its memory."""


class Gradients:
    """Gradients for some steps: views of a few pools, with zeros of both signs, subnormals and all magnitudes."""

    def __init__(self, shapes: Shapes, dtype: str, steps: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.shapes, self.dtype, self.steps = shapes, np.dtype(dtype), steps
        self.sizes = {k: math.prod(shape) for k, shape in shapes.items()}
        self.start = {k: np.asarray(rng.standard_normal(shape), self.dtype) for k, shape in shapes.items()}
        loud = _pool(rng, max(self.sizes.values()) + SLACK, self.dtype)
        self.pools = [loud, loud * self.dtype.type(QUIET), _strange(rng, loud)]
        self.places = rng.integers(SLACK, size=(steps, len(shapes)))
        self.which = rng.integers(2, size=steps)

    def on(self, rig: Rig) -> Callable[[int], dict[str, Any]]:
        """Of the number of a step, from 0, its gradients: copies, but views of the pool at every other step.

        One more step than there are has infinities and NaN.
        """
        pools = [rig.array(pool) for pool in self.pools]
        rig.wait()

        def at(step: int) -> dict[str, Any]:
            last = step == self.steps
            pool, places = pools[2 if last else self.which[step]], self.places[0 if last else step]
            given = {}
            for (k, shape), i in zip(self.shapes.items(), places.tolist(), strict=True):
                view = pool[i : i + self.sizes[k]].reshape(shape)
                given[k] = view if step % 2 else rig.copy(view)
            return given

        return at


def _pool(rng: np.random.Generator, n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Normal values, a tenth of them of any magnitude down to where squares are subnormal or vanish."""
    info = np.finfo(dtype)
    values = rng.standard_normal(n)
    wide = rng.random(n) < 0.1
    values[wide] *= 2.0 ** rng.integers(info.minexp * 6 // 10, 4, int(wide.sum()))
    pool = values.astype(dtype)
    few = rng.random(n) < 0.01
    pool[few] = info.smallest_subnormal * rng.integers(-500, 500, int(few.sum())).astype(dtype)
    zero = rng.random(n) < 0.02
    pool[zero] = np.copysign(dtype.type(0), pool[zero])
    return pool


def _strange(rng: np.random.Generator, pool: NDArray[Any]) -> NDArray[Any]:
    """The same with an infinity or a NaN here and there."""
    strange = pool.copy()
    for value in (np.inf, -np.inf, np.nan):
        strange[rng.random(len(pool)) < 0.01] = value
    return strange


def parameters(rig: Rig, start: Arrays) -> dict[str, Any]:
    """The parameters in new arrays; the unaligned one begins at the second element of its memory."""
    return {
        k: rig.array(np.concatenate([np.zeros(1, a.dtype), a]))[1:] if k == UNALIGNED else rig.array(a)
        for k, a in start.items()
    }


def trained(
    rig: Rig, optimizer: Any, gradients: Gradients, checks: Sequence[int]
) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """Take all steps; after those of these numbers, what has become of everything."""
    params, at = parameters(rig, gradients.start), gradients.on(rig)
    for step in range(max(checks)):
        optimizer.update(params, at(step))
        if step + 1 in checks:
            yield step + 1, everything(rig, params, optimizer)


def everything(rig: Rig, params: Mapping[str, Any], optimizer: Any) -> dict[str, NDArray[Any]]:
    """Parameters and slots, by names such as `p.W` and `m.W`, or `2.average.W` in a chain."""
    slots = optimizer.state.slots
    stages = enumerate(slots) if isinstance(slots, tuple) else [("", slots)]
    named = {f"{i}.{k}".lstrip("."): of for i, stage in stages for k, of in stage.items()}
    return {f"{slot}.{k}": rig.numpy(a) for slot, of in {"p": params, **named}.items() for k, a in of.items()}


class Difference(NamedTuple):
    """How two sets of arrays differ."""

    elements: int
    """How many differ, NaN beside NaN apart."""
    ulp: float
    """The largest distance in units of the last place; infinite between a number and a NaN."""
    where: list[str]
    """In which arrays."""


def compared(ours: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]) -> Difference:
    """How arrays of equal names differ. Raises ValueError where these or shapes or dtypes do."""
    kinds = [{k: (a.shape, a.dtype) for k, a in of.items()} for of in (ours, wanted)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"other arrays than wanted: {kinds[0]} for {kinds[1]}")
    each = {k: difference(a, wanted[k]) for k, a in ours.items()}
    return Difference(
        sum(n for n, _ in each.values()),
        max((ulp for _, ulp in each.values()), default=0.0),
        [k for k, (n, _) in each.items() if n],
    )


def difference(a: NDArray[Any], b: NDArray[Any]) -> tuple[int, float]:
    """How many elements of two arrays of real floats differ in their bits, and by how many ulp at most."""
    integers = np.dtype(f"i{a.itemsize}")
    nans = np.isnan(a) & np.isnan(b)
    bits = [np.ascontiguousarray(x).reshape(-1).view(integers) for x in (a, b)]
    differ = (bits[0] != bits[1]) & ~nans.reshape(-1)
    if not differ.any():
        return 0, 0.0
    x, y = (of[differ] for of in bits)
    # As integers that count the floats in order: 0 for both zeros. In long double, which holds all of them.
    lowest = np.iinfo(integers).min
    places = [np.where(i < 0, lowest - i, i).astype(np.longdouble) for i in (x, y)]
    one_nan = np.isnan(a).reshape(-1)[differ] | np.isnan(b).reshape(-1)[differ]
    return int(differ.sum()), float(np.max(np.where(one_nan, np.inf, np.abs(places[0] - places[1]))))
