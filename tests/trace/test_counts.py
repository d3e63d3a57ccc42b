"""Coefficients of many counts at once have the bits of coefficients of each, or are said not to be had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim._trace._counts import RowCoefficients
from anyoptim._trace._expressions import Scalars
from anyoptim._trace._program import MOVE, Part, Program, on_value
from anyoptim._trace._symbols import Scalar
from tests.support.libraries import DISCOVERED

COUNTS = [*range(1, 40), 999, 1000, 123_457, 2**31, 2**53 - 1]

STAGES: dict[str, Callable[[], Any]] = {
    **{name: method for name, method in DISCOVERED.items() if not (method.array_rule or method.scalars)},
    "SWA": lambda: ao.SWA(3, every=2),
    "Lookahead": lambda: ao.Lookahead(4),
    "EMA": lambda: ao.EMA(0.9),
    "RAdam, other betas": lambda: ao.RAdam(beta1=0.5, beta2=0.7),
}
"""Stages whose coefficients are functions of counts and hyperparameters."""


def _row(coefficients: dict[str, Any]) -> tuple[RowCoefficients, Program, Scalars]:
    rows = RowCoefficients([n - 1 for n in COUNTS], np.arange(len(COUNTS)))
    rows.row = ({}, coefficients)
    scalars = Scalars(Scalar("coefficient", (1, name)) for name, c in coefficients.items() if not isinstance(c, bool))
    return rows, Program((Part(on_value, lambda xp, p, x, c: x), MOVE)), scalars


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", STAGES)
def test_bits_of_each_count(name: str, dtype: str) -> None:
    """Of every stage that does not look at the count itself."""
    for stage in STAGES[name]().stages if hasattr(STAGES[name](), "stages") else [STAGES[name]()]:
        if any(of.over == "each" for of in stage.reductions.values()):
            continue
        values = stage._values(1, {})
        rows, program, scalars = _row(stage._coefficients(RowCoefficients.count + 1, values))
        assert rows.suit(program)
        columns = rows.columns(scalars, np.dtype(dtype))
        each = [scalars.values(({}, stage._coefficients(n, values)), np.dtype(dtype)) for n in COUNTS]
        assert np.array_equal(np.stack(columns).T, np.array(each, dtype))


def test_what_counts_can_not_tell() -> None:
    """Options that the count decides, exponentials, which round otherwise, what divides by 0, and what is not there."""
    n = RowCoefficients.count + 1
    cases = {"option": n > 3, "exp": ao.scalars.exp(-1.0 * n), "inverse": 1.0 / (n - 3)}
    for c in cases.values():
        rows, program, _ = _row({"c": c})
        assert not rows.suit(program)
    rows, program, _ = _row({"c": ao.scalars.power(0.5, n)})
    assert rows.suit(program)
    rows.row = ()
    assert not rows.suit(program)


def test_numbers_that_float32_can_not_hold() -> None:
    """Are the nearest that it can, as those of one count are; and what is made of coefficients is made in float64."""
    n = RowCoefficients.count + 1
    rows, program, scalars = _row({"tiny": ao.scalars.power(1e-30, n), "huge": ao.scalars.power(1e30, n)})
    both = Scalars([*scalars, Scalar("multiply", (scalars[0], scalars[1]))])
    assert rows.suit(program)
    for of in (scalars, both):
        columns = rows.columns(of, np.dtype("float32"))
        each = [of.values(({}, {"tiny": 1e-30**n, "huge": _power(n)}), np.dtype("float32")) for n in COUNTS]
        assert np.array_equal(np.stack(columns).T, np.array(each, np.float32), equal_nan=True)
        assert (columns[0][:9] > 0).all()  # later ones are 0 in float64, too


def _power(n: int) -> float:
    return ao.scalars.power(1e30, n)  # type: ignore[no-any-return]
