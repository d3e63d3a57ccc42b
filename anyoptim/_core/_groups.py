"""Hyperparameters for some of the parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from anyoptim._core._selection import Own, Selection, Selector, shown
from anyoptim._core._stage import Gate, Stage, told
from anyoptim._trace._hyperparameters import Hyper, scheduled

__all__ = ["groups"]


class groups(Mapping[Any, Any]):  # noqa: N801 - it is called like a function
    """Hyperparameters that are others for some parameters: by patterns of their paths.

    ::

        optimizer = ao.chain(
            ao.AdamW(lr=1e-3),
            ao.groups({"**.bias": {"weight_decay": 0.0}, "encoder.**": None, ...: {}}),
        )
        optimizer.groups["**.bias"]["lr"] = 1e-4

    A path is a parameter's keys, joined by dots: `encoder.0.bias`. In a pattern `*` stands for any part of one key, `?`
    for one character of it, `**` for any number of keys, none too. A function `where(path, p)` may stand for a pattern,
    and `...` for all parameters that nothing else is for. Each parameter has exactly one group.

    The values are numbers or schedules. They can be set, like a stage's own, and are read at every step. A name that
    several stages of the chain have is preceded by that of the stage's class: `WeightDecay.decay`. None instead of
    values freezes the parameters: they rest, whatever their gradient.

    It stands anywhere in a chain, which keeps it as `optimizer.groups`. The parameters of all groups go through one
    pass, with a row of coefficients for each group.

    Args:
        of: for each pattern the hyperparameters, or None.

    Raises TypeError and ValueError for what is none of that: here, when a chain is made, or at the first update, when a
    parameter has no group or two, or a group no parameter.
    """

    def __init__(self, of: Mapping[Any, Mapping[str, Hyper] | None]) -> None:
        if not isinstance(of, Mapping):
            raise TypeError(f"groups was given {of!r}; wanted a dict of patterns and their hyperparameters")
        self.selection = Selection("groups", of)
        for selector, given in of.items():
            if given is not None and not (isinstance(given, Mapping) and all(isinstance(name, str) for name in given)):
                raise TypeError(
                    f"groups has {given!r} for {shown(selector)}; wanted a dict of hyperparameters, or None"
                )
        self._of = {selector: None if given is None else _Group(given) for selector, given in of.items()}

    def __getitem__(self, selector: Any) -> Any:
        return self._of[selector]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)

    def __repr__(self) -> str:
        return f"groups({{{', '.join(f'{shown(s)}: {given!r}' for s, given in self._of.items())}}})"

    def check(self, selector: Selector, stages: Sequence[Stage], unique: bool) -> None:
        """Raise ValueError or TypeError for a name that no stage has, or several if it shall be unique; a bad value."""
        group = self._of[selector] or _Group({})
        for key, value in group.items():
            found = having(key, stages)
            if not found or (unique and len(found) > 1):
                raise _unclear(selector, key, found, stages)
            name = key.rpartition(".")[2]
            for k in found:
                if isinstance(stages[k], Gate) or stages[k].is_step is not None:
                    raise ValueError(
                        f"groups has {key!r} for {shown(selector)}, but {stages[k]!r} decides for all together"
                    )
                group.settle(key, f"{key} of {shown(selector)}", type(stages[k]), name)
            group.checked(key, value)

    def own(self, selector: Selector, stages: Sequence[Stage], of: Sequence[int]) -> list[Mapping[str, Hyper]]:
        """For each of the stages the hyperparameters that are the group's own. `of` are those that its parameters have.

        Raises ValueError for a name that none of these has, or several.
        """
        given: Mapping[str, Hyper] = self._of[selector] or {}
        names: list[dict[str, str]] = [{} for _ in stages]
        for key in given:
            found = [k for k in having(key, stages) if k in of]
            if len(found) != 1:
                raise _unclear(selector, key, found, [stages[k] for k in of])
            names[found[0]][key.rpartition(".")[2]] = key
        return [Own(given, own) if own else {} for own in names]


def having(key: str, stages: Sequence[Stage]) -> list[int]:
    """Which of the stages have a hyperparameter of this name."""
    kind, _, name = key.rpartition(".")
    return [k for k, stage in enumerate(stages) if name in stage.hyperparameters and kind in {"", type(stage).__name__}]


def _unclear(selector: Selector, key: str, found: Sequence[int], stages: Sequence[Stage]) -> ValueError:
    known = [f"{type(stage).__name__}.{name}" for stage in stages for name in stage.hyperparameters]
    has = f"{len(found)} stages have" if found else "no stage has"
    return ValueError(f"groups has {key!r} for {shown(selector)}, which {has}; wanted one of {', '.join(known)}")


class _Group(MutableMapping[str, Any]):
    """The hyperparameters of a group, whose names were settled with the chain."""

    def __init__(self, given: Mapping[str, Hyper]) -> None:
        for name, value in given.items():
            scheduled(name, value)
        self._values = dict(given)
        self._settled: dict[str, dict[tuple[str, type[Stage], str], None]] = {name: {} for name in given}

    def settle(self, key: str, at: str, of: type[Stage], name: str) -> None:
        """Take note of what a value is for: how errors call it, and whose hyperparameter it is."""
        self._settled[key][at, of, name] = None

    def checked(self, key: str, value: Any) -> None:
        """Raise TypeError or ValueError for what is neither a schedule nor a value of the hyperparameter."""
        scheduled(key, value)
        for at, of, name in () if callable(value) else self._settled[key]:
            of.hyperparameters[name].value(at, value)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self._values:
            raise KeyError(f"the group has {sorted(self)}; wanted {name!r} there from the beginning")
        self.checked(name, value)
        told(self, name, value)
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{name!r} can't be taken from a group; wanted another value")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)

    __eq__ = object.__eq__
    __hash__ = object.__hash__
