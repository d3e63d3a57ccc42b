"""The engines there are, and the choice among them: a new one is a folder beside this file and an entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from anyoptim._arrays import Array, Library
from anyoptim._engines._base import Engine, Leaf, Plan
from anyoptim._engines.blocked import Blocked
from anyoptim._engines.compiled import Compiled
from anyoptim._engines.cuda import Cuda
from anyoptim._engines.jax import Jax
from anyoptim._engines.portable import Portable
from anyoptim._engines.portable._plan import LazyPlan
from anyoptim._trace._program import Coefficients, Program

__all__ = [
    "ENGINES",
    "GENERATING",
    "LAZY",
    "Choice",
    "EngineName",
    "Plans",
    "check_engine",
    "choices",
    "precompile",
    "source",
]

EngineName = Literal["cuda", "compiled", "blocked", "jax", "portable"]
"""The name of an engine, for those who check types: `def train(engine: ao.EngineName | None) -> None`.

>>> name: ao.EngineName = "portable"
>>> ao.SGD(lr=0.5, engine=name).update(1.0, 1.0)
0.5
"""

ENGINES: Mapping[str, Engine] = {e.name: e for e in (Cuda(), Compiled(), Blocked(), Jax(), Portable())}
"""From the fastest to the one that takes all."""

Plans = Mapping[str, Callable[[Program, Sequence[Leaf]], Plan]]
"""Plans to take instead of those that engines of these names make."""

LAZY: Plans = {"jax": LazyPlan, "portable": LazyPlan}
"""Plans that leave lazy what is lazy, and use up no array of the state."""

GENERATING = [name for name, engine in ENGINES.items() if engine.generates]
"""Those of whose rules `source` shows what is run."""


class Choice(NamedTuple):
    """Which engine runs a leaf, and why not a faster one."""

    engine: str
    reason: str | None


def choices(name: str | None, programs: Sequence[Program], leaves: Sequence[Leaf], xs: Sequence[Array]) -> list[Choice]:
    """For each leaf, with its program, the engine of this name, or the fastest, and why not a faster one."""
    return [_choose(name, program, leaf, x) for program, leaf, x in zip(programs, leaves, xs, strict=True)]


def _choose(name: str | None, program: Program, leaf: Leaf, x: Array) -> Choice:
    """The engine of this name, or the fastest; where it can't take the leaf, the fastest after it that can."""
    reason: str | None = None
    array_rule, faster = program.array_rule, name is not None
    for engine in ENGINES.values():
        chosen = engine.name == name
        faster = faster and not chosen  # than the one of this name
        if not engine.reaches(leaf):
            continue
        if array_rule is not None and not engine.array_rules:
            why: str | None = f"{array_rule} works on whole arrays"
        elif faster:
            why = f"engine={name!r}"
        else:
            why = engine.why_not(program, leaf, x, chosen)
        if why is None:
            break
        reason = why
    return Choice(engine.name, reason)


def check_engine(name: Any) -> None:
    """Raise ValueError, with the names there are, if no engine has this one; None leaves the choice to anyoptim.

    And ImportError for one whose packages are missing.
    """
    if name is None:
        return
    if not (isinstance(name, str) and name in ENGINES):
        raise ValueError(f"engine is {name!r}; wanted one of {', '.join(map(repr, ENGINES))}, or None")
    if why := ENGINES[name].unavailable():
        raise ImportError(f"engine is {name!r}, but {why}")


def precompile(program: Program, row: Coefficients, library: Library, p: Array) -> None:
    """Compile at once what runs a program on arrays like this one, if its engine compiles, and use it from now on.

    The row has the names and static options of the program's coefficients. Raises ImportError where packages are
    missing.
    """
    engine = next(engine for engine in ENGINES.values() if engine.reaches(Leaf(library, p, ())))
    check_engine(engine.name)
    engine.precompile(program, row, library, p)


def source(engine: str, programs: Sequence[tuple[Program, Coefficients, Sequence[int]]], dtype: str) -> str:
    """The text of what an engine runs: for each program, with its row, a pass for each reduction, then the step."""
    passes = [(program, k, row[:k]) for program, row, reductions in programs for k in (*reductions, None)]
    return ENGINES[engine].source(passes, dtype)
