"""What a check of a gradient found, as data and as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["ElementCheck", "GradReport", "ParameterCheck", "explained", "table"]


class ElementCheck(NamedTuple):
    """The gradient at one element beside the slope of the loss there: complex numbers for a complex parameter.

    >>> check = ao.check_grad(lambda w: (3 * w[0] + w[1], np.array([3.0, 2.0])), np.ones(2))[0]
    >>> check.worst.at, check.worst.gradient, round(check.worst.slope, 6)
    ((1,), 2.0, 1.0)
    """

    at: tuple[int, ...]
    """The index of the element."""
    gradient: float | complex
    slope: float | complex


class ParameterCheck(NamedTuple):
    """What was found out about the gradient of one parameter.

    >>> check = ao.check_grad(lambda p: (3 * p["w"], {"w": 6.0}), {"w": 1.0})[0]
    >>> check.path, check.verdict, round(check.factor, 6)
    ('w', 'wrong', 2.0)
    """

    path: str
    """Its keys, joined by dots."""
    verdict: str
    """"right", "wrong", "kink", "unclear", or "none" where there is no gradient to check.

    kink: the loss has a kink at these very parameters, as `relu` and `abs` have at 0, and the gradient is between the
    slopes on both sides. unclear: the loss is too coarse, or has too many kinks, to tell.
    """
    norm: float
    """The 2-norm of its gradient."""
    error: float
    """How far, in units of the gradient, the slope may differ from it as far as was seen."""
    factor: float | None
    """The gradient is so many times the slope, if that explains what was found; 1.0 where it is right."""
    worst: ElementCheck | None
    """The element where they differ most, where they do."""
    reason: str
    """What is wrong, in words; empty where nothing is."""


class GradReport(Sequence[ParameterCheck]):
    """The checks of all parameters; `ok` says whether all are right, and printing shows a table.

    >>> report = ao.check_grad(lambda p: (3 * p["w"], {"w": 3.0}), {"w": 1.0})
    >>> report.ok, report.wrong, len(report)
    (True, [], 1)
    """

    def __init__(self, checks: Sequence[ParameterCheck], evaluations: int) -> None:
        self._checks = tuple(checks)
        self.evaluations = evaluations
        """How often the loss was asked for."""

    @property
    def ok(self) -> bool:
        """Whether every gradient was seen to be right, or to lie between the slopes of a kink."""
        return all(check.verdict in {"right", "kink", "none"} for check in self)

    @property
    def wrong(self) -> list[str]:
        """The paths of the parameters whose gradient is wrong."""
        return [check.path for check in self if check.verdict == "wrong"]

    def __getitem__(self, i: Any) -> Any:
        return self._checks[i]

    def __len__(self) -> int:
        return len(self._checks)

    def __str__(self) -> str:
        rows = [("parameter", "verdict", "|g|", "off by", "")]
        for check in self:
            off = "" if check.verdict == "none" else f"{check.error:.0e}" if math.isfinite(check.error) else "?"
            rows.append((check.path or "(params)", check.verdict, f"{check.norm:.3g}", off, check.reason))
        return table(rows)

    def __repr__(self) -> str:
        return f"GradReport(ok={self.ok}, evaluations={self.evaluations})\n{self}"


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of cells as lines: two columns to the left, others to the right, and the last as it is."""
    *widths, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = []
    for *cells, reason in rows:
        columns = [
            cell.ljust(w) if k < 2 else cell.rjust(w) for k, (cell, w) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join([*columns, reason]).rstrip())
    return "\n".join(lines)


_CAUSES = {
    (2, True): "a factor 2, as that of a square, too many",
    (2, False): "a factor 2 is missing, as that of a square, or of dL/dconj(z)",
}


_NAMED = {"zero": "it is 0, but the loss changes", "flat": "the loss hardly changes"}

LARGEST_N = 10_000_000
"""The largest number that may be one of samples or elements, of which a mean was forgotten."""


def explained(name: str, factor: float | None, rtol: float, slight: float = math.inf) -> str:
    """What is wrong with a gradient, in words: by name, or by the factor that it is times the slope.

    Args:
        name: of what the slope is, if anything.
        factor: the gradient is so many times the slope, if that explains what was found.
        rtol: by what part of its size a right gradient may differ.
        slight: by what part of its size it is off at most.
    """
    if name:
        return _NAMED.get(name, f"the slope is {name}")
    if slight < 5 * rtol or (factor is not None and abs(factor - 1) < 3 * rtol):
        return f"it is off by {slight:.0e} of the slope: a small term may be missing, such as an eps within a log"
    if factor is None:
        return "no one factor explains it"
    return _times(factor, rtol)


def _times(factor: float, rtol: float) -> str:
    """How many times the slope a gradient is, and why that may be."""
    size, sign = abs(factor), "minus " if factor < 0 else ""
    for whole, larger in ((size, True), (1 / size, False)):
        n = round(whole)
        if n == 1 and factor < 0 and abs(whole - 1) <= 3 * rtol:
            return "it is minus the slope: the sign is wrong"
        if 1 < n <= LARGEST_N and abs(whole - n) <= 3 * rtol * n:
            about = "about " if 6 * rtol * n > 1 else ""  # any number is so near to some integer
            cause = _CAUSES.get((n, larger), "a 1/n is missing" if larger else "a 1/n too many")
            return f"it is {about}{sign}{'' if larger else '1/'}{n} times the slope: {cause}"
    return f"it is {factor:.{1 - math.floor(math.log10(rtol))}g} times the slope"
