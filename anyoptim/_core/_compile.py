"""Compiling ahead of the first steps, and the text of what is compiled."""

from __future__ import annotations

from typing import Any

from anyoptim._arrays import library
from anyoptim._core._pipeline import Params, Pipeline
from anyoptim._core._reductions import distinct
from anyoptim._engines import GENERATING, precompile, source
from anyoptim._stage._elements import by_element
from anyoptim._stage._stage_program import StageProgram

__all__ = ["compile_for", "kernel_source"]

_DTYPES = ("float32", "float64", "complex64", "complex128")


def compile_for(pipeline: Pipeline, params: Params) -> None:
    """Compile what runs these parameters. Parameters that no engine compiles for are passed over."""
    groups = params.groups
    kinds = {
        (groups.branch(i), p.dtype, p.library, p.library.cuda(p.array)): (p.array, groups.overrides[groups.group_of[i]])
        for i, p in enumerate(params.ps)
        if p is not None and groups.branch(i).program.array_rule is None
    }
    for (branch, _, own, _), (array, overrides) in kinds.items():
        block = own.block(array)
        precompile(branch.program, pipeline.sample(branch, overrides=overrides), library(block), block)


def kernel_source(pipeline: Pipeline, engine: str, dtype: str) -> str:
    """The code that an engine makes from the rules. Raises ValueError where it makes none."""
    if not isinstance(engine, str) or engine not in GENERATING:
        *others, last = map(repr, GENERATING)
        raise ValueError(f"engine is {engine!r}; wanted {', '.join(others)} or {last}, whose code is generated")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        *others, last = map(repr, _DTYPES)
        raise ValueError(f"dtype is {dtype!r}; wanted {', '.join(others)} or {last}")
    branches = [_with_arrays(pipeline, branch) for branch in pipeline.branches.values()]
    array_rules = [branch.program.array_rule for branch in branches if branch.program.array_rule is not None]
    if array_rules:
        raise ValueError(f"{array_rules[0]} works on whole arrays: {engine!r} makes no code of it")
    places = range(len(pipeline.stages))
    given: list[Any] = [tuple(branch.elements.get(k, {}) for k in places) for branch in branches]
    rows = [(of, pipeline.sample(of, overrides=own)) for of, own in zip(branches, given, strict=True)]
    return source(engine, [(branch.program, row, [*distinct(branch, row)]) for branch, row in rows], dtype)


def _with_arrays(pipeline: Pipeline, branch: StageProgram) -> StageProgram:
    """A branch for a parameter of which all that is given element by element is given as arrays."""
    stages = pipeline.stages
    names = ((k, name) for k in branch.stages for name in stages[k].hyperparameters)
    return branch.reading([(k, name) for k, name in names if by_element(getattr(stages[k], name))])
