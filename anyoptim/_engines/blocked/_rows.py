"""The plan for leaves of which rows have coefficients of their own: the calls of `blocked`, with columns of numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from anyoptim._arrays import Array
from anyoptim._engines._base import Commit, Leaf, NDArray, Result
from anyoptim._engines.blocked._functions import BoundFunction, block_function
from anyoptim._engines.blocked._plan import BLOCK, BlockedPlan
from anyoptim._machine._completed import exhaust
from anyoptim._machine._scratch import give, scratch
from anyoptim._machine._threads import Call
from anyoptim._trace._coefficients import CoefficientTable
from anyoptim._trace._counts import RowCoefficients
from anyoptim._trace._program import Program

__all__ = ["RowsPlan"]


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
