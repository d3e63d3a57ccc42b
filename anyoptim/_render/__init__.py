"""Graphs as source text that a person can read. Needs no device and no compiler.

One module for each kind of text, which only those import who run it.
"""

__all__: list[str] = []
