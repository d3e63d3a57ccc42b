"""Reductions over ranks, each of which knows the rows of its own elements: one call for each reduction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anyoptim._machine._ranks import Meeting
from anyoptim._trace._exact_sum import Kind, one_row

__all__ = ["rows_of_all", "rows_of_each"]

Tables = list[Any]
"""Tables of rows, which together are what is known of some elements."""


def rows_of_all(meeting: Meeting, kind: Kind, tables: Sequence[Any]) -> Tables:
    """What all ranks know of the elements of all their tables."""
    by_dtype: dict[Any, Tables] = {}
    for table in tables:  # those of JAX without x64 are floats, and integers stay exact beside them
        by_dtype.setdefault(table.dtype, []).append(table)
    own = [one_row(kind, np.concatenate(alike)) for alike in by_dtype.values()]
    return [table for of_rank in meeting.exchange(own) for table in of_rank]


def rows_of_each(meeting: Meeting, kind: Kind, tables: Sequence[Any]) -> list[Tables]:
    """For each table what all ranks know of these elements."""
    own = [one_row(kind, table) for table in tables]
    alike = len({row.dtype for row in own}) == 1
    of_ranks = meeting.exchange(np.concatenate(own) if alike else own)
    return [[of[i : i + 1] if isinstance(of, np.ndarray) else of[i] for of in of_ranks] for i in range(len(own))]
