"""What a solver remembers, as plain dicts by the paths of parameters, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from anyoptim._arrays._quiet import quiet
from anyoptim.solvers._function import Function

if TYPE_CHECKING:
    from anyoptim.solvers._solver import Run, Solver

__all__ = ["restored", "written"]

VERSION = 1
"""The version of the format."""


def written(solver: Solver, run: Run) -> dict[str, Any]:
    """The state of a solver; that of one that has not begun, or has to begin anew, has no vectors."""
    run = run.settled()
    begun = run.function is not None
    paths = run.begun.paths if begun else []
    ps = run.space.ps if begun else []
    vectors = {
        name: {path: p.library.copied(a) for path, p, a in zip(paths, ps, vector, strict=True)}
        for name, vector in run.vectors.items()
    }
    return {
        "version": VERSION,
        "method": type(solver).__name__,
        "numbers": {name: _copied(value) for name, value in run.numbers.items()},
        "vectors": vectors,
    }


def restored(solver: Solver, state: Any, params: Any) -> Run:
    """The run that a state is of, with other parameters. Raises ValueError or TypeError for what is no such state."""
    run = type(solver.run)()
    _check(state, type(solver).__name__, run)
    run.numbers |= {name: _copied(value) for name, value in state["numbers"].items()}
    if not state["vectors"]:
        return run
    names = {"origin", "g", *solver.kept_vectors()}
    if set(state["vectors"]) != names:
        raise ValueError(f"state['vectors'] has {sorted(state['vectors'])}; wanted {sorted(names)} for {solver!r}")
    function = Function(params, solver.engine)
    paths = function.tree.paths
    saved = state["vectors"]["g"]
    if unknown := [path for path in saved if path not in paths]:
        raise ValueError(f"state['vectors'] has {unknown[0]!r}, which is no path of params")
    function.moving = [i for i, path in enumerate(paths) if path in saved]
    space = function.space
    for name, vector in state["vectors"].items():
        run.vectors[name] = space.zeros()
        for k, (path, p, like) in enumerate(zip(function.paths, space.ps, run.vectors[name], strict=True)):
            if path not in vector:
                raise ValueError(f"state['vectors'][{name!r}] has no {path!r}, which has a gradient")
            array = vector[path]
            host = array if isinstance(array, np.ndarray) else p.library.to_host(array)
            if host.shape != tuple(like.shape):
                raise ValueError(
                    f"state['vectors'][{name!r}][{path!r}] has shape {host.shape}; wanted {tuple(like.shape)}"
                )
            with quiet():
                run.vectors[name][k] = p.library.with_values(like, host)
    run.function = function
    return run


def _check(state: Any, method: str, run: Run) -> None:
    """Raise ValueError or TypeError for what is no state of a method. `run` has the numbers that there are always."""
    wanted = {"version", "method", "numbers", "vectors"}
    if not isinstance(state, Mapping) or set(state) != wanted:
        given = sorted(state) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(f"state has {given}; wanted {sorted(wanted)}, which state_dict() of a solver gives")
    if state["version"] != VERSION:
        raise ValueError(f"state['version'] is {state['version']!r}; wanted {VERSION}, which this anyoptim reads")
    if state["method"] != method:
        raise ValueError(f"state is of {state['method']}; wanted one of {method}")
    for name in ("numbers", "vectors"):
        if not isinstance(state[name], Mapping):
            raise TypeError(f"state[{name!r}] is a {type(state[name]).__name__}; wanted a dict")
    if odd := [name for name in run.numbers if not isinstance(state["numbers"].get(name), int | float)]:
        raise ValueError(f"state['numbers'][{odd[0]!r}] is {state['numbers'].get(odd[0])!r}; wanted a number")


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray | list) else value
