"""Line searches written down a second time, from the papers, as functions that ask a function: in its own order."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["hager_zhang", "strong_wolfe"]

Phi = Callable[[float], tuple[float, float]]


class _Found(Exception):  # noqa: N818 - the end
    pass


class _Asked:
    """phi and its derivative, asked once at each point; raises _Found at one that is good, or where it is enough."""

    def __init__(self, phi: Phi, good: Callable[[float, float, float], bool], limit: int) -> None:
        self.points: list[float] = []
        self._known = {0.0: phi(0.0)}
        self._phi, self._good, self._limit = phi, good, limit

    def __call__(self, t: float) -> tuple[float, float]:
        if t not in self._known:
            self._known[t] = self._phi(t)
            self.points.append(t)
            if self._good(t, *self._known[t]) or len(self.points) == self._limit:
                raise _Found
        return self._known[t]


def hager_zhang(
    phi: Phi,
    c: float,
    limit: int,
    delta: float = 0.1,
    sigma: float = 0.9,
    epsilon: float = 1e-6,
    theta: float = 0.5,
    gamma: float = 0.66,
    rho: float = 5.0,
) -> list[float]:
    """The points that are asked for. Hager and Zhang 2005, section 4: T1, T2, U0 to U3, S1 to S4, L0 to L3, B0-B3."""
    f0, d0 = phi(0.0)
    top = f0 + epsilon * abs(f0)

    def good(t: float, f: float, d: float) -> bool:
        t1 = f - f0 <= delta * t * d0 and d >= sigma * d0
        t2 = (2 * delta - 1) * d0 >= d >= sigma * d0 and f <= top
        return t1 or t2

    ask = _Asked(phi, good, limit)

    def update(a: float, b: float, c: float) -> tuple[float, float]:
        if not a < c < b:
            return a, b
        f, d = ask(c)
        if d >= 0:
            return a, c
        return (c, b) if f <= top else u3(a, c)

    def u3(a: float, b: float) -> tuple[float, float]:
        while True:
            d = (1 - theta) * a + theta * b
            f, slope = ask(d)
            if slope >= 0:
                return a, d
            if f <= top:
                a = d
            else:
                b = d

    def secant(a: float, b: float) -> float:
        da, db = ask(a)[1], ask(b)[1]
        return (a * db - b * da) / (db - da) if db != da else math.nan

    def secant2(a: float, b: float) -> tuple[float, float]:
        c = secant(a, b)
        A, B = update(a, b, c)
        if c == B:
            return update(A, B, secant(b, B))
        if c == A:
            return update(A, B, secant(a, A))
        return A, B

    def bracket(c: float) -> tuple[float, float]:
        low = [0.0]
        while True:
            f, d = ask(c)
            if d >= 0:
                return low[-1], c
            if f > top:
                return u3(0.0, c)
            low.append(c)
            c = rho * c

    try:
        a, b = bracket(c)
        while True:
            a1, b1 = secant2(a, b)
            if b1 - a1 > gamma * (b - a):
                a1, b1 = update(a1, b1, (a1 + b1) / 2)
            if (a1, b1) == (a, b):
                raise _Found
            a, b = a1, b1
    except _Found:
        return ask.points


def strong_wolfe(phi: Phi, a1: float, limit: int, c1: float = 1e-4, c2: float = 0.9) -> list[float]:
    """The points that are asked for. Nocedal and Wright 2006, algorithms 3.5 and 3.6, cubic interpolation (3.59)."""
    f0, d0 = phi(0.0)

    def low_enough(a: float) -> bool:
        return ask(a)[0] <= f0 + c1 * a * d0

    ask = _Asked(phi, lambda a, f, d: f <= f0 + c1 * a * d0 and abs(d) <= -c2 * d0, limit)

    def cubic(a: float, b: float) -> float:
        (fa, da), (fb, db) = ask(a), ask(b)
        e1 = da + db - 3 * (fa - fb) / (a - b)
        square = e1 * e1 - da * db
        if square < 0:
            return math.nan
        e2 = math.copysign(math.sqrt(square), b - a)
        below = db - da + 2 * e2
        return b - (b - a) * (db + e2 - e1) / below if below else math.nan

    def zoom(low: float, high: float) -> None:
        widths = [math.inf, math.inf]
        while True:
            width = abs(high - low)
            share = (cubic(low, high) - low) / (high - low)
            if math.isnan(share) or width > 2 / 3 * widths[-2]:
                share = 1 / 2
            widths.append(width)
            a = low + sorted([1 / 10, share, 9 / 10])[1] * (high - low)
            f, d = ask(a)
            if not low_enough(a) or f >= ask(low)[0]:
                high = a
                continue
            if d * (high - low) >= 0:
                high = low
            low = a

    try:
        before, a = 0.0, a1
        while True:
            f, d = ask(a)
            if not low_enough(a) or (f >= ask(before)[0]):
                zoom(before, a)
            if d >= 0:
                zoom(a, before)
            wanted = cubic(before, a)
            least, most = a + (a - before), a + 9 * (a - before)
            before, a = a, min(max(wanted, least), most) if wanted > a else most
    except _Found:
        return ask.points
