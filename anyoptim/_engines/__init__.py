"""Engines: machines that run an update rule over leaves, and the choice among them.

An engine is given a rule and leaves and knows nothing else: no container, no optimizer, no other engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anyoptim._engines import portable
from anyoptim._engines._leaf import Leaf, Result, Rule
from anyoptim._engines.portable import start

__all__ = ["ENGINES", "Leaf", "Result", "Rule", "engine", "start"]

Run = Callable[[Rule, Sequence[Leaf]], list[Result]]

ENGINES: Mapping[str, Run] = {"portable": portable.run}


def engine(name: Any) -> Run:
    """The engine of this name; None leaves the choice to anyoptim. Raises ValueError with the names there are."""
    if name is None:
        return portable.run
    if name not in ENGINES:
        raise ValueError(f"engine is {name!r}; wanted one of {', '.join(map(repr, ENGINES))}, or None")
    return ENGINES[name]
