"""Methods that see a matrix as a whole."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from anyoptim._arrays import Array, library
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import KW_ONLY, Fraction, Nonnegative, Number, Positive, UnitInterval, Whole
from anyoptim._trace._scalars import power, where
from anyoptim.optimizers._terms import decayed, decoupled, mean, unless_zero
from anyoptim.stages.layers import is_complex, real_only

__all__ = ["Adafactor", "Muon", "Shampoo", "at_least", "summable", "unit"]


def _matrix(xp: Any, a: Array) -> Array:
    """`a` as a matrix: its first axis, and all others as one."""
    return xp.reshape(a, (a.shape[0], -1)) if 0 not in a.shape else a


def at_least(xp: Any, a: Array, least: Any) -> Array:
    """`a`, but no less than `least`, if there is one."""
    return a if least is None else xp.where(a < least, xp.zeros_like(a) + least, a)


def _bound(xp: Any, a: Array, limit: float) -> Array:
    """`a`, but no further from 0 than `limit`."""
    high = xp.full_like(a, limit)
    return xp.where(a > high, high, xp.where(a < -high, -high, a))


def summable(xp: Any, a: Array) -> Array:
    """`a`, with elements cut off at the largest number with which the sum of their squares can't overflow."""
    return _bound(xp, a, math.sqrt(float(xp.finfo(a.dtype).max) / (2 * math.prod(a.shape))))


def _scaled(xp: Any, a: Array) -> tuple[Array, Array]:
    """`a` divided by its largest magnitude, so that no square over- or underflows, and that magnitude."""
    largest = xp.max(xp.abs(a))
    largest = xp.where(largest > 0, largest, xp.ones_like(largest))
    return a / largest, largest


def _rms(xp: Any, a: Array) -> Array:
    """The root mean square of `a`."""
    a, largest = _scaled(xp, a)
    return xp.sqrt(xp.mean(a * a)) * largest


def unit(xp: Any, a: Array, eps: float, least: Any = None) -> Array:
    """`a / (|a| + eps)`, where |a| is the root of the sum of its squares, and at least `least`."""
    a, largest = _scaled(xp, a)
    norm = xp.sqrt(xp.sum(a * a))
    return a / (at_least(xp, norm, None if least is None else least / largest) + eps / largest)


def _no_matrix(name: str, p: Array) -> str | None:
    if is_complex(p):
        return f"is complex; {name} wants real matrices"
    if p.ndim < 2 or 0 in p.shape:
        return f"has shape {tuple(p.shape)}; {name} wants matrices, and ao.partition gives the rest to another method"
    return None


class Adafactor(Optimizer):
    """Adam's second moment of a matrix from one number for each row and each column, and steps that need no lr.

    ::

        b = 1 - t**-decay
        R <- b*R + (1-b) * mean over columns of (g*g + eps)
        C <- b*C + (1-b) * mean over rows of (g*g + eps)
        u = g / sqrt(R*C / mean of R)
        u <- u / max(1, rms(u) / clip)
        p <- p - max(floor, rms(p)) * min(lr, 1/sqrt(t)) * u - lr*weight_decay*p

    R and C are for the last two axes; vectors and numbers have a second moment of each element, v. rms is the root of
    the mean square of a parameter. There is no momentum. It works on whole arrays, by the array library's own functions
    (`portable`). Optax's `adafactor` is this with `min_dim_size_to_factor=1` and lr a schedule; torch's has an eps that
    is no summand but a lower bound: `Adafactor(eps=0.0, least=1e-7)`, with which the mean of R, and then the root by
    which g is divided, are at least that. Complex parameters are refused.

    Args:
        lr: the largest relative step.
        decay: how fast the mean forgets.
        eps: keeps the division finite.
        floor: the least rms of a parameter, so that zeros move.
        clip: the largest rms of u, infinite for none.
        least: the least divisor of g.
        weight_decay: decoupled, in units of lr.

    Source: Shazeer and Stern, Adafactor: adaptive learning rates with sublinear memory cost, 2018, algorithms 4 and 5.

    >>> w, optimizer = np.array([1.0, -2.0]), ao.Adafactor(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of w @ w
    >>> w.round(3)
    array([ 0.599, -1.582])
    """

    lr: Nonnegative = 0.01
    decay: Nonnegative = 0.8
    eps: Nonnegative = 1e-30
    floor: Nonnegative = 1e-3
    clip: Positive = 1.0
    _: KW_ONLY
    least: Nonnegative = 0.0
    weight_decay: Nonnegative = 0.0
    slots: ClassVar[tuple[str, ...]] = ("row", "column", "v")
    array_rule = True
    refusal = real_only("Adafactor")

    def slot_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Give a matrix a number for each row and each column, and others one for each element."""
        return ((0,), (0,), shape) if len(shape) < 2 else (shape[:-1], (*shape[:-2], shape[-1]), (0,))

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        slowed, kept = power(t, -0.5), {"eps": hyper.eps, "floor": hyper.floor, "clip": hyper.clip}
        return {
            **kept,
            "rate": where(slowed < hyper.lr, slowed, hyper.lr),
            "new": power(t, -hyper.decay),
            **unless_zero(least=hyper.least),
            **decoupled(hyper),
        }

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, row: Array, column: Array, v: Array, c: Any) -> tuple[Array, ...]:
        if 0 in p.shape:
            return x, row, column, v
        x, least = summable(xp, x), getattr(c, "least", None)
        squares = x * x + c.eps
        if x.ndim < 2:
            v = (1 - c.new) * v + c.new * squares
            root = xp.sqrt(v)
        else:
            row = (1 - c.new) * row + c.new * xp.mean(squares, axis=-1)
            column = (1 - c.new) * column + c.new * xp.mean(squares, axis=-2)
            of_row = xp.sqrt(row / at_least(xp, xp.mean(row, axis=-1, keepdims=True), least))
            root = xp.expand_dims(of_row, axis=-1) * xp.expand_dims(xp.sqrt(column), axis=-2)
        # Of a small gradient beside a huge one the root may underflow.
        root = at_least(xp, root, float(xp.finfo(p.dtype).smallest_normal))
        u = x / at_least(xp, root, least)
        excess = _rms(xp, u) / c.clip
        scale = _rms(xp, p)
        u = u / xp.where(excess > 1, excess, xp.ones_like(excess))
        step = c.rate * xp.where(scale > c.floor, scale, xp.full_like(scale, c.floor)) * u
        return decayed(p, step, c), row, column, v


class Muon(Optimizer):
    """Momentum whose step is made orthogonal: all its singular values about 1. For matrices.

    ::

        m <- momentum*m + (1-momentum)*g
        u = n*g + (1-n)*m,    n = ahead*(1-momentum)
        u <- u / (|u| + eps);  five times: A = u u',  u <- a*u + (b*A + c*A*A) u
        p <- p - lr*sqrt(max(1, rows/columns))*u - lr*weight_decay*p

    Of more than two axes, all but the first are taken as one, as for convolutions. Vectors and numbers are refused: a
    `partition` gives them, and embeddings and last layers, to another method, such as `Adam`. It works on whole
    arrays, by the array library's own matmul (`portable`), in at least float32, where torch's takes bfloat16. Torch's
    eps is a lower bound of |u|: `Muon(eps=0.0, least=1e-7)`. The second paper has steps whose size does not depend on
    the shape, `lr*rms*sqrt(max(rows, columns))*u` with an rms of 0.2, like AdamW's: `Muon(rms=0.2)`.

    Args:
        lr: learning rate.
        momentum: the share of the mean that is kept.
        weight_decay: decoupled.
        steps: how often the polynomial is applied, at least 1.
        eps, least: against a division by 0, as a summand and as a lower bound.
        ahead: 1 to look ahead as Nesterov's momentum does, 0 not to.
        rms: the root mean square of u in the step; 0 is for none.
        a, b, c: of the polynomial.

    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024, algorithm 2; the decay of Liu
    et al., Muon is scalable for LLM training, 2025, equation 3.

    >>> w, optimizer = np.array([[3.0, 0.0], [4.0, 1.0]]), ao.Muon(lr=0.1)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of np.sum(w * w)
    >>> w.round(3)
    array([[2.85 , 0.156],
           [3.852, 0.846]])
    """

    lr: Nonnegative = 0.02
    momentum: Fraction = 0.95
    weight_decay: Nonnegative = 0.0
    _: KW_ONLY
    steps: Whole = 5
    eps: Nonnegative = 1e-7
    least: Nonnegative = 0.0
    ahead: UnitInterval = 1.0
    rms: Nonnegative = 0.0
    a: Number = 3.4445
    b: Number = -4.775
    c: Number = 2.0315
    slots: ClassVar[tuple[str, ...]] = ("m",)
    array_rule = True

    def refusal(self, p: Array) -> str | None:
        """Refuse all parameters but real matrices."""
        return _no_matrix("Muon", p)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        optional = {name: getattr(hyper, name) for name in ("least", "rms")}
        return {name: value for name, value in vars(hyper).items() if name not in optional} | unless_zero(**optional)

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, c: Any) -> tuple[Array, ...]:
        m = mean(m, x, c.momentum)
        n = c.ahead * (1 - c.momentum)
        u = _matrix(xp, n * x + (1 - n) * m)
        rows, columns = u.shape
        wide = xp.matrix_transpose(u) if rows > columns else u
        wide = unit(xp, wide, c.eps, getattr(c, "least", None))
        for _ in range(int(c.steps)):
            square = wide @ xp.matrix_transpose(wide)
            wide = c.a * wide + (c.b * square + c.c * (square @ square)) @ wide
        u = xp.matrix_transpose(wide) if rows > columns else wide
        size = c.rms * math.sqrt(max(rows, columns)) if hasattr(c, "rms") else math.sqrt(max(1.0, rows / columns))
        return c.lr * size * xp.reshape(u, p.shape) + c.lr * c.weight_decay * p, m


class Shampoo(Optimizer):
    """AdaGrad for matrices: gradients by the inverse roots of what rows and columns have in common. For matrices.

    ::

        L <- L + g g'
        R <- R + g' g
        p <- p - lr * (L + eps)**(-1/4) g (R + eps)**(-1/4)

    Of more than two axes, all but the first are taken as one. Vectors and numbers are refused: a `partition` gives them
    to another method. It works on whole arrays, by the array library's own `linalg.eigh` (`portable`), which not every
    library has, and whose time grows with the third power of rows and columns.

    Args:
        lr: learning rate.
        eps: times the identity.

    Source: Gupta, Koren and Singer, Shampoo: preconditioned stochastic tensor optimization, 2018, algorithm 1, where
    eps is in the first L and R.

    >>> w, optimizer = np.array([[3.0, 0.0], [4.0, 1.0]]), ao.Shampoo(lr=0.5)
    >>> for _ in range(3):
    ...     w = optimizer.update(w, 2 * w)  # the gradient of np.sum(w * w)
    >>> w.round(3)
    array([[2.289, 0.369],
           [3.176, 0.517]])
    """

    lr: Nonnegative = 0.1
    eps: Positive = 1e-4
    slots: ClassVar[tuple[str, ...]] = ("L", "R")
    array_rule = True

    def slot_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Give a square matrix to the rows, and another to the columns."""
        rows, columns = shape[0], math.prod(shape[1:])
        return (rows, rows), (columns, columns)

    def refusal(self, p: Array) -> str | None:
        """Refuse all parameters but real matrices, and libraries without eigenvalues."""
        here = library(p)
        if not hasattr(getattr(here.xp, "linalg", None), "eigh"):
            return f"is a {here.name} array, and {here.name} has no linalg.eigh, which Shampoo wants"
        return _no_matrix("Shampoo", p)

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, L: Array, R: Array, c: Any) -> tuple[Array, ...]:
        g = summable(xp, _matrix(xp, x))
        turned = xp.matrix_transpose(g)
        largest = float(xp.finfo(p.dtype).max)
        L, R = _bound(xp, L + g @ turned, largest), _bound(xp, R + turned @ g, largest)
        return c.lr * xp.reshape(_root(xp, L, c.eps) @ g @ _root(xp, R, c.eps), p.shape), L, R


def _root(xp: Any, a: Array, eps: float) -> Array:
    """`(a + eps)**(-1/4)` of a symmetric matrix, whose eigenvalues rounding may take below 0."""
    values, vectors = xp.linalg.eigh(a)
    values = xp.where(values > 0, values, xp.zeros_like(values)) + eps
    return (vectors / xp.sqrt(xp.sqrt(values))) @ xp.matrix_transpose(vectors)
