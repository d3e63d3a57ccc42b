"""The dot-product test: whether one linear function is the adjoint of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyoptim._arrays import _checks as checks
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Tree
from anyoptim._trace._hyperparameters import positive
from anyoptim._trace._scalars import whole_number
from anyoptim.testing._check_grad import BITS
from anyoptim.testing._probe import reals
from anyoptim.testing._report import table

__all__ = ["AdjointCheck", "AdjointReport", "check_adjoint"]

TOLERANCE = {8: 5e-2, 11: 1e-2, 24: 1e-4, 53: 1e-9}
"""By what part of |A u|*|v| the two products of a right adjoint may differ, for arithmetic of so many bits."""

Vector = np.ndarray[Any, Any]


class AdjointCheck(NamedTuple):
    """What was found out about the part of an adjoint that belongs to one parameter.

    >>> check = ao.check_adjoint(lambda p: 3 * p["w"], lambda r: {"w": 6 * r}, {"w": np.ones(2)})[0]
    >>> check.path, check.verdict, round(check.factor, 6)
    ('w', 'wrong', 2.0)
    """

    path: str
    """Its keys, joined by dots."""
    verdict: str
    """"right", "wrong", or "none" where it is None."""
    error: float
    """How far <A u, v> and <u, A' v> differ, in units of |A u|*|v|: the most that was seen."""
    factor: float | None
    """A' is so many times the adjoint, if that explains what was found; 1.0 where it is right."""
    reason: str
    """What is wrong, in words; empty where nothing is."""


class AdjointReport(Sequence[AdjointCheck]):
    """The checks of all parameters; `ok` says whether `adjoint` is one, and printing shows a table.

    >>> report = ao.check_adjoint(lambda p: 3 * p, lambda r: 3 * r, np.ones(2))
    >>> report.ok, report.linear, len(report)
    (True, True, 1)
    """

    def __init__(self, checks: Sequence[AdjointCheck], nonlinearity: float, rtol: float) -> None:
        self._checks = tuple(checks)
        self.nonlinearity = nonlinearity
        """By what part of |A u| + |A w| they differ from A(u + w): the most that was seen."""
        self.linear: bool = nonlinearity <= rtol
        """Whether `forward` was seen to be linear."""

    @property
    def ok(self) -> bool:
        """Whether `forward` is linear, and `adjoint` its adjoint for every parameter, as far as was seen."""
        return self.linear and all(check.verdict != "wrong" for check in self)

    @property
    def wrong(self) -> list[str]:
        """The paths of the parameters for which it is none."""
        return [check.path for check in self if check.verdict == "wrong"]

    def __getitem__(self, i: Any) -> Any:
        return self._checks[i]

    def __len__(self) -> int:
        return len(self._checks)

    def __str__(self) -> str:
        rows = [("parameter", "verdict", "off by", "")]
        for check in self:
            off = "" if check.verdict == "none" else f"{check.error:.0e}"
            rows.append((check.path or "(params)", check.verdict, off, check.reason))
        nonlinear = f"\nforward(u + w) is off forward(u) + forward(w) by {self.nonlinearity:.0e}: it is not linear"
        return table(rows) + nonlinear * (not self.linear)

    def __repr__(self) -> str:
        return f"AdjointReport(ok={self.ok})\n{self}"


def check_adjoint(
    forward: Callable[[Any], Any],
    adjoint: Callable[[Any], Any],
    params: Any,
    *,
    directions: int = 2,
    rtol: float | None = None,
    seed: int = 0,
) -> AdjointReport:
    """Compare the products <A u, v> and <u, A' v>, which are equal if `adjoint` A' is that of `forward` A.

    ::

        <a, b> = sum of Re(conj(a) * b)

    >>> A = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> ao.check_adjoint(lambda p: A @ p, lambda r: A.T @ r, np.zeros(2)).ok
    True
    >>> ao.check_adjoint(lambda p: A @ p, lambda r: 2 * A.T @ r, np.zeros(2))[0].reason
    'it is 2 times the adjoint'

    u is random in one parameter after the other and 0 in all others, so that those are named for which they differ. v
    is random, too, with as much of A u in it: products of random vectors are small, and hide much. Whether A(u + w) is
    A u + A w is looked at, too: a constant that `forward` adds is found.

    Args:
        forward: a linear function of the parameters, in their container, that gives an array or a container of some.
        adjoint: a function of what is like that, which gives what is like the parameters; what is None is not checked.
        params: a container as `forward` takes it, whose shapes and dtypes are taken, and no values.
        directions: how many u for each parameter, at least 1.
        rtol: by what part of |A u|*|v| the products may differ; None takes 1e-9 in float64, 1e-4 in float32, 1e-2 in
            float16 and 5e-2 in bfloat16, whichever of parameters and data has the fewest digits.
        seed: of the random numbers.

    Returns:
        The report. It takes one call of `forward` and one of `adjoint` for each parameter and direction, and three
        calls of `forward` and one of `adjoint` besides.

    Raises ValueError and TypeError like `update` where what comes back does not fit.

    Source: Claerbout, Earth Soundings Analysis: Processing versus Inversion, 1992, chapter 5, the dot-product test.
    """
    whole_number("directions", directions, 1)
    if rtol is not None:
        positive.value("rtol", rtol)
    return Operators(forward, adjoint, params, np.random.default_rng(seed)).report(directions, rtol)


class Operators:
    """Two functions, as functions of rows of real numbers: one row for each parameter, and one for each image."""

    def __init__(
        self, forward: Callable[[Any], Any], adjoint: Callable[[Any], Any], params: Any, rng: np.random.Generator
    ) -> None:
        self.calls = forward, adjoint
        self.tree = Tree("params", params)
        self.ps = checks.parameters(self.tree)
        self.owner = checks.owners(self.ps)
        self.rng = rng
        self.sizes = {i: _size(p) for i, p in enumerate(self.ps) if p is not None and self.owner[i] == i}
        self.images: Tree
        self.data: list[Parameter]

    def report(self, directions: int, rtol: float | None) -> AdjointReport:
        """The checks of all parameters."""
        whole = [self._random() for _ in range(2)]
        both = {i: whole[0][i] + whole[1][i] for i in self.sizes}
        seen = [self.forward(u) for u in (*whole, both)]
        moving = self.adjoint(seen[0])
        nonlinearity = _ratio(_norm(seen[2] - seen[0] - seen[1]), _norm(seen[0]) + _norm(seen[1]))
        few = min(BITS[p.dtype] for p in [*self.data, *(p for p in self.ps if p is not None)])
        limit = rtol or TOLERANCE[few]
        return AdjointReport([self._check(i, i in moving, directions, limit) for i in self.sizes], nonlinearity, limit)

    def _check(self, i: int, moving: bool, directions: int, rtol: float) -> AdjointCheck:
        """The check of one parameter."""
        path = self.tree.path(i)
        if not moving or not self.sizes[i]:
            return AdjointCheck(path, "none", 0.0, None, "no gradient")
        found = []
        for _ in range(directions):
            u = self._random(i)
            image = self.forward(u)
            noise = self.rng.normal(size=image.size)
            v = image / (_norm(image) or 1.0) + noise / (_norm(noise) or 1.0)
            x = self.adjoint(v)[i]
            size = _norm(image) * _norm(v) or _norm(u[i]) * _norm(x)
            found.append((float(image @ v), float(u[i] @ x), self._conjugated(i, u[i], x), size))
        error = max(_ratio(abs(a - b), size) for a, b, _, size in found)
        if error <= rtol:
            return AdjointCheck(path, "right", error, 1.0, "")
        if all(_ratio(abs(a - c), size) <= rtol for a, _, c, size in found):
            return AdjointCheck(path, "wrong", error, None, "it is the conjugate of the adjoint")
        factors = [_ratio(b, a) for a, b, _, _ in found]
        factor = factors[0]
        if len(factors) > 1 and max(factors) - min(factors) <= 3 * rtol * max(map(abs, factors)):
            return AdjointCheck(path, "wrong", error, factor, _named(factor, 3 * rtol))
        return AdjointCheck(path, "wrong", error, None, "no one factor explains it")

    def _conjugated(self, i: int, u: Vector, x: Vector) -> float:
        """<u, conj(x)>; NaN for a real parameter."""
        p = self.ps[i]
        complexes = p is not None and p.dtype.startswith("complex")
        return float(u @ np.conj(x.view(np.complex128)).view(np.float64)) if complexes else float("nan")

    def forward(self, u: dict[int, Vector]) -> Vector:
        """What `forward` gives, all in one row."""
        leaves = [
            None if p is None else p.library.rebound(p.given, _array(p, u[self.owner[i]]))
            for i, p in enumerate(self.ps)
        ]
        with quiet():
            given = self.calls[0](self.tree.build(leaves))
        images = Tree("forward(params)", given)
        self.images, self.data = images, [p for p in checks.parameters(images) if p is not None]
        if len(self.data) < len(images.leaves):
            raise ValueError("forward(params) has a None in it; wanted arrays")
        return np.concatenate([reals(p, p.array) for p in self.data] or [np.zeros(0)])

    def adjoint(self, v: Vector) -> dict[int, Vector]:
        """What `adjoint` gives for the parameters that have a part in it."""
        ends = np.cumsum([0, *(_size(p) for p in self.data)])
        parts = [_array(p, v[a:b]) for p, a, b in zip(self.data, ends[:-1], ends[1:], strict=True)]
        with quiet():
            given = self.calls[1](self.images.build(parts))
        xs = checks.gradients(self.tree, self.ps, self.owner, given, "adjoint(residual)")
        return {
            i: reals(p, x) for i, (p, x) in enumerate(zip(self.ps, xs, strict=True)) if p is not None and x is not None
        }

    def _random(self, at: int | None = None) -> dict[int, Vector]:
        """Rows of random numbers; zeros for all parameters but one, if it is named."""
        return {i: self.rng.normal(size=size) if at in {None, i} else np.zeros(size) for i, size in self.sizes.items()}


def _size(p: Parameter) -> int:
    """How many real numbers there are in an array."""
    return int(np.prod(p.array.shape, dtype=np.int64)) * (2 if p.dtype.startswith("complex") else 1)


def _array(p: Parameter, row: Vector) -> Any:
    """An array like that of `p` with these elements."""
    values = row.view(np.complex128) if p.dtype.startswith("complex") else row
    with p.library.on_device_of(p.array), quiet():
        return p.library.sharded_like(p.library.from_host(values.reshape(p.array.shape), p.array), p.array)


def _norm(x: Vector) -> float:
    return float(np.linalg.norm(x))


def _ratio(a: float, b: float) -> float:
    """A/b; 0/0 is 0."""
    return a / b if b else float("inf") if a else 0.0


def _named(factor: float, rtol: float) -> str:
    """What A' is, if it is so many times the adjoint."""
    if abs(factor) <= rtol:
        return "it is 0, and forward is not"
    if abs(factor + 1) <= rtol:
        return "it is minus the adjoint"
    return f"it is {factor:.4g} times the adjoint"
