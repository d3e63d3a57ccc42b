"""The same gradients, step by step, for every library; and what has become of the parameters, to the last bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.rigs import Rig
from benchmarks.harness import Arrays
from benchmarks.problem import Shapes

__all__ = ["Gradients", "compared", "everything", "parameters", "trained"]

SLACK = 4096
"""From how many places in a pool a gradient may begin: from most of them it is not aligned."""
QUIET = 2.0**-12
"""How much smaller the gradients of every other pool are, so that a norm is now above its limit and now below."""
UNALIGNED = "unaligned"
"""The parameter that begins at the second element of its memory."""


class Gradients:
    """Gradients for some steps: views of a few pools, with zeros of both signs, subnormals and all magnitudes."""

    def __init__(self, shapes: Shapes, dtype: str, steps: int) -> None:
        rng = np.random.default_rng(0)
        self.shapes, self.dtype, self.steps = shapes, np.dtype(dtype), steps
        self.sizes = {k: math.prod(shape) for k, shape in shapes.items()}
        self.start = {k: np.asarray(rng.standard_normal(shape), self.dtype) for k, shape in shapes.items()}
        loud = _pool(rng, max(self.sizes.values()) + SLACK, self.dtype)
        strange = np.where(rng.random(len(loud)) < 0.03, rng.choice([np.inf, -np.inf, np.nan], len(loud)), loud)
        self.pools = [loud, loud * self.dtype.type(QUIET), strange.astype(dtype)]
        self.places = rng.integers(SLACK, size=(steps + 1, len(shapes)))
        self.which = [*rng.integers(2, size=steps).tolist(), 2]

    def on(self, rig: Rig) -> Callable[[int], dict[str, Any]]:
        """Of the number of a step, from 0, its gradients: copies, but views of the pool at every other step.

        One more step than there are has infinities and NaN.
        """
        pools = [rig.array(pool) for pool in self.pools]
        rig.wait()

        def at(step: int) -> dict[str, Any]:
            pool, given = pools[self.which[step]], {}
            for (k, shape), i in zip(self.shapes.items(), self.places[step].tolist(), strict=True):
                view = pool[i : i + self.sizes[k]].reshape(shape)
                given[k] = view if step % 2 else rig.copy(view)
            return given

        return at


def _pool(rng: np.random.Generator, n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Normal values, a tenth of them of any magnitude down to where squares are subnormal or vanish."""
    info, kind = np.finfo(dtype), rng.random(n)
    values = rng.standard_normal(n) * np.where(kind < 0.1, 2.0 ** rng.integers(info.minexp * 6 // 10, 4, n), 1)
    pool = values.astype(dtype)
    few, zero = kind > 0.99, (kind > 0.97) & (kind < 0.99)
    pool[few] = info.smallest_subnormal * rng.integers(-500, 500, int(few.sum())).astype(dtype)
    pool[zero] = np.copysign(dtype.type(0), pool[zero])
    return pool


def parameters(rig: Rig, start: Arrays) -> dict[str, Any]:
    """The parameters in new arrays; the unaligned one begins at the second element of its memory."""
    return {
        k: rig.array(np.concatenate([np.zeros(1, a.dtype), a]))[1:] if k == UNALIGNED else rig.array(a)
        for k, a in start.items()
    }


def trained(rig: Rig, optimizer: Any, gradients: Gradients, checks: Sequence[int]) -> Iterator[tuple[int, Arrays]]:
    """Take all steps; after those of these numbers, what has become of everything."""
    params, at = parameters(rig, gradients.start), gradients.on(rig)
    for step in range(max(checks)):
        optimizer.update(params, at(step))
        if step + 1 in checks:
            yield step + 1, everything(rig, params, optimizer)


def everything(rig: Rig, params: Mapping[str, Any], optimizer: Any) -> Arrays:
    """Parameters and slots, by names such as `p.W` and `m.W`, or `2.average.W` in a chain."""
    slots = optimizer.state.slots
    stages = enumerate(slots) if isinstance(slots, tuple) else [("", slots)]
    named = {f"{i}.{k}".lstrip("."): of for i, stage in stages for k, of in stage.items()}
    return {f"{slot}.{k}": rig.numpy(a) for slot, of in {"p": params, **named}.items() for k, a in of.items()}


def compared(ours: Arrays, wanted: Arrays) -> dict[str, Any]:
    """How many elements differ in their bits, NaN beside NaN apart, by how many ulp at most, and in which arrays.

    Between a number and a NaN the distance is infinite. Raises ValueError where names, shapes or dtypes differ.
    """
    kinds = [{k: (a.shape, a.dtype) for k, a in of.items()} for of in (ours, wanted)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"other arrays than wanted: {kinds[0]} for {kinds[1]}")
    each = {k: _distances(a.reshape(-1), wanted[k].reshape(-1)) for k, a in ours.items()}
    off = {k: distances for k, distances in each.items() if distances.size}
    ulp = max((float(np.max(distances)) for distances in off.values()), default=0.0)
    return {"equal": not off, "elements": sum(d.size for d in off.values()), "ulp": ulp, "where": list(off)}


def _distances(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Of the elements whose bits differ, in units of the last place: 0 between the two zeros."""
    integers = np.dtype(f"i{a.itemsize}")
    one_nan, x, y = np.isnan(a) | np.isnan(b), a.view(integers), b.view(integers)
    differ = (x != y) & ~(np.isnan(a) & np.isnan(b))
    # As integers that count the floats in order, in long double, which holds all of them.
    lowest = np.iinfo(integers).min
    places = [np.where(i < 0, lowest - i, i).astype(np.longdouble) for i in (x[differ], y[differ])]
    return np.where(one_nan[differ], np.inf, np.abs(places[0] - places[1]))
