"""Optax's stages of whole arrays: Adafactor's second moment, Muon's direction, means and lengths of blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY
from itertools import count, takewhile
from typing import Annotated, Any, Final

import numpy as np

from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim._stage._stage import Stage, itself, parameter
from anyoptim._trace._hyperparameters import Domain, Fraction, Hyper, Nonnegative, Positive
from anyoptim._trace._reductions import Norm, Size
from anyoptim._trace._scalars import following, one_minus_power, power, ratio_up_to_one, where
from anyoptim.optimizers.matrices import at_least, summable, unit
from anyoptim.stages.layers import is_complex, real_only

__all__ = [
    "BlockRMS",
    "ClipBlockRMS",
    "CorrectedMean",
    "FactoredRMS",
    "Mean",
    "OptaxAdaptiveMuon",
    "OptaxAdaptiveNesterovMuon",
    "OptaxMuon",
    "OptaxNesterovMuon",
]

_Integer = Annotated[Hyper, Domain(lambda x: x == int(x), "a whole number")]
_length = Domain(lambda x: x >= 0, "at least 0")


class ClipBlockRMS(Stage):
    """Shorten the gradient of each parameter whose root mean square is more than `threshold`.

    ::

        x <- x * min(threshold / rms(x), 1)
    """

    threshold: Positive
    reductions = {"length": Norm(itself, "each"), "size": Size("each")}

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"scale": ratio_up_to_one(hyper.threshold * math.sqrt(hyper.size), hyper.length)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return x * c.scale


class BlockRMS(Stage):
    """Multiply by the root mean square of each parameter.

    ::

        x <- x * max(rms(p), floor)
    """

    floor: Nonnegative = 1e-3
    reductions = {"of_p": Norm(parameter, "each"), "size": Size("each")}

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        rms = hyper.of_p / math.sqrt(max(hyper.size, 1))
        return {"scale": where(rms > hyper.floor, rms, hyper.floor)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return x * c.scale


class Mean(Stage):
    """A running mean of what flows through.

    ::

        m <- decay*m + (1-decay)*x
        x <- m
    """

    decay: Fraction
    slots = ("m",)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"decay": hyper.decay, "new": 1 - hyper.decay, "up": 1.0}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, c: Any) -> tuple[Array, ...]:
        m = c.decay * m + c.new * x
        return c.up * m, m


class CorrectedMean(Mean):
    """A running mean that is corrected for its start at 0: `x <- m / (1 - decay**t)`."""

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"decay": hyper.decay, "new": 1 - hyper.decay, "up": 1 / one_minus_power(hyper.decay, t)}


class FactoredRMS(Optimizer):
    """Adafactor's division by a second moment, from one number for each row and column of the two longest axes.

    ::

        b = 1 - (t-offset)**-decay
        R <- b*R + (1-b) * mean over the longest axis of (g*g + eps)
        C <- b*C + (1-b) * mean over the next longest of (g*g + eps)
        x = g / sqrt(R*C / mean of R)

    Where the shorter of these axes is below `least`, or there is one at most, v <- b*v + (1-b)*(g*g + eps) and
    x = g / sqrt(v).
    """

    decay: Nonnegative
    offset: _Integer
    eps: Nonnegative
    _: KW_ONLY
    least: Final[Annotated[float, _length]]
    slots = ("row", "column", "v")
    array_rule = True
    refusal = real_only("adafactor")

    def slot_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Give a number to each row and each column, or to each element."""
        if len(shape) < 2 or sorted(shape)[-2] < self.least or 0 in shape:
            return (0,), (0,), shape
        d1, d0 = _longest(shape)
        return tuple(np.delete(shape, d0).tolist()), tuple(np.delete(shape, d1).tolist()), (0,)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        late = t - hyper.offset
        return {"new": power(where(late > 0, late, 1), -hyper.decay), "eps": hyper.eps}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, row: Array, column: Array, v: Array, c: Any) -> tuple[Array, ...]:
        x = summable(xp, x)
        squares = x * x + c.eps
        if tuple(v.shape) == tuple(x.shape):
            v = (1 - c.new) * v + c.new * squares
            return x / xp.sqrt(v), row, column, v
        d1, d0 = _longest(tuple(x.shape))
        row = (1 - c.new) * row + c.new * xp.mean(squares, axis=d0)
        column = (1 - c.new) * column + c.new * xp.mean(squares, axis=d1)
        of_row = xp.sqrt(row / xp.mean(row, axis=d1 - (d1 > d0), keepdims=True))
        of_column = xp.sqrt(column)
        root = xp.expand_dims(of_row, axis=d0) * xp.expand_dims(of_column, axis=d1)
        return x / at_least(xp, root, float(xp.finfo(p.dtype).smallest_normal)), row, column, v


def _longest(shape: tuple[int, ...]) -> tuple[int, int]:
    """The axes of the second longest and the longest side: of equal ones NumPy's order."""
    order = np.argsort(shape)
    return int(order[-2]), int(order[-1])


class OptaxMuon(Optimizer):
    """Muon with a corrected mean: the orthogonal direction, scaled by the shape of the matrix.

    ::

        m <- beta*m + (1-beta)*g
        u = m / (1 - beta**t)
        u <- u / (|u| + eps);  for each (a, b, c):  A = u u',  u <- a*u + (b*A + c*A*A) u
        x = u * sqrt(max(1, columns/rows)),    with rms: u * sqrt(max(rows, columns)) * rms
    """

    beta: Fraction
    eps: Nonnegative
    _: KW_ONLY
    ns: Final[Sequence[Sequence[float]]]
    rms: Final[float | None] = None
    slots = ("m",)
    array_rule = True

    def __post_init__(self) -> None:
        self._ns = [[float(a), float(b), float(c)] for a, b, c in self.ns]  # lists, as JSON has them

    def refusal(self, p: Array) -> str | None:
        """Refuse all parameters but real matrices."""
        if is_complex(p):
            return "is complex; muon wants real matrices"
        return None if p.ndim == 2 and 0 not in p.shape else f"has shape {tuple(p.shape)}; muon wants matrices"

    def coefficients(self, t: Any, hyper: Any) -> dict[str, Any]:
        """The coefficients of the mean, of the direction and of each polynomial."""
        mean = {"beta": hyper.beta, "new": 1 - hyper.beta, **self.lead(t, hyper.beta), "eps": hyper.eps}
        polynomials = {f"{name}{i}": c for i, abc in enumerate(self.ns) for name, c in zip("abc", abc, strict=True)}
        return {**mean, **polynomials, **({} if self.rms is None else {"rms": float(self.rms)})}

    @staticmethod
    def lead(t: Any, beta: Any) -> dict[str, Any]:
        """The share of m in the direction, and that of the gradient if it has one."""
        return {"of_m": 1 / one_minus_power(beta, t)}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, c: Any) -> tuple[Array, ...]:
        _, direction, m = _directions(xp, x, m, c)
        return direction * _shape_scale(tuple(p.shape), c), m


def _directions(xp: Any, x: Array, m: Array, c: Any) -> tuple[Array, Array, Array]:
    """The mean, perhaps with a look ahead; the orthogonal matrix that is nearest to it; and the new m."""
    m = c.beta * m + c.new * x
    mean = c.of_m * m + c.of_g * x if hasattr(c, "of_g") else c.of_m * m
    rows, columns = mean.shape
    u = unit(xp, xp.matrix_transpose(mean) if rows > columns else mean, c.eps)
    for i in takewhile(lambda i: hasattr(c, f"a{i}"), count()):
        of_u, of_square, of_fourth = (getattr(c, f"{name}{i}") for name in "abc")
        square = u @ xp.matrix_transpose(u)
        u = of_u * u + (of_square * square + of_fourth * (square @ square)) @ u
    return mean, xp.matrix_transpose(u) if rows > columns else u, m


def _shape_scale(shape: tuple[int, int], c: Any) -> float:
    rows, columns = shape
    return c.rms * math.sqrt(max(rows, columns)) if hasattr(c, "rms") else math.sqrt(max(1.0, columns / rows))


class OptaxNesterovMuon(OptaxMuon):
    """Muon that looks ahead: `u = beta*m/(1 - beta**(t+1)) + (1-beta)*g/(1 - beta**t)`."""

    @staticmethod
    def lead(t: Any, beta: Any) -> dict[str, Any]:
        return {"of_m": beta / one_minus_power(beta, following(t)), "of_g": (1 - beta) / one_minus_power(beta, t)}


class OptaxAdaptiveMuon(OptaxMuon):
    """Muon whose direction is multiplied by its product with the mean."""

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, c: Any) -> tuple[Array, ...]:
        mean, direction, m = _directions(xp, x, m, c)
        return xp.sum(mean * direction) * direction * _shape_scale(tuple(p.shape), c), m


class OptaxAdaptiveNesterovMuon(OptaxAdaptiveMuon):
    """Muon that looks ahead, and whose direction is multiplied by its product with the mean."""

    lead = staticmethod(OptaxNesterovMuon.lead)
