"""The coefficients of a step, row by row: as a table for its leaves, as numbers for a kernel, and put anew in place."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from struct import Struct
from typing import Any, NamedTuple

import numpy as np

from anyoptim._trace._expressions import Range, Scalars, evaluate, range_of
from anyoptim._trace._program import Coefficients, Elementwise, all_floats
from anyoptim._trace._symbols import Scalar, Symbol

__all__ = ["CoefficientTable", "Expressions", "Replay", "all_known", "lasting", "rows_of"]


class CoefficientTable(NamedTuple):
    """The coefficients of a step. Leaves whose step counts or groups differ have different rows."""

    distinct: list[Coefficients]
    row_of_leaf: Sequence[int]
    """For each leaf the number of its row among the distinct ones."""

    def row(self, i: int) -> Coefficients:
        """The row of one leaf."""
        return self.distinct[self.row_of_leaf[i]]

    def before(self, k: int) -> CoefficientTable:
        """The table for the parts before part `k`, on which alone a reduction there can depend."""
        return CoefficientTable([row[:k] for row in self.distinct], self.row_of_leaf)

    def select(self, indices: Sequence[int]) -> CoefficientTable:
        """The table for some of the leaves, without rows that are for none of these."""
        if len(indices) == len(self.row_of_leaf):
            return self
        used = {r: n for n, r in enumerate(dict.fromkeys(self.row_of_leaf[i] for i in indices))}
        return CoefficientTable([self.distinct[r] for r in used], [used[self.row_of_leaf[i]] for i in indices])


_KNOWN = {float, bool, str, Elementwise}


def all_known(rows: Sequence[Coefficients]) -> bool:
    """Whether the values of all coefficients are known: none of them is traced or a symbol."""
    return all(type(c) in _KNOWN for row in rows for part in row for c in part.values())


def lasting(rows: Sequence[Coefficients]) -> bool:
    """Whether a `Replay` may be made of these rows: of numbers, and of how elements are made of arrays."""
    each = (part for row in rows for part in row if not all_floats(part))
    return all(_LASTING.issuperset(map(type, part.values())) for part in each)


_LASTING = frozenset({float, Elementwise})


class Replay:
    """A step without static options that change, which can be taken again with other numbers in the same rows."""

    def __init__(
        self,
        rows: CoefficientTable,
        scalars: Scalars,
        dtype: np.dtype[Any],
        tables: Sequence[np.ndarray[Any, Any]],
        within: Range | None = None,
    ) -> None:
        """Lay the numbers of a step ready to be replaced: `tables` has for each row where its scalars stand.

        They must be of the dtype's range, or `within` another one.
        """
        both = zip(rows.distinct, tables, strict=True)
        self._setters = [_setter(row, scalars, dtype, table, within) for row, table in both]
        self._row_of_leaf = rows.row_of_leaf

    def set(self, rows: CoefficientTable) -> bool:
        """Write the numbers of the same rows to the tables, if these have the same names and the dtype holds them."""
        setters, (distinct, row_of_leaf) = self._setters, rows
        if len(setters) == len(distinct) == 1:
            return setters[0](distinct[0])
        same = row_of_leaf is self._row_of_leaf or [*row_of_leaf] == [*self._row_of_leaf]
        return same and len(distinct) == len(setters) and all(map(operator.call, setters, distinct))


def _setter(
    row: Coefficients, scalars: Scalars, dtype: np.dtype[Any], table: np.ndarray[Any, Any], within: Range | None
) -> Callable[[Coefficients], bool]:
    """A function that writes the numbers of a row such as this one to the table, and says whether it could."""
    wanted = [[*map(_kind, part.values())] for part in row]
    of = type if all(map(all_floats, row)) else _kind
    numbers_of = _reader(scalars, dtype, within)  # the arithmetic's dtype, which the table need not have
    within = within or range_of(dtype)
    least, largest, holds = within.least, within.largest, within.holds
    # Constants stay as they are.
    put = _writer(table if scalars.derived else table[: len(scalars.coefficients)])

    def set_(row: Coefficients) -> bool:
        if [[*map(of, part.values())] for part in row] != wanted:
            return False
        try:
            numbers = numbers_of(row)
        except KeyError:
            return False
        # The quick question first, which nearly always has the answer.
        inside = numbers and least <= min(numbers) <= max(numbers) <= largest
        if not inside and not all(map(holds, numbers)):
            return False
        put(*numbers)
        return True

    return set_


def _kind(c: Any) -> Any:
    """What has to be the same at a replay: how elements are made, and of all else the type."""
    return c if type(c) is Elementwise else type(c)


def _reader(scalars: Scalars, dtype: np.dtype[Any], within: Range | None) -> Callable[[Coefficients], Sequence[float]]:
    """A function from a row to the values of these scalars, without constants where the rest are coefficients."""
    names, others = scalars.coefficients, scalars.other_values
    if len(names) > 1 and len({k for k, _ in names}) == 1:  # nearly always, those of one method
        (k, _), take = names[0], itemgetter(*(name for _, name in names))
        # A tuple, of more than one.
        return (
            (lambda row: (*take(row[k]), *others(row, dtype, within))) if scalars.derived else lambda row: take(row[k])
        )
    if scalars.derived:
        return lambda row: [*(row[k][name] for k, name in names), *others(row, dtype, within)]
    return lambda row: [row[k][name] for k, name in names]


def _writer(table: np.ndarray[Any, Any]) -> Callable[..., None]:
    """A function that writes numbers to a table. NumPy's own takes twice as long for so few, and warns of underflow."""
    if table.dtype in (np.float64, np.float32) and table.flags.c_contiguous and table.size:
        return partial(Struct(f"{table.size}{table.dtype.char}").pack_into, memoryview(table.data).cast("B"), 0)

    def put(*numbers: float) -> None:
        table[...] = numbers

    return put


Expressions = tuple[tuple[int, Scalar], ...]
"""Expressions whose values the device alone knows, by their places among the numbers. A `number` in one is the place of
a number behind the rows, so that rows with other numbers have equal expressions, and the same kernel."""


def rows_of(
    scalars: Sequence[Scalar], rows: Sequence[Coefficients | None], dtype: Any
) -> tuple[np.ndarray[Any, Any], Expressions]:
    """The values of `scalars` in each row, one after another, zeros for None; then the numbers that expressions are of.

    Where the device is to put the value of an expression there is a 0.
    """
    numbers, behind = list[float](), list[float]()
    expressions = []
    for row, scalar in itertools.product(rows, scalars):
        value = 0.0 if row is None else evaluate(scalar, row, dtype)
        if isinstance(value, Symbol):
            expressions.append((len(numbers), _numbered(value.scalar, behind)))
            value = 0.0
        numbers.append(value)
    return np.array([*numbers, *behind], np.float64), tuple(expressions)


def _numbered(scalar: Scalar, behind: list[float]) -> Scalar:
    """An expression with the place of each number, behind the rows, instead of its value."""
    if scalar.op == "number":
        behind.append(float.fromhex(scalar.arguments[0]))
        return Scalar("number", (len(behind) - 1,))
    return Scalar(scalar.op, tuple(_numbered(a, behind) if isinstance(a, Scalar) else a for a in scalar.arguments))
