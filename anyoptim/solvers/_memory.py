"""What L-BFGS remembers: inner products of the last steps and changes of the gradient, and directions made of these."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from anyoptim._arrays import Array
from anyoptim.solvers._solver import Run
from anyoptim.solvers._vectors import Kernel, Vector

__all__ = ["Memory", "combine", "pairs"]


class Memory:
    """What is known of the inner products among the last steps s, the changes y of the gradient, and the gradient g."""

    def __init__(self, numbers: MutableMapping[str, Any]) -> None:
        self._numbers = numbers
        self.sg: Any = numbers["sg"]
        self.yg: Any = numbers["yg"]
        self.sy: Any = numbers["sy"]
        self.yy: Any = numbers["yy"]
        """Of sy only those of each s with the y that are not older are known."""

    @staticmethod
    def empty(size: int) -> dict[str, Any]:
        """The numbers of a memory of so many pairs, before there is any."""
        return {
            "order": [],
            **{name: np.zeros(size) for name in ("sg", "yg")},
            **{name: np.zeros((size, size)) for name in ("sy", "yy")},
        }

    @classmethod
    def check(cls, numbers: Mapping[str, Any], size: int) -> None:
        """Raise ValueError where what was saved is of no memory of this size."""
        for name, empty in cls.empty(size).items():
            given = numbers.get(name, empty)
            if np.shape(given) != np.shape(empty) and name != "order":
                raise ValueError(f"state['numbers'][{name!r}] has shape {np.shape(given)}; wanted {np.shape(empty)}")
        order = numbers.get("order", [])
        if sorted({*order}) != sorted(order) or not {*order} <= {*range(size)}:
            raise ValueError(f"state['numbers']['order'] is {order!r}; wanted different places below {size}")

    @property
    def order(self) -> list[int]:
        """The places of the pairs, from the oldest to the newest; of n pairs they are the first n."""
        return self._numbers["order"]  # type: ignore[no-any-return]

    def next(self) -> int:
        """The place of the next pair: a free one, or that of the oldest."""
        return len(self.order) if len(self.order) < len(self.sg) else self.order[0]

    def add(self, k: int) -> None:
        """Note that the newest pair is at this place."""
        self._numbers["order"] = [j for j in self.order if j != k] + [k]

    def forget(self) -> None:
        """Forget all pairs."""
        self._numbers["order"] = []

    def put(self, sg: Sequence[float], yg: Sequence[float], sy: float = math.nan, yy: float = math.nan) -> None:
        """Note the products of a new gradient with all s and all y, and of the newest pair, if it is new, its own.

        Those of the others with its y follow: y is the difference of two gradients.
        """
        before = self.sg.copy(), self.yg.copy()
        self.sg[: len(sg)], self.yg[: len(yg)] = sg, yg
        if sy == sy:
            k = self.order[-1]
            self.sy[:, k] = self.sg - before[0]
            self.yy[:, k] = self.yy[k] = self.yg - before[1]
            self.sy[k, k], self.yy[k, k] = sy, yy

    def know(self, found: list[float], pairs: Sequence[tuple[int, int]], within: Sequence[float]) -> None:
        """Note the products of the gradient with all s and all y, and of some s and of some y with some y."""
        n = len(self.order)
        self.sg[self.order], self.yg[self.order] = found[:n], found[n:]
        for (i, j), sy, yy in zip(pairs, within, within[len(pairs) :], strict=False):
            self.sy[i, j], self.yy[i, j], self.yy[j, i] = sy, yy, yy

    @property
    def asked(self) -> list[int]:
        """The places of pairs of which products are asked for: all that are taken, and some more, but few more.

        Else programs of more and more products would be compiled.
        """
        return [*range(min(len(self.sg), math.ceil((len(self.order) + 1) / _AT_ONCE) * _AT_ONCE))]

    def measure(self, run: Run, *, newest: bool) -> float:
        """Note the products of a new gradient, and of the newest pair, if it is new, whose |s| it returns."""
        g, space, m, n = run.vectors["g"], run.space, len(self.sg), len(self.order)
        # Where there is none, the one that makes this the program of the other iterations.
        newest_pair = tuple(run.vectors[f"{of}{self.order[-1] if n else m - 1}"] for of in "sy")
        within = [(newest_pair[a], newest_pair[b]) for a, b in ((0, 1), (1, 1), (0, 0))]
        if m > _AT_ONCE:  # where each other order of the pairs would be a plan of hundreds of arrays
            places = self.asked
            largest, squared, *found = space.measured(
                (g, g), *((run.vectors[f"{of}{k}"], g) for of in "sy" for k in places)
            )
            sy, yy, ss = space.products(*within) if newest else [math.nan] * 3
        else:
            places = [k for k in range(m) if k not in self.order] + self.order
            both = [(run.vectors[f"{of}{k}"], g) for of in "sy" for k in places]
            largest, squared, sy, yy, ss, *found = space.measured((g, g), *within, *both)
        by_place = sorted(zip(places, found[: len(places)], found[len(places) :], strict=True))
        self.put([sg for _, sg, _ in by_place], [yg for *_, yg in by_place], *((sy, yy) if newest else ()))
        run.numbers |= {"gradient_squared": squared, "gradient_max": largest}
        return math.sqrt(ss) if newest else math.nan

    @property
    def curved(self) -> list[int]:
        """The places of the pairs along which there is curvature."""
        return [i for i in self.order if self.sy[i, i] > sys.float_info.epsilon * self.yy[i, i]]

    def scale(self, order: Sequence[int]) -> float:
        """`s*y / y*y` of the last of some pairs; 1 where there is none, or y is 0."""
        k = order[-1] if order else None
        return 1.0 if k is None or not self.yy[k, k] else float(self.sy[k, k] / self.yy[k, k])

    def direction(
        self, gg: float, order: Sequence[int] | None = None, gamma: float | None = None
    ) -> tuple[float, list[float], float]:
        """The coefficients of g and of all y and s in the direction, and its slope: the recursion of two loops.

        It goes over the pairs of an order, those along which there is curvature unless it is given. In between stands
        gamma, their `scale` unless it is given.
        """
        order = self.curved if order is None else order
        gamma = self.scale(order) if gamma is None else gamma
        a = self.shares(order)
        of_s = self.steps(order, a, gamma * (self.yg - self.yy @ a))
        of_y = -gamma * a
        slope = -(gamma * gg + of_y @ self.yg + of_s @ self.sg)
        return -gamma, [*(-of_y).tolist(), *(-of_s).tolist()], float(slope)

    def shares(self, order: Sequence[int]) -> Any:
        """The a of the first loop, which takes a*y from g for each pair."""
        a = np.zeros(len(self.sg))
        for i in reversed(order):
            a[i] = (self.sg[i] - self.sy[i].dot(a)) / self.sy[i, i]
        return a

    def steps(self, order: Sequence[int], a: Any, yz: Any) -> Any:
        """How much of each s the second loop adds to z, which begins it, from the products of all y with z."""
        of_s = np.zeros(len(self.sg))
        for i in order:
            of_s[i] = a[i] - (yz[i] + of_s.dot(self.sy[:, i])) / self.sy[i, i]
        return of_s


@functools.cache
def pairs(m: int) -> Sequence[str]:
    """The names of the vectors of all pairs, in the order in which they are added to a direction."""
    return [f"{of}{k}" for of in "ys" for k in range(m)]  # y cancels g, as in the two loops, before s is added


def combine(run: Run, memory: Memory, g: Vector, d: Vector, of_g: float, of_pairs: Sequence[float]) -> None:
    """`d <- of_g*g + of_pairs[0]*y0 + ...`: a few vectors at a time, for a kernel of many takes long to compile."""
    m = len(memory.sg)
    vectors = [run.vectors[name] for name in pairs(m)]
    n = math.ceil(2 * m / math.ceil(m / _AT_ONCE))
    for first in range(0, 2 * m, n):
        some, numbers = vectors[first : first + n], of_pairs[first : first + n]
        if first and not any(numbers):
            continue
        kernel, own = (_further(len(some)), {}) if first else (_direction(len(some)), {"g": of_g})
        run.space.run(kernel, g, [d, *some], **own, **dict(zip(_names(len(some)), numbers, strict=True)))


_AT_ONCE = 16


def _added(d: Array, vectors: Sequence[Array], c: Any) -> tuple[Array, ...]:
    for k, vector in enumerate(vectors):
        d = d + getattr(c, f"v{k}") * vector
    return d, *vectors


def _combined(xp: Any, g: Array, d: Array, *vectors_and_c: Any) -> tuple[Array, ...]:
    """`d <- c.g*g + c.v0*v0 + c.v1*v1 + ...`."""
    *vectors, c = vectors_and_c
    return _added(c.g * g, vectors, c)


def _continued(xp: Any, g: Array, d: Array, *vectors_and_c: Any) -> tuple[Array, ...]:
    """`d <- d + c.v0*v0 + c.v1*v1 + ...`."""
    *vectors, c = vectors_and_c
    return _added(d, vectors, c)


@functools.cache
def _names(n: int) -> Sequence[str]:
    return [f"v{k}" for k in range(n)]


@functools.cache
def _direction(n: int) -> Kernel:
    return Kernel(_combined, ("d", *_names(n)))


@functools.cache
def _further(n: int) -> Kernel:
    return Kernel(_continued, ("d", *_names(n)))
