"""Hyperparameters that differ between groups of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from anyoptim._arrays._selection import Selection, Selector, shown
from anyoptim._stage._stage import Gate, Stage, told
from anyoptim._trace._hyperparameters import Hyper, scheduled

__all__ = ["groups"]


class groups(Mapping[Any, Any]):  # noqa: N801 - it is called like a function
    """Hyperparameters for some parameters that differ from those of all others, by patterns of their paths.

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

    `groups` stands anywhere in a chain, which keeps it as `optimizer.groups`. The parameters of all groups go through
    one pass, with a row of coefficients for each group.

    Args:
        of: for each pattern the hyperparameters, or None.

    Raises TypeError and ValueError for what is none of that: here, when a chain is made, or at the first update, when a
    parameter has no group or two, or a group no parameter.

    >>> optimizer = ao.chain(ao.SGD(lr=1.0), ao.groups({"**.bias": {"lr": 0.1}, ...: {}}))
    >>> optimizer.update({"W": np.zeros(1), "bias": np.zeros(1)}, {"W": np.ones(1), "bias": np.ones(1)})
    {'W': array([-1.]), 'bias': array([-0.1])}
    """

    def __init__(self, of: Mapping[Any, Mapping[str, Hyper] | None]) -> None:
        if not isinstance(of, Mapping):
            raise TypeError(f"groups was given {of!r}; wanted a dict of patterns and their hyperparameters")
        self.selection: Selection = Selection("groups", of)
        for selector, values in of.items():
            named = isinstance(values, Mapping) and all(isinstance(name, str) for name in values)
            if values is not None and not named:
                raise TypeError(
                    f"groups has {values!r} for {shown(selector)}; wanted a dict of hyperparameters, or None"
                )
        self._values = {selector: None if values is None else _Group(values) for selector, values in of.items()}

    def __getitem__(self, selector: Any) -> Any:
        return self._values[selector]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"groups({{{', '.join(f'{shown(s)}: {values!r}' for s, values in self._values.items())}}})"

    def check(self, selector: Selector, stages: Sequence[Stage], unique: bool) -> None:
        """Raise ValueError or TypeError for a bad value, and for a name that no stage has, or if `unique` several."""
        group = self._values[selector] or _Group({})
        for key, value in group.items():
            places = having(key, stages)
            if not places or (unique and len(places) > 1):
                raise _unclear(selector, key, places, stages)
            name = key.rpartition(".")[2]
            for k in places:
                if isinstance(stages[k], Gate) or stages[k].is_step is not None:
                    raise ValueError(
                        f"groups has {key!r} for {shown(selector)}, but {stages[k]!r} decides for all together"
                    )
                group.use(key, f"{key} of {shown(selector)}", type(stages[k]), name)
            group.checked(key, value)

    def own(self, selector: Selector, stages: Sequence[Stage], branch: Sequence[int]) -> list[Mapping[str, Hyper]]:
        """For each stage the hyperparameters that the group gives it; `branch` are the stages of its parameters.

        Raises ValueError for a name that none of these stages has, or several.
        """
        group = self._values[selector] or _Group({})
        keys_of: list[dict[str, str]] = [{} for _ in stages]
        for key in group:
            places = [k for k in having(key, stages) if k in branch]
            if len(places) != 1:
                raise _unclear(selector, key, places, [stages[k] for k in branch])
            keys_of[places[0]][key.rpartition(".")[2]] = key
        return [_OfOneStage(group, keys) if keys else {} for keys in keys_of]


def having(key: str, stages: Sequence[Stage]) -> list[int]:
    """The places of the stages that have a hyperparameter of this name."""
    kind, _, name = key.rpartition(".")
    return [k for k, stage in enumerate(stages) if name in stage.hyperparameters and kind in {"", type(stage).__name__}]


def _unclear(selector: Selector, key: str, places: Sequence[int], stages: Sequence[Stage]) -> ValueError:
    known = [f"{type(stage).__name__}.{name}" for stage in stages for name in stage.hyperparameters]
    has = f"{len(places)} stages have" if places else "no stage has"
    return ValueError(f"groups has {key!r} for {shown(selector)}, which {has}; wanted one of {', '.join(known)}")


class _Group(MutableMapping[str, Any]):
    """The hyperparameters of one group; its names are fixed when the chain is made."""

    def __init__(self, values: Mapping[str, Hyper]) -> None:
        for name, value in values.items():
            scheduled(name, value)
        self._values = dict(values)
        self._uses: dict[str, dict[tuple[str, type[Stage], str], None]] = {name: {} for name in values}

    def use(self, key: str, label: str, kind: type[Stage], name: str) -> None:
        """Note which hyperparameter of which class of stages a value is for, and what errors call it."""
        self._uses[key][label, kind, name] = None

    def checked(self, key: str, value: Any) -> None:
        """Raise TypeError or ValueError for what is neither a schedule nor a value of the hyperparameter."""
        scheduled(key, value)
        for label, kind, name in () if callable(value) else self._uses[key]:
            kind.hyperparameters[name].value(label, value)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self._values:
            raise KeyError(f"the group has {sorted(self)}; wanted {name!r} there from the beginning")
        self.checked(name, value)
        told(self, name, value)
        self._values = {**self._values, name: value}  # another dict, which tells it from the one before

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


class _OfOneStage(Mapping[str, Any]):
    """The hyperparameters that a group has for one stage, read anew at each step; equal to itself alone."""

    def __init__(self, group: _Group, keys: Mapping[str, str]) -> None:
        self._group, self._keys = group, keys

    @property
    def raw(self) -> Mapping[str, Any]:
        """All that the group has now: another dict once one of its values is set."""
        return self._group._values

    def __getitem__(self, name: str) -> Any:
        return self._group[self._keys[name]]

    def __iter__(self) -> Any:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    __eq__ = object.__eq__
    __hash__ = object.__hash__
