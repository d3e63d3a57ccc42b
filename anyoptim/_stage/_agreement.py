"""What ranks have to agree on before a step is taken, in which each has its own parts of the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from anyoptim._arrays import Array, Library
from anyoptim._arrays._tree import Name

if TYPE_CHECKING:
    from anyoptim._core._pipeline import Params
    from anyoptim._machine._ranks import Meeting
    from anyoptim._stage._stage import Stage
    from anyoptim._stage._state import FlatState
    from anyoptim._trace._coefficients import CoefficientTable

__all__ = ["Form", "check_whole", "note_coefficients", "note_form"]


def check_whole(meeting: Meeting) -> None:
    """Raise ValueError where ranks have parts of the parameters, of which this rank would update parts."""
    if meeting.together:
        raise ValueError(
            "a part of a parameter is to be updated by an optimizer with comm, whose ranks may name different ones; "
            "wanted update without at"
        )


class Form:
    """What has to be the same on all ranks of parameters and stays from step to step: not their shapes and values.

    Raises ValueError or TypeError for what can't be divided among ranks.
    """

    def __init__(self, stages: Sequence[Stage], params: Params) -> None:
        import hashlib  # noqa: PLC0415 - for those who have ranks: importing takes time

        tree, ps, owner, groups = params
        self.paths = [tree.path(i) for i in range(len(ps))]
        self.each: list[str] = []
        """What each parameter is, in words."""
        self.devices: dict[tuple[Library, int], Name] = {}
        """The CUDA devices, by the libraries that number them: of each the name of a parameter there."""
        for i, p in enumerate(ps):
            if p is None:
                self.each.append("None")
                continue
            if (why := p.library.part_refusal(p.array)) is not None:
                wanted = "wanted an array of which this rank has all, or no comm"
                raise TypeError(f"{tree.name(i)} {why}; {wanted}")
            if (number := p.library.cuda(p.array)) is not None:
                self.devices.setdefault((p.library, number), tree.name(i))
            whole = next((stages[k] for k in groups.branch(i).stages if stages[k].array_rule), None)
            if whole is not None:
                raise ValueError(
                    f"{tree.name(i)} is updated by {whole!r}, which looks at the array as a whole, of which each rank "
                    "has a part; wanted stages of which each element goes by itself, or no comm"
                )
            group = f", group {groups.group_of[i]}" if len(groups.overrides) > 1 else ""
            tied = f", the array at {tree.path(owner[i])!r}" if owner[i] != i else ""
            self.each.append(f"{p.dtype} of {len(p.array.shape)} axes{group}{tied}")
        self.digest = hashlib.sha256(repr((self.paths, self.each)).encode()).digest()


def note_form(
    meeting: Meeting, call: str, stages: Sequence[Stage], form: Form, xs: Sequence[Array | None], flat: FlatState
) -> None:
    """Note what a call is given that has to be the same on all ranks.

    Raises RuntimeError in a CUDA graph, whose replays would tell the other ranks nothing.
    """
    for (library, number), name in form.devices.items():
        if library.capturing(number):
            raise RuntimeError(
                f"{name} is updated in a CUDA graph, which can't have what ranks tell each other on the host; "
                "wanted updates outside of it, or no comm"
            )
    first = {"the call": call, "the steps taken": str(flat.step)}
    first["the stages"] = ", ".join(type(stage).__name__ for stage in stages)
    for k, (stage, kept) in enumerate(zip(stages, flat.scalars, strict=True)):
        first[f"{type(stage).__name__}, stage {k}"] = f"{_given(stage)}; it keeps {kept}"
    moves, t, pending = [x is not None for x in xs], [*map(str, flat.t)], flat.pending or [0] * len(xs)

    def facts() -> Mapping[str, str]:
        both = zip(form.paths, form.each, moves, t, pending, strict=True)
        each = {
            f"params at {path!r}": what
            if what == "None"
            else f"{what}, {'a' if moves else 'no'} gradient, {count} steps taken"
            + (f", {gathered} gradients gathered" if gathered else "")
            for path, what, moves, count, gathered in both
        }
        return first | each | {"the order of params": ", ".join(form.paths)}

    meeting.note((first, form.digest, moves, t, pending), facts)


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
            said = {name: repr(v) for name, v in given.items() if type(v) in _PLAIN}
            said |= {name: "a schedule" for name, v in given.items() if callable(v)}
            found |= {f"{type(stage).__name__}.{name}, stage {k}": text for name, text in said.items()}
        for i, r in zip(moving, of, strict=True):
            each: dict[str, list[str]] = {}
            for name, c in ((name, c) for part in rows.distinct[r] for name, c in part.items()):
                each.setdefault(name, []).append(str(c))  # of several stages, maybe
            found |= {f"the coefficient {name} of params at {paths[i]!r}": ", ".join(cs) for name, cs in each.items()}
        return found

    meeting.note((rows.distinct, [*of]), facts)
