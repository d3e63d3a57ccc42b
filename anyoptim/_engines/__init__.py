"""Engines: machines that run an update rule over leaves, and the choice among them.

An engine is given a rule and leaves and knows nothing else: no container, no optimizer, no other engine. It
prepares a step, which may fail, and gives back the commit, which writes and may not: so that a step over
several engines is taken whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anyoptim._engines import blocked, portable
from anyoptim._engines._leaf import Commit, Leaf, Result, Rule
from anyoptim._engines.portable import compute, start

__all__ = ["ENGINES", "Commit", "Engine", "Leaf", "Result", "Rule", "compute", "known", "prepare", "start"]

Engine = Callable[[Rule, Sequence[Leaf]], Commit]

ENGINES: Mapping[str, Engine] = {"portable": portable.prepare, "blocked": blocked.prepare}


def known(name: Any) -> None:
    """Raise ValueError, with the names there are, if no engine has this one; None leaves the choice to anyoptim."""
    if name is not None and name not in ENGINES:
        raise ValueError(f"engine is {name!r}; wanted one of {', '.join(map(repr, ENGINES))}, or None")


def prepare(name: str | None, rule: Rule, leaves: Sequence[Leaf]) -> Commit:
    """Prepare the step on each engine that has some of the leaves; the commit gives all results in their order."""
    prepared = [(of, run(rule, [leaves[i] for i in of])) for run, of in _assigned(name, leaves)]

    def commit() -> list[Result]:
        results = {i: result for of, commit in prepared for i, result in zip(of, commit(), strict=True)}
        return [results[i] for i in range(len(leaves))]

    return commit


def _assigned(name: str | None, leaves: Sequence[Leaf]) -> list[tuple[Engine, list[int]]]:
    """Which engine runs which leaves. What an engine can't take, whatever its name, the portable one does."""
    taken = [name != "portable" and blocked.takes(leaf) for leaf in leaves]
    groups = [(run, [i for i, t in enumerate(taken) if t == wanted]) for run, wanted in _CHOICE]
    return [(run, of) for run, of in groups if of]


# In this order: the portable engine has read all it needs when it has prepared, but a gradient of the blocked one
# may lie in the memory of a parameter that the portable one will write to.
_CHOICE: Sequence[tuple[Engine, bool]] = ((blocked.prepare, True), (portable.prepare, False))
