"""What tests of one room need of the insides of another: if that moves, this changes, and its own tests."""

from __future__ import annotations

from anyoptim import _checks as checks
from anyoptim import _reduction as reduction
from anyoptim._arrays import COMPUTE, library
from anyoptim._memory import Memory, near
from anyoptim._program import MOVE, Part, Program, Row, on_value, options
from anyoptim._trace import (
    LOGICAL,
    Graph,
    Range,
    Scalar,
    Symbol,
    evaluate,
    range_of,
    symbol,
    trace,
    trace_measure,
)
from anyoptim._tree import Tree

__all__ = [
    "COMPUTE",
    "LOGICAL",
    "MOVE",
    "Graph",
    "Memory",
    "Part",
    "Program",
    "Range",
    "Row",
    "Scalar",
    "Symbol",
    "Tree",
    "checks",
    "evaluate",
    "library",
    "near",
    "on_value",
    "options",
    "range_of",
    "reduction",
    "symbol",
    "trace",
    "trace_measure",
]
