"""Coefficients of which arrays are a part: what is of numbers alone is computed on the host, the rest by the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyoptim._trace._operations import LOGICAL, OPERATORS
from anyoptim._trace._program import Elementwise
from anyoptim._trace._symbols import Scalar, Symbol, of_host

__all__ = ["elements_of", "separated"]

_OPERATIONS = LOGICAL | {*OPERATORS, "sqrt", "where"}


def separated(stage: Any, coefficients: Mapping[str, Any]) -> dict[str, Any]:
    """The coefficients with an `Elementwise` for each of which arrays are a part, and the numbers in it by new names.

    Raises TypeError, which names the stage, for an operation of an array that engines don't have.
    """
    found: dict[str, Any] = {}
    for name, c in coefficients.items():
        if isinstance(c, Symbol) and elements_of(c.scalar):
            numbers: list[Any] = []
            found[name] = _made(stage, name, c.scalar, numbers)
            found.update((f"{name}.{i}", number) for i, number in enumerate(numbers))
        else:
            found[name] = c
    return found


def elements_of(scalar: Any) -> list[str]:
    """The names of the hyperparameters, given as arrays, that an expression is of."""
    if not isinstance(scalar, Scalar):
        return []
    if scalar.op == "element":
        return [scalar.arguments[1]]
    return [name for a in scalar.arguments for name in elements_of(a)]


def _made(stage: Any, name: str, scalar: Scalar, numbers: list[Any]) -> Elementwise:
    """An expression, of which the parts without arrays are put among the numbers, and stand there by their names."""
    if scalar.op == "element":
        place, of = scalar.arguments
        if place < 0:
            raise TypeError(f"coefficients of {stage!r} are of no parameter, but {of} is given element by element")
        return Elementwise(scalar.op, (place,))
    names = elements_of(scalar)
    if not names:
        numbers.append(_number(scalar))
        return Elementwise("number", (f"{name}.{len(numbers) - 1}",))
    if scalar.op not in _OPERATIONS:
        raise TypeError(
            f"coefficients of {stage!r} take {scalar.op} of {names[0]}, which is given as an array; wanted a number, "
            "or what is made of it by + - * /, comparisons, and sqrt, where, minimum and maximum of ao.scalars"
        )
    return Elementwise(scalar.op, tuple(_made(stage, name, a, numbers) for a in scalar.arguments))


def _number(scalar: Scalar) -> Any:
    """An expression without arrays: a number that is known, traced, or only known to a device."""
    if scalar.op == "number":
        return float.fromhex(scalar.arguments[0])
    return scalar.arguments[0] if scalar.op == "traced" else of_host(scalar)
