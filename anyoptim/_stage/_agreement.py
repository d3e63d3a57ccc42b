"""What ranks have to agree on before a step is taken, in which each has its own parts of the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from anyoptim._arrays import Array

if TYPE_CHECKING:
    from anyoptim._core._pipeline import Params
    from anyoptim._core._state import FlatState
    from anyoptim._machine._ranks import Meeting
    from anyoptim._stage._stage import Stage
    from anyoptim._trace._coefficients import CoefficientTable

__all__ = ["check_whole", "note_coefficients", "note_form"]


def check_whole(meeting: Meeting) -> None:
    """Raise ValueError where ranks have parts of the parameters, of which this rank would update parts."""
    if meeting.together:
        raise ValueError(
            "a part of a parameter is to be updated by an optimizer with comm, whose ranks may name different ones; "
            "wanted update without at"
        )


def note_form(
    meeting: Meeting, call: str, stages: Sequence[Stage], params: Params, xs: Sequence[Array | None], flat: FlatState
) -> None:
    """Note what a call is given that has to be the same on all ranks: all but the shapes and values of arrays.

    Raises ValueError or TypeError for what can't be divided among ranks.
    """
    if not meeting.together:
        return
    tree, ps, owner, groups = params
    for i, p in enumerate(ps):
        if p is None:
            continue
        if (why := p.library.part_refusal(p.array)) is not None:
            raise TypeError(f"{tree.name(i)} {why}; wanted an array of which this rank has all, or no comm")
        if (number := p.library.cuda(p.array)) is not None and p.library.capturing(number):
            raise RuntimeError(
                f"{tree.name(i)} is updated in a CUDA graph, which can't have what ranks tell each other on the host; "
                "wanted updates outside of it, or no comm"
            )
        for stage in [stages[k] for k in groups.branch(i).stages]:
            if stage.array_rule:
                raise ValueError(
                    f"{tree.name(i)} is updated by {stage!r}, which looks at the array as a whole, of which each rank "
                    "has a part; wanted stages of which each element goes by itself, or no comm"
                )
    names = ", ".join(type(stage).__name__ for stage in stages)
    each = [
        "None"
        if p is None
        else f"{p.dtype} of {len(p.array.shape)} axes, {'no' if x is None else 'a'} gradient, {t} steps taken"
        + (f", {n} gradients gathered" if n else "")
        + (f", group {groups.group_of[i]}" if len(groups.overrides) > 1 else "")
        + (f", the array at {tree.path(owner[i])!r}" if owner[i] != i else "")
        for i, (p, x, t, n) in enumerate(zip(ps, xs, flat.t, flat.pending or [0] * len(ps), strict=True))
    ]

    paths = [tree.path(i) for i in range(len(ps))]
    first = {"the call": call, "the stages": names, "the steps taken": str(flat.step)}
    for k, (stage, kept) in enumerate(zip(stages, flat.scalars, strict=True)):
        first[f"{type(stage).__name__}, stage {k}"] = f"{_given(stage)}; it keeps {kept}"

    def facts() -> Mapping[str, str]:
        order = {"the order of params": ", ".join(paths)}
        return first | {f"params at {path!r}": text for path, text in zip(paths, each, strict=True)} | order

    meeting.note((first, paths, each), facts)


def _given(stage: Stage) -> str:
    """The arguments of a stage that are plain, but for hyperparameters that show in coefficients, with their paths.

    What a stage that keeps numbers is given may show in these alone.
    """
    shown = () if stage.scalars else stage.hyperparameters
    plain = {name: value for name, value in vars(stage).items() if type(value) in _PLAIN and name[0] != "_"}
    return ", ".join(f"{name} = {value!r}" for name, value in plain.items() if name not in shown)


_PLAIN = {bool, float, int, str}


def note_coefficients(
    meeting: Meeting, stages: Sequence[Stage], paths: Sequence[str], moving: Sequence[int], rows: CoefficientTable
) -> None:
    """Note the coefficients of a step: those of other hyperparameters differ, or of schedules that others have made."""
    if not meeting.together:
        return
    of = rows.row_of_leaf

    def facts() -> Mapping[str, str]:
        found = dict[str, str]()
        for k, stage in enumerate(stages):  # what a user has set, before what has become of it
            given = {name: vars(stage).get(name) for name in stage.hyperparameters}
            found |= {f"{type(stage).__name__}.{n}, stage {k}": repr(v) for n, v in given.items() if type(v) in _PLAIN}
        for i, r in zip(moving, of, strict=True):
            each = ((name, c) for part in rows.distinct[r] for name, c in part.items())
            found |= {f"the coefficient {name} of params at {paths[i]!r}": str(c) for name, c in each}
        return found

    meeting.note((rows.distinct, [*of]), facts)
