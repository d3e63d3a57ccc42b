"""Coefficients of rows that have taken different numbers of steps: asked for once, with a symbol for that number."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from anyoptim._machine._generated import executed
from anyoptim._trace import _scalars as scalars
from anyoptim._trace._expressions import Scalars, range_of
from anyoptim._trace._operations import LOGICAL
from anyoptim._trace._program import Coefficients, Program, StaticOptions, static_options
from anyoptim._trace._symbols import Scalar, Symbol, symbol

__all__ = ["RowCoefficients"]

NDArray = np.ndarray[Any, Any]

_TEXTS: Mapping[str, str] = {
    "add": "({} + {})",
    "subtract": "({} - {})",
    "multiply": "({} * {})",
    "divide": "({} / {})",
    "negative": "(-{})",
    "less": "({} < {})",
    "less_equal": "({} <= {})",
    "greater": "({} > {})",
    "greater_equal": "({} >= {})",
    "equal": "({} == {})",
    "not_equal": "({} != {})",
    "and": "({} and {})",
    "or": "({} or {})",
    "abs": "abs({})",
    "one_minus_power": "(1 - {}**{})",
    "power": "power({}, {})",
    "remainder": "({} % {})",
    "sqrt": "sqrt({})",
    "where": "({1} if {0} else {2})",
    "log": "log({})",
    "expm1": "expm1({})",
}
"""What `ao.scalars` computes on the host for each operation on a symbol."""


class RowCoefficients:
    """The coefficients of the rows of one leaf, which their counts of steps decide."""

    count: ClassVar[Symbol] = symbol(0)
    """What stands for the number of steps that a row has taken."""

    def __init__(self, counts: Sequence[int], kind: NDArray) -> None:
        """Take the different counts, and for each row the number of its own among them."""
        self._counts, self._kind = counts, kind
        self.row: Coefficients = ()
        """The coefficients as what `count` makes of them; empty where that can't be told."""

    def suit(self, program: Program) -> bool:
        """Whether they are known for each count, and neither reductions nor options depend on it."""
        parts = [(k, name, c) for k, part in enumerate(self.row) for name, c in part.items() if isinstance(c, Symbol)]
        first = max(program.reductions, default=0)
        if not self.row or any(k < first or c.scalar.op in LOGICAL for k, _, c in parts):
            return False
        self._names = {(k, name): j for j, (k, name, _) in enumerate(parts)}
        numbers: list[float] = []
        try:
            text = f"[{', '.join([_text(c.scalar, numbers) for _, _, c in parts])}]"
            values = _function(text, len(numbers))(self._counts, numbers)
        except (ArithmeticError, LookupError, ValueError):
            return False
        self._values = np.array(values, np.float64).reshape(len(self._counts), len(parts))
        return True

    def columns(self, of: Scalars, dtype: np.dtype[Any]) -> list[NDArray]:
        """The scalars of a kernel: for each an array with the number of each row."""
        if of.derived:
            table = np.array([of.values(self._row(values), dtype) for values in self._values], dtype)
            return [*table.T[:, self._kind]]
        first = of.values(self._row(self._values[0]), dtype)
        columns = [np.full(len(self._kind), number, dtype) for number in first]
        for column, key in zip(columns, of.coefficients, strict=False):
            if key in self._names:
                values, within = self._values[:, self._names[key]], range_of(dtype)
                sizes = np.abs(values)[values != 0]
                if not np.all((sizes >= within.least) & (sizes <= within.largest)):
                    values = np.array([*map(within.fitted, values.tolist())])
                column[:] = values.astype(dtype)[self._kind]
        return columns

    def _row(self, values: NDArray) -> Coefficients:
        """The coefficients of one count."""
        names = self._names
        return tuple(
            {name: float(values[names[k, name]]) if (k, name) in names else c for name, c in part.items()}
            for k, part in enumerate(self.row)
        )

    @property
    def static(self) -> StaticOptions:
        """The static options, which all rows share."""
        return static_options(self._row(self._values[0]))


def _text(scalar: Scalar, numbers: list[float]) -> str:
    """A symbol as a Python expression of the count n and these numbers c. Raises LookupError for what has none."""
    if scalar.op == "device":
        return "n"
    if scalar.op == "number":
        numbers.append(float.fromhex(scalar.arguments[0]))
        return f"c{len(numbers) - 1}"
    if (scalar.op, scalar.arguments[0]) == ("power", _E):
        raise LookupError("exp")
    return _TEXTS[scalar.op].format(*[_text(a, numbers) for a in scalar.arguments])


_E = Scalar("number", (math.e.hex(),))
"""The base by which symbols say `exp`, which rounds otherwise on the host."""


@functools.lru_cache(maxsize=64)
def _function(text: str, numbers: int) -> Callable[[Sequence[int], Sequence[float]], Sequence[Sequence[float]]]:
    """A function that gives what a text says for each count, with so many numbers."""
    names = "".join(f"c{j}, " for j in range(numbers))
    source = f"def of_counts(counts, c):\n    [{names}] = c\n    return [{text} for n in counts]\n"
    functions = {"power": scalars.power, "sqrt": scalars.sqrt, "log": scalars.log, "expm1": scalars.expm1}
    made: Any = executed(source, f"<anyoptim counts {hash(source):x}>", functions)["of_counts"]
    return made  # type: ignore[no-any-return]
