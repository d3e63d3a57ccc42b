"""What tests of one room need of the insides of another: if that moves, this changes, and its own tests."""

from __future__ import annotations

from anyoptim._arrays import COMPUTE, library
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._files import replacing
from anyoptim._arrays._memory import MemoryLayout, may_overlap, merged_ranges
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._selection import Selection
from anyoptim._arrays._tree import Tree
from anyoptim._engines import ENGINES, Dispatch
from anyoptim._engines.blocked import _rows as rows_plan
from anyoptim._engines.blocked._source import blocked
from anyoptim._engines.cuda._source import coefficients
from anyoptim._machine import _array_headers as headers
from anyoptim._machine import _completed as completed
from anyoptim._machine import _cuda_device as cuda_device
from anyoptim._machine import _disk_cache as disk_cache
from anyoptim._machine import _elsewhere as elsewhere
from anyoptim._machine import _machine_code as machine_code
from anyoptim._machine import _ranks as ranks_room
from anyoptim._machine import _scratch as scratch
from anyoptim._machine import _threads as threads
from anyoptim._machine import _warmup as warmup
from anyoptim._machine._c_elements import ELEMENTS
from anyoptim._machine._ranks import meeting
from anyoptim._trace import _exact_sum as reduction
from anyoptim._trace import _exact_sum_numpy as reduction_numpy
from anyoptim._trace import _exact_sum_text as reduction_text
from anyoptim._trace import _other_names as other_names
from anyoptim._trace._coefficients import rows_of
from anyoptim._trace._expressions import Range, evaluate, range_of
from anyoptim._trace._graph import Graph, trace, trace_reduction
from anyoptim._trace._operations import LOGICAL
from anyoptim._trace._program import MOVE, Coefficients, Part, Program, on_nothing, on_value, static_options
from anyoptim._trace._symbols import Scalar, Symbol, symbol
from anyoptim.random import _compiled as dropout_compiled
from anyoptim.solvers._box import Box
from anyoptim.solvers._vectors import Space

__all__ = [
    "COMPUTE",
    "ELEMENTS",
    "ENGINES",
    "LOGICAL",
    "MOVE",
    "Box",
    "Coefficients",
    "Dispatch",
    "Graph",
    "MemoryLayout",
    "Part",
    "Program",
    "Range",
    "Scalar",
    "Selection",
    "Space",
    "Symbol",
    "Tree",
    "blocked",
    "checks",
    "coefficients",
    "completed",
    "cuda_device",
    "disk_cache",
    "dropout_compiled",
    "elsewhere",
    "evaluate",
    "headers",
    "library",
    "machine_code",
    "may_overlap",
    "meeting",
    "merged_ranges",
    "on_nothing",
    "on_value",
    "other_names",
    "quiet",
    "range_of",
    "ranks_room",
    "reduction",
    "reduction_numpy",
    "reduction_text",
    "replacing",
    "rows_of",
    "rows_plan",
    "scratch",
    "static_options",
    "symbol",
    "threads",
    "trace",
    "trace_reduction",
    "warmup",
]
