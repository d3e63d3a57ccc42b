"""What an engine is given and what it gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from struct import Struct
from typing import Any, ClassVar, NamedTuple

import numpy as np

from anyoptim._arrays import Array, Library
from anyoptim._arrays._memory import MemoryLayout
from anyoptim._trace._expressions import Scalars, range_of
from anyoptim._trace._program import Coefficients, Program
from anyoptim._trace._reduction import norm

__all__ = ["CoefficientTable", "Commit", "Leaf", "NDArray", "Plan", "Replay", "Result", "Written", "norm_of", "viewed"]


NDArray = np.ndarray[Any, Any]


class Leaf(NamedTuple):
    """One parameter."""

    library: Library
    p: Array
    slots: tuple[Array, ...]
    """In the compute dtype of `p`."""
    destination: Array | None = None
    """The user's own object over the memory of `p`, where the new parameter is to be written to it."""


class CoefficientTable(NamedTuple):
    """The coefficients of a step. Leaves may have rows of their own: of their own step count, group, and so on."""

    distinct: Sequence[Coefficients]
    row_of_leaf: Sequence[int]
    """For each leaf the number of its row."""

    def of(self, i: int) -> Coefficients:
        """The row of one leaf."""
        return self.distinct[self.row_of_leaf[i]]

    def before(self, k: int) -> CoefficientTable:
        """What of them is for the parts before part `k`: all that a measure there can depend on."""
        return CoefficientTable([row[:k] for row in self.distinct], self.row_of_leaf)

    def some(self, indices: Sequence[int]) -> CoefficientTable:
        """Those of some of the leaves, without rows that are for none of these."""
        if len(indices) == len(self.row_of_leaf):
            return self
        used = {r: n for n, r in enumerate(dict.fromkeys(self.row_of_leaf[i] for i in indices))}
        return CoefficientTable([self.distinct[r] for r in used], [used[self.row_of_leaf[i]] for i in indices])


class Result(NamedTuple):
    """The new parameter, in its own dtype, and the new slots, in the compute dtype."""

    p: Array
    slots: tuple[Array, ...]


Commit = Callable[[], Sequence[Result]]
"""Writes what was prepared: each new parameter to its destination, if it has one. Does not fail."""


class Replay:
    """A step of one row without static options, to be taken again with other numbers."""

    def __init__(
        self,
        row: Coefficients,
        scalars: Scalars,
        dtype: np.dtype[Any],
        table: NDArray,
        run: Callable[[Any, Any], object],
    ) -> None:
        self.run = run
        """Takes the step of a plan, with its gathered gradients. It holds no plan, which would hold itself alive."""
        self._kinds = [[float] * len(part) for part in row]
        self._numbers = _reader(scalars, dtype)  # that of the arithmetic, which the table need not have
        within = range_of(dtype)
        self._least, self._largest, self._holds = within.least, within.largest, within.holds
        # Constants stay as they are.
        self._put = _writer(table if scalars.derived else table[: len(scalars.coefficients)])

    def set(self, row: Coefficients) -> bool:
        """Put the numbers of another row in place, if they are numbers of this dtype and have the same names."""
        if [[*map(type, part.values())] for part in row] != self._kinds:
            return False
        try:
            numbers = self._numbers(row)
        except KeyError:
            return False
        # The quick question first, which nearly always has the answer.
        inside = numbers and self._least <= min(numbers) and max(numbers) <= self._largest
        if not inside and not all(map(self._holds, numbers)):
            return False
        self._put(*numbers)
        return True


def _reader(scalars: Scalars, dtype: np.dtype[Any]) -> Callable[[Coefficients], Sequence[float]]:
    """What gives the values of these in a row, without constants where these are all but coefficients."""
    given, made = scalars.coefficients, scalars.other_values
    if len(given) > 1 and len({k for k, _ in given}) == 1:  # nearly always: those of one method
        (k, _), take = given[0], itemgetter(*(name for _, name in given))
        # A tuple, of more than one.
        return (lambda row: (*take(row[k]), *made(row, dtype))) if scalars.derived else lambda row: take(row[k])
    if scalars.derived:
        return lambda row: [*(row[k][name] for k, name in given), *made(row, dtype)]
    return lambda row: [row[k][name] for k, name in given]


def _writer(table: NDArray) -> Callable[..., None]:
    """What puts numbers there. NumPy's own assignment takes twice as long for so few."""
    if table.dtype == np.float64 and table.flags.c_contiguous and table.size:
        return partial(Struct(f"{table.size}d").pack_into, memoryview(table.data).cast("B"), 0)

    def put(*numbers: float) -> None:
        table[...] = numbers

    return put


class Written(NamedTuple):
    """What the commit of an engine writes to while it may still read gradients."""

    here: Sequence[NDArray] = ()
    """Of this machine's memory."""
    there: Sequence[MemoryLayout] = ()
    """Of devices' memory."""


class Plan(ABC):
    """An engine's arrangements for some leaves, which hold for as long as these stay where they are."""

    lasting: ClassVar[bool] = False
    """Whether the leaves are the same after a step, written in place."""

    renewable: ClassVar[bool] = False
    """Whether `renew` makes it the plan of other arrays of the same kind."""

    last_step: Replay | None
    """The last step, if there is one to be taken again."""

    def __init__(self, program: Program, leaves: Sequence[Leaf]) -> None:
        self.program = program
        self.leaves = leaves
        self.last_step: Replay | None = None
        libraries = {leaf.library for leaf in leaves if type(leaf.library).mark_written is not Library.mark_written}
        self._touched = [(of, [leaf.destination for leaf in leaves if leaf.library is of]) for of in libraries]

    @property
    def written(self) -> Written:
        """What the commit writes to while it may still read gradients."""
        return Written()

    def renew(self, leaves: Sequence[Leaf]) -> None:
        """Take these leaves from now on, which are such as those before."""
        raise NotImplementedError

    def avoid_aliasing(self, written: Written) -> None:
        """Set aside, from now on, gradients that lie in any of these: what all engines of a step write."""
        self._forbidden = written.here

    def touch(self) -> None:
        """Tell the libraries that have to know that NumPy's views of their arrays were written to."""
        for library, destinations in self._touched:
            library.mark_written(destinations)

    def quick(self, xs: Sequence[Array]) -> Any:
        """What `gather` gives, if the leaves and gradients are without doubt as they should be; else None."""
        return None

    def replay(self, xs: Sequence[Array], row: Coefficients) -> bool:
        """Take a step of one row like the last one that was prepared; nothing is done where there is any doubt."""
        again, gathered = self.last_step, self.quick(xs)
        if again is None or gathered is None or not again.set(row):
            return False
        again.run(self, gathered)
        self.touch()
        return True

    @abstractmethod
    def gather(self, xs: Sequence[Array]) -> Any:
        """The gradients, which passed all checks, for `squares` and `prepare`; those set aside that would be lost."""

    @abstractmethod
    def squares(self, k: int, gathered: Any, rows: CoefficientTable) -> list[Array]:
        """For each leaf the sums of squares, block by block, of what part `k` of the program measures.

        As `_trace/_reduction.py` says: a NumPy vector, or a traced one. The rows need not go further than part `k`.
        """

    def norm(self, k: int, gathered: Any, rows: CoefficientTable) -> Any:
        """The 2-norm of what part `k` of the program measures: a float, a 0-d array, or a symbol."""
        return norm_of(self.squares(k, gathered, rows), self.leaves)

    def known(self, k: int) -> float:
        """What `norm` gave for part `k`, where that was a symbol."""
        raise NotImplementedError

    @abstractmethod
    def prepare(self, gathered: Any, rows: CoefficientTable) -> Commit:
        """All of the step that may fail, and nothing written."""


def norm_of(sums: Sequence[Array], leaves: Sequence[Leaf]) -> Any:
    """The 2-norm from the block sums of all leaves: on the host, where they are NumPy's."""
    on_host = all(isinstance(v, np.ndarray) for v in sums)
    return norm(np if on_host else leaves[0].library.xp, sums)


def viewed(library: Library, x: Array) -> NDArray:
    """NumPy's view of an array that an engine did not refuse."""
    found = library.numpy_view(x)
    assert found is not None  # noqa: S101 - it was asked for then
    return found
