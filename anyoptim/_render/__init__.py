"""Graphs as source text that a person can read. Needs no device and no compiler."""

from anyoptim._render._elements import ELEMENTS
from anyoptim._render._programs import kernel_of, source_of
from anyoptim._render._tables import CHUNKS, Expressions, chunk_map, rows_of
from anyoptim._render.cuda import CHUNK, REDUCTION, THREADS, Kernel, coefficients
from anyoptim._render.loops import Loop, loop, loop_measure
from anyoptim._render.philox import dropout
from anyoptim._render.ufuncs import UFUNCS, Source, blocked, blocked_measure

__all__ = [
    "CHUNK",
    "CHUNKS",
    "ELEMENTS",
    "REDUCTION",
    "THREADS",
    "UFUNCS",
    "Expressions",
    "Kernel",
    "Loop",
    "Source",
    "blocked",
    "blocked_measure",
    "chunk_map",
    "coefficients",
    "dropout",
    "kernel_of",
    "loop",
    "loop_measure",
    "rows_of",
    "source_of",
]
