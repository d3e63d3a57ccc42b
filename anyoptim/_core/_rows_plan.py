"""The plan for leaves of which rows have coefficients of their own: the calls of `blocked`, with columns of numbers."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from anyoptim._arrays import Array
from anyoptim._engines import CoefficientTable, Leaf, Result
from anyoptim._engines._base import Commit, NDArray
from anyoptim._engines.blocked._functions import BoundFunction, block_function
from anyoptim._engines.blocked._plan import BLOCK, BlockedPlan
from anyoptim._machine._completed import exhaust
from anyoptim._machine._scratch import give, scratch
from anyoptim._machine._threads import Call
from anyoptim._trace import _scalars as scalars
from anyoptim._trace._expressions import Scalars, range_of
from anyoptim._trace._operations import LOGICAL, OPERATORS
from anyoptim._trace._program import Coefficients, Program, StaticOptions, static_options
from anyoptim._trace._symbols import Scalar, Symbol, symbol
from anyoptim._trace._text import executed

__all__ = ["RowCoefficients", "RowsPlan"]


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **OPERATORS,
    "sqrt": scalars.sqrt,
    "where": scalars.where,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "power": scalars.power,
    "one_minus_power": lambda beta, t: 1 - beta**t,
    "remainder": operator.mod,
    "log": scalars.log,
    "expm1": scalars.expm1,
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
            call = _function(text)
            self._values = [call(n, numbers) for n in self._counts]
        except (ArithmeticError, LookupError, ValueError):
            return False
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
                j, fitted = self._names[key], range_of(dtype).fitted
                column[:] = np.array([fitted(values[j]) for values in self._values], dtype)[self._kind]
        return columns

    def _row(self, values: Sequence[float]) -> Coefficients:
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
        return f"c[{len(numbers) - 1}]"
    if scalar.op not in _FUNCTIONS or (scalar.op, scalar.arguments[0]) == ("power", _E):
        raise LookupError(scalar.op)
    return f"{scalar.op}_({', '.join([_text(a, numbers) for a in scalar.arguments])})"


_E = Scalar("number", (math.e.hex(),))
"""The base by which symbols say `exp`, which rounds otherwise on the host."""


@functools.lru_cache(maxsize=64)
def _function(text: str) -> Callable[[float, Sequence[float]], Sequence[float]]:
    namespace = {f"{op}_": function for op, function in _FUNCTIONS.items()}
    source = f"def of_count(n, c):\n    return {text}\n"
    made: Callable[[float, Sequence[float]], Sequence[float]] = executed(
        source, f"<anyoptim counts {hash(text):x}>", namespace
    )["of_count"]
    return made


class RowsPlan(BlockedPlan):
    """A plan for arrays that NumPy can read and write, of rows that fit into a block."""

    engines: ClassVar[tuple[str, ...]] = ("compiled", "blocked")
    """In whose place it stands: the bits are theirs."""

    @classmethod
    def takes(cls, engine: str, x: Array) -> bool:
        """Whether it may stand in the place of an engine, for parts like this gradient."""
        return engine in cls.engines and math.prod(x.shape[1:]) <= BLOCK

    def __init__(self, program: Program, leaves: Sequence[Leaf], rows: Sequence[RowCoefficients]) -> None:
        super().__init__(program, leaves)
        self._rows = rows

    def prepare_anew(self, gathered: Sequence[NDArray], rows: CoefficientTable) -> Commit:
        room = scratch()
        calls: list[Call] = []
        for arrays, x, of, dtype in zip(self.arrays, gathered, self._rows, self.dtypes, strict=True):
            function = block_function(self.program, None, of.static)
            # One number for each row, which NumPy takes for all elements of that row.
            columns = [a.reshape(-1, *(1,) * (x.ndim - 1)) for a in of.columns(function.scalars, dtype)]
            p, *slots = arrays
            both = [p, x, *slots]
            size = max(x[:1].size, 1)
            for real in [[a.real for a in both], [a.imag for a in both]] if p.dtype.kind == "c" else [both]:
                for begin in range(0, len(x), BLOCK // size):
                    some = slice(begin, begin + BLOCK // size)
                    bound = BoundFunction(function, dtype, np.empty(0, dtype), [column[some] for column in columns])
                    calls += bound.cast(room, *(a[some] for a in real))
        calls.append(partial(give, room))
        todo = map(operator.call, calls)

        def commit() -> Sequence[Result]:
            self._quietly(exhaust, todo)
            self.touch()
            return self.results

        return commit
