"""The choices of a layer whose arrays are small, drawn by NumPy for several calls at once, and kept as bits."""

from __future__ import annotations

from typing import Any

from anyoptim._engines._base import NDArray
from anyoptim.random import _blocked_words
from anyoptim.random._mask_spec import MaskSpec
from anyoptim.random._rounds import CHOICES, MASK

__all__ = ["Lookahead"]

CALLS = 64
"""The most calls that are drawn at once; together they also fit a block of counters, and so 10 KiB."""


class Lookahead:
    """Which elements are kept in a layer's last call and in the next ones.

    A backward finds there what its forward drew, and a forward what was drawn with one before it: for a small array,
    NumPy's calls cost far more than what they do. A call that is not there is drawn: the next one after what is there
    with others, twice as many as there were, and any other alone. Masks do not depend on it: copies and pickles of a
    layer go without.
    """

    __slots__ = ("_drawn",)

    def __init__(self) -> None:
        self._drawn: tuple[tuple[int, int, int], int, NDArray] | None = None
        """What it was drawn for, the first call, and a row for each: one object, so that no exception comes between."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Lookahead, ()

    def kept(self, spec: MaskSpec, n: int) -> NDArray:
        """Which of n elements, from choice 0 on, the call keeps: bits, as `_blocked_words` has them."""
        drawn, call = self._drawn, spec.call
        counters = -(-n // CHOICES)
        what = spec.threshold, spec.key, counters
        calls = 1
        if drawn is not None and drawn[0] == what:
            _, first, rows = drawn
            if 0 <= call - first < len(rows):
                row: NDArray = rows[call - first]
                return row
            if call - first == len(rows):
                most = min(CALLS, _blocked_words.COUNTERS // counters, (1 << 32) - (call & MASK))
                calls = max(1, min(2 * len(rows), most))
        rows = _blocked_words.kept_of_calls(spec, counters, calls)
        self._drawn = what, call, rows
        first_row: NDArray = rows[0]
        return first_row
