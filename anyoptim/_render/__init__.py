"""Graphs as source text that a person can read. Needs no device and no compiler."""

from anyoptim._render.loops import Loop, loop, loop_measure
from anyoptim._render.ufuncs import UFUNCS, Source, blocked, blocked_measure

__all__ = ["UFUNCS", "Loop", "Source", "blocked", "blocked_measure", "loop", "loop_measure"]
