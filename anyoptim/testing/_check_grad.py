"""A gradient beside finite differences of its loss: which parameter is wrong, at which element, by what factor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from anyoptim._trace._scalars import whole_number
from anyoptim.testing._probe import Probe, reals
from anyoptim.testing._report import ElementCheck, GradReport, ParameterCheck
from anyoptim.testing._slopes import Slope, noise_of, significant_bits, slope

__all__ = ["assert_grad", "check_grad"]

TOLERANCE = {8: 1e-1, 11: 2e-2, 24: 2e-3, 53: 1e-5}
"""By what part of its size a right gradient may differ, for arithmetic of so many bits.

They are those of JAX's `check_grads`, but for float16, in which losses, too, are rounded here. They are wider than the
rounding of a backward pass, and narrower than the mistakes that people make.
"""

BITS = {"bfloat16": 8, "float16": 11, "float32": 24, "complex64": 24, "float64": 53, "complex128": 53}

ENOUGH = 0.45
"""A slope known no better than to this part of the gradient's size confirms nothing: twice of it would pass."""

Vector = np.ndarray[Any, np.dtype[np.float64]]


def check_grad(
    value_and_grad: Callable[[Any], Any],
    params: Any,
    *,
    directions: int = 2,
    elements: int = 4,
    rtol: float | None = None,
    seed: int = 0,
) -> GradReport:
    """Compare a gradient with finite differences of its loss, for each parameter.

    >>> report = ao.check_grad(lambda w: ((w**2).sum(), -2 * w), np.array([1.0, 3.0]))
    >>> report.ok
    False
    >>> report[0].reason
    'it is minus the slope: the sign is wrong; at [1]: gradient -6, slope 6'

    Of each parameter the slope is measured along random directions, all signs at once, and at some elements: those of
    the largest and the smallest gradient, the first, the last, and random ones. Where it differs, more directions tell
    whether a factor, a sign, a conjugate or a transpose explains it, and halving finds an element that is wrong.

    Slopes are central differences at steps h, h/4, h/16, ... (h begins at an eighth of the parameter's root mean
    square), each pair extrapolated by Richardson's rule. They end where the gradient is
    confirmed, or where the rounding of the loss, which is measured first, would be too large. `float16` and `bfloat16`
    do: differences are taken with what rounding left of the displacement.

    The loss is called with `params` itself, whose arrays are written to where they are writable, as by `update`, and
    replaced where not, so that a function that looks at its own network and not at its argument works as well. In the
    end, and after an exception, everything is as it was. A gradient of None is not checked.

    Args:
        value_and_grad: a function of the parameters that gives the loss, a real number, and its gradients, in a
            container like `params`; the gradient of a complex parameter is dL/dRe + i*dL/dIm. With the same parameters
            it has to give the same loss: fix seeds, and the masks of Dropout.
        params: a container as for `update`, at a place that is typical: no minimum, and no kink, such as zeros with
            `relu` are.
        directions: how many random ones for each parameter, at least 1.
        elements: how many for each parameter, at least 0. A parameter that has no more is checked at each.
        rtol: by what part of its size a right gradient may differ, beside what can't be seen; None takes 1e-5 in
            float64, 2e-3 in float32, 2e-2 in float16 and 1e-1 in bfloat16, whichever of parameter, gradient and loss
            has the fewest digits.
        seed: of the random directions.

    Returns:
        The report. It takes four evaluations for each direction and element that is right at once.

    Raises ValueError for a loss that is not finite, or another one at each call, and like `update` for gradients that
    do not fit.

    Source: Nocedal and Wright, Numerical Optimization, section 8.1; the noise by More and Wild, 2011.
    """
    whole_number("directions", directions, 1)
    whole_number("elements", elements, 0)
    return _Check(value_and_grad, params, directions, elements, rtol, np.random.default_rng(seed)).report()


def assert_grad(value_and_grad: Callable[[Any], Any], params: Any, **options: Any) -> None:
    """Raise AssertionError, with the report, unless `check_grad` finds every gradient right.

    >>> ao.testing.assert_grad(lambda w: ((w**2).sum(), 2 * w), np.array([1.0, 3.0]))
    >>> ao.testing.assert_grad(lambda w: ((w**2).sum(), w), np.array([1.0, 3.0]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    AssertionError: the gradient is not that of the loss:...
    """
    report = check_grad(value_and_grad, params, **options)
    if not report.ok:
        raise AssertionError(f"the gradient is not that of the loss:\n{report}")


class _Check:
    """One check of all parameters."""

    def __init__(
        self,
        value_and_grad: Callable[[Any], Any],
        params: Any,
        directions: int,
        elements: int,
        rtol: float | None,
        rng: np.random.Generator,
    ) -> None:
        self.probe = Probe(value_and_grad, params)
        self.directions, self.elements, self.rng = directions, elements, rng
        self.start, grads = self.probe.start()
        if not math.isfinite(self.start):
            raise ValueError(f"the loss is {self.start}; wanted a finite one at these parameters")
        self.grads = {i: reals(self.probe.parameter(i), g) for i, g in enumerate(grads) if g is not None}
        if not self.grads:
            raise ValueError("no parameter has a gradient; wanted one to check")
        self.xs = {i: self.probe.elements(i) for i in self.grads}
        self.sizes = {i: self._size(x, self.grads[i]) for i, x in self.xs.items()}
        self.moving = [i for i, g in self.grads.items() if g.size and np.isfinite(g).all()]
        self.bits = {
            i: min(BITS[p.dtype], BITS[p.library.dtype(grads[i])])
            for i, p in ((i, self.probe.parameter(i)) for i in self.grads)
        }
        values = self._noisy()
        self.noise, self.loss_bits = noise_of(values), significant_bits(values)
        self.rtol = {i: rtol or TOLERANCE[min(self.loss_bits, bits)] for i, bits in self.bits.items()}
        self.largest = max((self.sizes[i] * float(np.linalg.norm(self.grads[i])) for i in self.moving), default=0.0)

    def report(self) -> GradReport:
        """The checks of all leaves."""
        probe = self.probe
        found = []
        for i in range(len(probe.ps)):
            path = probe.tree.path(i)
            if i not in self.grads or not self.grads[i].size:
                found.append(ParameterCheck(path, "none", 0.0, 0.0, None, None, "no gradient"))
                continue
            try:
                found.append(_Leaf(self, i, path).check())
            finally:
                probe.restore(i)
        return GradReport(found, probe.evaluations)

    def _size(self, x: Vector, g: Vector) -> float:
        """By how much to move an element at most, as far as that can be told: the size of those that are there.

        Of zeros it is what would change the loss by an eighth of itself, if it were a straight line.
        """
        size = math.sqrt(float(np.mean(x * x))) if x.size else 1.0
        slope = float(np.linalg.norm(g))
        change = abs(self.start) / 8 / slope if slope else 0.0
        return size or (change if 0 < change < math.inf else 1.0)

    def _exact_step(self, i: int) -> Vector:
        """A tiny step for each element, of which its dtype holds the first multiples, so that noise is the loss's."""
        x, digits = self.xs[i], round(2 / 3 * self.bits[i])
        power = 2.0 ** np.floor(np.log2(np.abs(np.where(x == 0, 1, x))))
        step = np.where(x == 0, self.sizes[i] / 3, power) * 2.0**-digits
        signed: Vector = step * self.rng.choice([-1.0, 1.0], x.size)
        return signed

    def _noisy(self) -> list[float]:
        """The loss at places so near to each other that what differs is noise.

        Raises ValueError for a loss that is another one at each call.
        """
        again = self.probe.loss()
        if abs(again - self.start) > 1e-3 * max(abs(again), abs(self.start)):
            raise ValueError(
                f"the loss is {self.start:.6g} and then {again:.6g} at the same parameters; wanted a function of the "
                "parameters alone: fix the seed, or the mask of Dropout"
            )
        steps = {i: self._exact_step(i) for i in self.moving}
        values = [self.start]
        try:
            for k in range(1, 7):
                for i in self.moving:
                    self.probe.place(i, self.xs[i] + k * steps[i])
                values.append(self.probe.loss())
        finally:
            for i in self.moving:
                self.probe.restore(i)
        finite = [v for v in values if math.isfinite(v)]
        # A loss that is another one each time by a little, as of sums in no fixed order, has that noise, too.
        return finite if len(finite) == len(values) else [self.start, again] * 3


class _Leaf:
    """The check of one parameter."""

    def __init__(self, of: _Check, i: int, path: str) -> None:
        self.of, self.i, self.path = of, i, path
        self.g, self.x, self.size, self.rtol = of.grads[i], of.xs[i], of.sizes[i], of.rtol[i]
        p = of.probe.parameter(i)
        self.shape = tuple(p.array.shape)
        self.width = 2 if p.dtype.startswith("complex") else 1
        """How many reals an element has."""
        self.unit = 2.0 ** -min(of.bits[i], of.loss_bits)
        self.rivals = dict(self._rivals())
        self.seen: list[tuple[Slope, dict[str, float]]] = []
        self.at: dict[int, Slope] = {}
        self.closer = 1.0

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
        norm = float(np.linalg.norm(self.g))
        if not np.isfinite(self.g).all():
            bad = np.flatnonzero(~np.isfinite(self.g))
            where = list(self._index(bad[0]))
            reason = f"{len(bad)} of {self.g.size} elements are not finite, the first at {where}"
            return ParameterCheck(self.path, "wrong", norm, math.inf, None, self._element(bad[0]), reason)
        for k in self._chosen():
            self._along(np.array([k]), None)
        if self.g.size > self.of.elements:
            for _ in range(self.of.directions):
                self._along(np.arange(self.g.size), self._signs())
        if any(s.differs for s, _ in self.seen):
            return self._wrong(norm)
        # Single elements of many may move a loss by less than its last digit; all together have to be seen.
        few = self.g.size <= self.of.elements
        whole = [s for s, _ in (self.seen if few else self.seen[-self.of.directions :])]
        if not any(self._confirms(s) for s in whole):
            worst = min(s.error / s.scale if s.scale else math.inf for s in whole)
            return ParameterCheck(self.path, "unclear", norm, worst, None, None, _COARSE)
        size = self.rtol * self.of.largest  # below which a parameter has no part in what the loss does
        error = max(abs(s.measured - s.predicted) / (max(s.scale, size) or 1.0) for s, _ in self.seen)
        if any(s.kink for s, _ in self.seen):
            return ParameterCheck(self.path, "kink", norm, error, 1.0, None, _KINK)
        return ParameterCheck(self.path, "right", norm, error, 1.0, None, "")

    def _confirms(self, s: Slope) -> bool:
        """Whether a slope that does not differ says anything: a gradient of half the size would differ."""
        negligible = self.rtol * self.of.largest
        size = max(s.scale, abs(s.measured))
        return s.kink or s.tolerance <= max(ENOUGH * size, negligible if size <= negligible else 0.0)

    def _wrong(self, norm: float) -> ParameterCheck:
        """What is wrong, and where."""
        differing = [s for s, _ in self.seen if s.differs]
        if 2 * sum(s.edge for s in differing) > len(differing):
            return ParameterCheck(self.path, "unclear", norm, math.inf, None, None, _KINKS)
        # Once more, as closely as slopes of this size can be seen: the gradient's size may be wrong, too.
        size = math.hypot(*(s.predicted for s in differing))
        self.closer = min(1.0, math.hypot(*(s.measured for s in differing)) / size) if size else 1.0
        self.seen = []
        for _ in range(5 if self.g.size > 1 else 0):
            self._along(np.arange(self.g.size), self._signs())
        for k in [k for k, s in self.at.items() if s.differs]:
            self._along(np.array([k]), None)
        name, factor = self._explanation()
        elements = [k for k, s in self.at.items() if s.differs]
        k = max(elements, key=self._gap) if elements else self._found()
        worst = self._element(k)
        error = max(abs(s.measured - s.predicted) / (s.scale or abs(s.measured)) for s in differing)
        place = "" if not self.shape else f" at {list(worst.at)}"
        example = f"{place}: gradient {worst.gradient:.6g}, slope {worst.slope:.6g}"
        return ParameterCheck(self.path, "wrong", norm, error, factor, worst, f"{self._words(name, factor)};{example}")

    def _chosen(self) -> list[int]:
        """The elements to look at: all reals of each."""
        n = self.g.size // self.width
        if n <= self.of.elements:
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
            return (f, float(moved @ g), length) if math.isfinite(f) and length else None

        if len(where) == 1:
            scale = max(abs(float(g[where[0]])), float(np.sqrt(np.mean(g * g)))) * self.size
        else:
            scale = float(np.linalg.norm(g[where])) * self.size
        scale *= self.closer
        unit = 2.0**-of.loss_bits
        rounding = 30 * self.unit * of.largest
        found = slope(line, of.start, float(d @ g), scale, of.noise, unit, self.rtol, rounding)
        if len(where) == 1:
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
        factor = float(m @ own / (own @ own))
        if factor and (np.abs(m - factor * own) <= 2 * allowed).all():
            return "", 1 / factor
        for name in self.rivals:
            other = np.array([rivals[name] for _, rivals in self.seen])
            for sign in (1.0, -1.0):
                if (np.abs(m - sign * other) <= 2 * allowed).all():
                    return name if sign > 0 else f"minus {name}", None
        return "", None

    def _words(self, name: str, factor: float | None) -> str:
        if name == "zero":
            return "it is 0, but the loss changes"
        if name:
            return f"the slope is {name}"
        if factor is None:
            return "no one factor explains it"
        size, sign = abs(factor), "minus " if factor < 0 else ""
        for whole, text in ((size, "{n}"), (1 / size, "1/{n}")):
            n = round(whole)
            if n and abs(whole - n) <= 3 * self.rtol * n:
                cause = _CAUSES.get((n, whole == size), "a 1/n is missing" if whole == size else "a 1/n too many")
                if n == 1:
                    return "it is minus the slope: the sign is wrong"
                return f"it is {sign}{text.format(n=n)} times the slope: {cause}"
        return f"it is {factor:.4g} times the slope"

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


_COARSE = "the loss is too coarse to see its slope: wanted float64, or parameters farther from a minimum"
_KINK = "the loss has a kink here, and the gradient is between the slopes on both sides"
_KINKS = "the loss has kinks here, at which no gradient can be told from a wrong one: move the parameters a little"
_CAUSES = {
    (2, True): "a factor 2, as that of a square, too many",
    (2, False): "a factor 2 is missing, as that of a square, or of dL/dconj(z)",
}
