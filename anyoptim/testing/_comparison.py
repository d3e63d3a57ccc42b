"""The gradient of one parameter beside slopes of the loss, and what explains the difference where it is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from anyoptim.testing._report import ElementCheck, ParameterCheck, explained
from anyoptim.testing._slopes import Slope, slope

if TYPE_CHECKING:
    from anyoptim.testing._check_grad import Check

__all__ = ["Comparison", "Vector"]

Vector = np.ndarray[Any, np.dtype[np.float64]]

ENOUGH = 0.45
"""A slope known no better than to this part of the gradient's size confirms nothing: twice of it would pass."""

_COARSE = "the loss is too coarse to see its slope: wanted float64, or parameters farther from a minimum"
_ELSEWHERE = "the loss does not change when it is moved: does the function look at these arrays?"
_STILL = "the loss does not change when it is moved: it is too coarse, or the function looks at other arrays"
_TINY = "the gradient is so small that the rounding of the loss hides it: it is right if it is meant to be 0"
_KINK = "the loss has a kink here, and the gradient is between the slopes on both sides"
_KINKS = (
    "the loss has kinks here, at which no gradient can be told from a wrong one: move the parameters a little, or "
    "check in float64"
)


class Comparison:
    """The gradient of one parameter beside slopes of the loss."""

    def __init__(self, of: Check, i: int, path: str, size: float) -> None:
        self.of, self.i, self.path, self.size = of, i, path, size
        self.g, self.x, self.rtol = of.grads[i], of.xs[i], of.rtol[i]
        p = of.probe.parameter(i)
        self.shape = tuple(p.array.shape)
        self.width = 2 if p.dtype.startswith("complex") else 1
        """How many reals an element has."""
        self.unit = 2.0 ** -min(of.bits[i], of.loss_bits)
        self.norm = float(np.linalg.norm(self.g))
        self.rounding = 30 * self.unit * of.largest
        """What rounding may leave of a gradient that is 0."""
        self.least = self.rounding / self.rtol if self.norm * size <= self.rounding else 0.0
        """The least size in which differences are judged."""
        self.rivals = dict(self._rivals())
        self.moves = False
        """Whether the loss was ever another one than at the parameters."""
        self.foretold = 0.0
        """By how much it should have changed at most, as the gradient says."""
        self.seen: list[tuple[Slope, dict[str, float]]] = []
        self.at: dict[int, Slope] = {}
        self.closer = 1.0
        """The size of the slopes in units of the gradient's, as far as it is known."""
        self.reference = self.g
        """What is nearest to the right gradient, so that little is left of the rounding of a step."""

    def _rivals(self) -> Iterator[tuple[str, Vector]]:
        """What the right gradient may be, if this one is wrong."""
        if self.width == 2:
            yield "the conjugate of it", self._conjugate(self.g)
            yield "i times it", np.roll(self._conjugate(self.g).reshape(-1, 2), 1, axis=1).reshape(-1)
        if len(self.shape) == 2 and self.shape[0] == self.shape[1] > 1:
            square = self.g.reshape(*self.shape, self.width)
            transpose = square.transpose(1, 0, 2).reshape(-1)
            yield "the transpose of it", transpose
            if self.width == 2:
                yield "the conjugate transpose of it", self._conjugate(transpose)

    @staticmethod
    def _conjugate(g: Vector) -> Vector:
        conjugate: Vector = g * np.resize([1.0, -1.0], g.size)
        return conjugate

    def check(self) -> ParameterCheck:
        """All of it."""
        if not np.isfinite(self.g).all():
            bad = np.flatnonzero(~np.isfinite(self.g))
            where = list(self._index(bad[0]))
            reason = f"{len(bad)} of {self.g.size} elements are not finite, the first at {where}"
            return ParameterCheck(self.path, "wrong", self.norm, math.inf, None, self._element(bad[0]), reason)
        for k in self._chosen():
            self._along(np.array([k]), None)
        if self.g.size > self.of.elements:
            for _ in range(self.of.directions):
                self._along(np.arange(self.g.size), self._signs())
        if self._still():
            worst = self._element(int(np.abs(self.g).argmax()))
            return ParameterCheck(self.path, "wrong", self.norm, 1.0, None, worst, _ELSEWHERE)
        return self._wrong(self.norm) if any(s.differs for s, _ in self.seen) else self._not_wrong()

    def _still(self) -> bool:
        """Whether the loss never changed, though the gradient foretold what would have been seen."""
        last_digit = 2.0**-self.of.loss_bits * abs(self.of.start)
        rounding = 30 * 2.0 ** -self.of.bits[self.i] * self.of.largest
        return not self.moves and self.foretold > max(4 * last_digit, rounding)

    def _not_wrong(self) -> ParameterCheck:
        """What is said where no slope differs: that it is right, or that this can't be told."""
        # Single elements of many may move a loss by less than its last digit; all together have to be seen.
        few = self.g.size <= self.of.elements
        whole = [s for s, _ in (self.seen if few else self.seen[-self.of.directions :])]
        if not any(self._confirms(s) for s in whole):
            worst = min(s.error / s.scale if s.scale else math.inf for s in whole)
            return self._unclear(_COARSE, worst)
        if any(s.rough for s, _ in self.seen):
            return self._unclear(_KINKS)
        size = self.rtol * self.of.largest  # below which a parameter has no part in what the loss does
        error = max(abs(s.measured - s.predicted) / (max(s.scale, size) or 1.0) for s, _ in self.seen)
        if any(s.kink for s, _ in self.seen):
            return ParameterCheck(self.path, "kink", self.norm, error, 1.0, None, _KINK)
        return ParameterCheck(self.path, "right", self.norm, error, 1.0, None, "")

    def _confirms(self, s: Slope) -> bool:
        """Whether a slope that does not differ says anything: a gradient of half the size would differ."""
        negligible = self.rtol * self.of.largest
        size = max(s.scale, abs(s.measured))
        return s.kink or s.tolerance <= max(ENOUGH * size, negligible if size <= negligible else 0.0)

    def _unclear(self, reason: str, error: float = math.inf) -> ParameterCheck:
        """That nothing can be told, and why."""
        if not self.moves:
            reason = _STILL
        elif self.norm * self.size <= 8 * 2.0**-self.of.loss_bits * abs(self.of.start):
            reason = _TINY
        return ParameterCheck(self.path, "unclear", self.norm, error, None, None, reason)

    def _wrong(self, norm: float) -> ParameterCheck:
        """What is wrong, and where."""
        differing = [s for s, _ in self.seen if s.differs]
        if 2 * sum(s.edge for s in differing) > len(differing):
            return self._unclear(_KINKS)
        # Once more, as closely as slopes of this size can be seen: the gradient's size may be wrong, too.
        size = math.hypot(*(s.predicted for s in differing))
        if size:
            self.closer = min(1.0, math.hypot(*(s.measured for s in differing)) / size)
            self.reference = self.g * (sum(s.measured * s.predicted for s in differing) / size**2)
        self.seen = []
        for _ in range(5 if self.g.size > 1 else 0):
            self._along(np.arange(self.g.size), self._signs())
        for k in [k for k, s in self.at.items() if s.differs]:
            self._along(np.array([k]), None)
        again = [s for s, _ in self.seen if s.differs]
        if len(again) < (2 if all(s.rough for s in again) else 1):  # of many, one may differ by chance between kinks
            return self._unclear(_KINKS)
        name, factor = self._explanation()
        elements = [k for k, s in self.at.items() if s.differs]
        k = max(elements, key=self._gap) if elements else self._found()
        worst = self._element(k)
        error = max(abs(s.measured - s.predicted) / (s.scale or abs(s.measured)) for s in differing)
        # A small part of what elements usually have, everywhere that was looked at.
        usual = max(abs(worst.gradient), norm / math.sqrt(self.g.size / self.width))
        slight = max(error, abs(worst.gradient - worst.slope) / usual if usual else math.inf)
        place = "" if not self.shape else f" at {list(worst.at)}"
        example = f"{place}: gradient {worst.gradient:.6g}, slope {worst.slope:.6g}"
        return ParameterCheck(
            self.path, "wrong", norm, error, factor, worst, f"{explained(name, factor, self.rtol, slight)};{example}"
        )

    def _chosen(self) -> list[int]:
        """The elements to look at: all reals of each."""
        n = self.g.size // self.width
        if n <= max(self.of.elements, 1):
            chosen = list(range(n))
        else:
            size = np.abs(self.g).reshape(n, self.width).max(axis=1)
            first = [int(size.argmax()), int(size.argmin()), n - 1, 0]
            more = self.of.rng.choice(n, min(n, self.of.elements), replace=False).tolist()
            chosen = list(dict.fromkeys([*first, *more]))[: self.of.elements]
        return [k * self.width + j for k in chosen for j in range(self.width)]

    def _signs(self) -> Vector:
        return self.of.rng.choice([-1.0, 1.0], self.g.size)

    def _along(self, where: np.ndarray[Any, Any], signs: Vector | None) -> Slope:
        """The slope along these elements with these signs; noted for what explains it."""
        of, x, g = self.of, self.x, self.g
        d = np.zeros_like(x)
        d[where] = self.size if signs is None else self.size * signs[where]

        def line(h: float) -> tuple[float, float, float] | None:
            moved = of.probe.place(self.i, x + h * d) - x
            f = of.probe.loss() if moved.any() and np.isfinite(moved).all() else math.nan
            length = float(moved @ d) / float(d @ d)
            if not math.isfinite(f) or not length:
                return None
            self.moves |= f != of.start
            self.foretold = max(self.foretold, abs(float(moved @ g)))
            return f, float(moved @ self.reference), length

        if len(where) == 1:
            scale = max(abs(float(g[where[0]])), float(np.sqrt(np.mean(g * g)))) * self.size
        else:
            scale = float(np.linalg.norm(g[where])) * self.size
        scale = max(scale * self.closer, self.least)
        unit = 2.0**-of.loss_bits
        found = slope(line, of.start, float(d @ self.reference), scale, of.noise, unit, self.rtol, self.rounding)
        found = found._replace(predicted=float(d @ g))
        if signs is None:
            self.at[int(where[0])] = found
        self.seen.append((found, {name: float(d @ rival) for name, rival in self.rivals.items()}))
        return found

    def _explanation(self) -> tuple[str, float | None]:
        """What times which factor is the slope everywhere: the factor of the gradient itself, if any is."""
        m = np.array([s.measured for s, _ in self.seen])
        allowed = np.array([s.tolerance for s, _ in self.seen])
        own = np.array([s.predicted for s, _ in self.seen])
        if not own.any():
            return ("zero", None) if m.any() else ("", None)
        if (np.abs(m) <= allowed).all():
            return "flat", None
        factor = float(m @ own / (own @ own))
        if factor and (np.abs(m - factor * own) <= 2 * allowed).all():
            return "", 1 / factor
        for name in self.rivals:
            other = np.array([rivals[name] for _, rivals in self.seen])
            for sign in (1.0, -1.0):
                if (np.abs(m - sign * other) <= 2 * allowed).all():
                    return name if sign > 0 else f"minus {name}", None
        return "", None

    def _found(self) -> int:
        """An element at which the gradient is wrong: of halves always that which differs more."""
        where, signs = np.arange(self.g.size), self._signs()
        whole = self._along(where, signs)
        gap = whole.measured - whole.predicted
        while len(where) > 1:
            half = where[: len(where) // 2]
            part = self._along(half, signs)
            first = part.measured - part.predicted
            where, gap = (half, first) if abs(first) >= abs(gap - first) else (where[len(half) :], gap - first)
        return int(where[0])

    def _gap(self, k: int) -> float:
        return abs(self.at[k].measured - self.at[k].predicted)

    def _index(self, k: int) -> tuple[int, ...]:
        return tuple(int(n) for n in np.unravel_index(int(k) // self.width, self.shape)) if self.shape else ()

    def _element(self, k: int) -> ElementCheck:
        """The gradient and the slope at the element that has real number k."""
        k = int(k) - int(k) % self.width
        parts = range(k, k + self.width)
        slopes = [math.nan] * self.width
        if np.isfinite(self.g).all():
            slopes = [
                (self.at[j] if j in self.at else self._along(np.array([j]), None)).measured / self.size for j in parts
            ]
        if self.width == 2:
            return ElementCheck(self._index(k), complex(self.g[k], self.g[k + 1]), complex(*slopes))
        return ElementCheck(self._index(k), float(self.g[k]), slopes[0])
