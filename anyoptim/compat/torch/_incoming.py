"""The state of torch's optimizers, from which training goes on here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

from anyoptim._arrays import library
from anyoptim._arrays._tree import Tree, listed
from anyoptim._core._optimizer import Optimizer
from anyoptim._stage._groups import groups
from anyoptim.compat._shared import Rated, zero
from anyoptim.compat._transfer import variance
from anyoptim.compat.torch import _methods
from anyoptim.compat.torch._forms import CODECS, FORMS, Codec, Form, Named, form_of, place

__all__ = ["flattened", "from_torch", "matched", "options_of"]

_KEPT = {"params", "param_names", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr"}
"""Keys of a group, noted by torch's optimizers and schedulers, that are no options of the optimizer."""

_LATER = {"foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"}
"""Options that older versions of torch do not have."""

_STRUCTURAL = ("weight_decay", "momentum")
"""Options that add a stage, or make another method, where they are not 0."""

_ROUNDINGS = 100
"""Roundings of float32 by which a number of torch's state may differ from what its options say, without those of
products over all steps."""


def from_torch(
    state_dict: Mapping[str, Any],
    names: Sequence[Any] | None,
    params: Any,
    *,
    method: str | None = None,
    step: int | None = None,
) -> Optimizer:
    """An optimizer for `params` that goes on where one of torch.optim stopped.

    ::

        optimizer = ao.compat.torch.from_torch(torch_optimizer.state_dict(), ["W", "b"], params)

    It has the options that the `param_groups` have now, and torch's state of each parameter. Several groups become
    `groups`, whose values are live: `[*optimizer.groups.values()][1]["lr"]` is that of the second (SGD and Muon count
    no steps: `step` tells how many there were). A scheduler is no part of it: after
    `optimizer.lr = ao.compat.torch.lr_scheduler.StepLR(lr, 30)`, with the first lr, it goes on with the count of steps.
    A chain that clips or averages besides takes the state by
    `chain.load_state_dict(optimizer.state_dict(), params, strict=False)`.

    Args:
        state_dict: what `state_dict()` gave of an optimizer of those that `ao.compat.torch` has.
        names: for each of torch's parameters, in their order, the path of ours: its keys, joined by dots. None takes
            the names that torch was given with the parameters.
        params: the parameters, these and no others, of any library and on any device. Only their names, shapes and
            dtypes are looked at; torch's values are the caller's to copy.
        method: the name of torch's class, where an older torch does not tell AdamW from Adam.
        step: how many steps were taken, where torch doesn't count them (SGD, Muon): what schedules go on from.

    Raises ValueError or TypeError, with the name of the parameter, for what does not fit, and NotImplementedError for
    what can't be had here, such as groups that differ in `amsgrad`.

    >>> import torch
    >>> w = torch.ones(2, requires_grad=True)
    >>> theirs = torch.optim.Adam([w], lr=0.1)
    >>> w.sum().backward()
    >>> theirs.step()
    >>> ours = ao.compat.torch.from_torch(theirs.state_dict(), ["w"], {"w": w.detach()})
    >>> ours.state.step, ours.lr
    (1, 0.1)
    """
    param_groups = _groups(state_dict)
    name = _recognised([set(group) for group in param_groups], method)
    options = [options_of(name, group) for group in param_groups]
    if name == "AdamW":
        name, options = "Adam", [{**group, "decoupled_weight_decay": True} for group in options]
    paths = _paths(names, param_groups)
    tree = Tree("params", params)
    leaves = [tree.path(i) for i, p in enumerate(tree.leaves) if p is not None]
    matched([path for group in paths for path in group], leaves)
    optimizer, form, values = _optimizer(name, options, paths)
    state = optimizer.state_dict(optimizer.init(params))
    theirs = _states(state_dict["state"], param_groups)
    for n, group in enumerate(param_groups):
        for i, path in zip(group["params"], paths[n], strict=True):
            t = state["t"][path] = _count(form, theirs.get(i), path, step)
            if i in theirs:
                _take(form, optimizer, state["stages"], path, t, theirs[i], values[n], options[n])
    state["step"] = max(state["t"].values(), default=0) if step is None else step
    if not state["step"]:
        state["t"] = {}  # as before the first update
    optimizer.load_state_dict(state, params)
    return optimizer


def _groups(state_dict: Any) -> list[Mapping[str, Any]]:
    """The parameter groups of a torch optimizer's state. Raises ValueError where there are none."""
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise ValueError(
            "state_dict has no state and param_groups; wanted what state_dict() of a torch optimizer gives"
        )
    param_groups = list(state_dict["param_groups"])
    if not param_groups:
        raise ValueError("state_dict['param_groups'] is empty; wanted at least one group")
    return param_groups


def _states(state: Mapping[Any, Any], param_groups: Sequence[Mapping[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Torch's state of each parameter that has one. Raises ValueError for one that is in no group."""
    ids = {i for group in param_groups for i in group["params"]}
    strange = [repr(i) for i in state if i not in ids]
    if strange:
        raise ValueError(f"state_dict['state'] has {listed(strange)}, which no group has")
    present = {i: {key: value for key, value in entries.items() if value is not None} for i, entries in state.items()}
    return {i: entries for i, entries in present.items() if entries}


def _defaults(name: str) -> dict[str, Any]:
    return {key: argument.default for key, argument in signature(getattr(_methods, name)).parameters.items()}


def options_of(name: str, group: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a torch class: those of a group, and the defaults of others."""
    return {**_defaults(name), **{key: value for key, value in group.items() if key not in _KEPT}}


def _recognised(groups: Sequence[set[str]], method: str | None) -> str:
    """The name of the torch class whose options these groups have. Raises ValueError where it isn't clear."""
    known = sorted({form.name for forms in FORMS.values() for form in forms} | {"AdamW"})
    keys = set().union(*groups) - _KEPT
    fitting = [name for name in known if keys <= set(_defaults(name)) and set(_defaults(name)) - keys <= _LATER]
    exact = [name for name in fitting if keys == set(_defaults(name))] or fitting
    name = exact[0] if method is None and len(exact) == 1 else method
    if name not in fitting:
        has = f"the groups of state_dict have {', '.join(sorted(keys))}"
        which = " or ".join(fitting)
        raise ValueError(f"{has}, as {which}; wanted method=" if fitting else f"{has}, as none of {', '.join(known)}")
    return name


def _paths(names: Sequence[Any] | None, param_groups: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The paths of the parameters of each group."""
    if names is None:
        if not all("param_names" in group for group in param_groups):
            raise ValueError("names is None, and state_dict has no param_names; wanted the path of each parameter")
        names = [name for group in param_groups for name in group["param_names"]]
    flat = flattened(names)
    sizes = [len(group["params"]) for group in param_groups]
    if len(flat) != sum(sizes):
        raise ValueError(f"names has {len(flat)}, and state_dict has {sum(sizes)} parameters; wanted one for each")
    rest = iter(flat)
    return [[next(rest) for _ in range(size)] for size in sizes]


def flattened(names: Sequence[Any]) -> list[str]:
    """The names in one list, of which some may be in lists. Raises TypeError for what is no name."""
    if isinstance(names, str):
        raise TypeError(f"names is {names!r}; wanted a list of paths")
    flat = [name for entry in names for name in (entry if isinstance(entry, list | tuple) else [entry])]
    if not all(isinstance(name, str) for name in flat):
        raise TypeError(f"names is {names!r}; wanted paths, as strings")
    return flat


def matched(names: Sequence[str], paths: Sequence[str]) -> None:
    """Raise ValueError unless names are these paths, each once."""
    counts, known = Counter(names), set(paths)
    twice = [repr(name) for name, n in counts.items() if n > 1]
    missing = [repr(path) for path in paths if path not in counts]
    strange = [repr(name) for name in names if name not in known]
    for wrong, what in ((twice, "twice"), (strange, "which is no parameter")):
        if wrong:
            raise ValueError(f"names has {listed(wrong)} {what}; wanted each of {listed([*map(repr, paths)])} once")
    if missing:
        raise ValueError(f"names has not {listed(missing)}; wanted each parameter once")


def _optimizer(
    name: str, options: Sequence[Mapping[str, Any]], paths: Sequence[Sequence[str]]
) -> tuple[Optimizer, Form, list[dict[str, Any]]]:
    """The optimizer with these options, its form, and the hyperparameters of each group."""
    # A stage that one group needs, all have.
    needed = [key for key in _STRUCTURAL if any(not zero(group.get(key, 0)) for group in options)]
    made = [_made(name, group, needed) for group in options]
    (first, form), *others = made
    kinds = [[(type(stage), stage.constants) for stage in optimizer.stages] for optimizer, _ in made]
    for n, _ in enumerate(others, 1):
        if kinds[n] != kinds[0]:
            differ = [key for key, value in options[0].items() if value != options[n][key]]
            raise NotImplementedError(
                f"groups 0 and {n} of state_dict differ in {', '.join(differ)}, which makes other methods of them: "
                "wanted an optimizer for each"
            )
    values = [_values(optimizer) for optimizer, _ in made]
    if not others:
        return first, form, values
    differ = [key for key in values[0] if key == form.rate or any(group[key] != values[0][key] for group in values)]
    selected = {
        group[0] if len(group) == 1 else Named(*group): {key: hyper[key] for key in differ}
        for group, hyper in zip(paths, values, strict=True)
        if group
    }
    k, attribute = place(first, form.rate) or (0, "lr")
    return Rated(*first.stages, groups(selected), of=first.stages[k], name=attribute), form, values


def _made(name: str, options: Mapping[str, Any], needed: Sequence[str]) -> tuple[Optimizer, Form]:
    """The optimizer with the options of one group and with all stages that are needed, and its form."""
    make: Callable[..., Optimizer] = getattr(_methods, name)
    absent = [key for key in needed if zero(options[key])]
    # Without momentum torch dampens nothing.
    undamped = {"dampening": 0.0} if "dampening" in options and zero(options["momentum"]) else {}
    optimizer = make(**{**options, **dict.fromkeys(absent, 0.5), **undamped})
    form = form_of(optimizer, lambda form: form.says(options))
    assert form is not None  # noqa: S101 - the table has all that the constructors make
    for key in absent:
        k, attribute = place(optimizer, form.options[key].of[0]) or (0, key)
        setattr(optimizer.stages[k], attribute, 0.0)
    return optimizer, form


def _values(optimizer: Optimizer) -> dict[str, Any]:
    """The hyperparameters of an optimizer by the keys of `FORMS`."""
    return {
        name if isinstance(stage, Optimizer) else f"{type(stage).__name__}.{name}": getattr(stage, name)
        for stage in optimizer.stages
        for name in stage.hyperparameters
    }


def _count(form: Form, theirs: Mapping[str, Any] | None, path: str, step: int | None) -> int:
    """The number of steps that a parameter took, given torch's state of it."""
    if not form.counts and (theirs or not form.state):
        return step or (1 if theirs else 0)
    if theirs is None:
        return 0
    if "step" not in theirs:
        raise ValueError(f"the state of {path!r} has no step; it has {', '.join(theirs)}")
    return int(float(theirs["step"]))


def _take(
    form: Form,
    optimizer: Optimizer,
    stages: Sequence[Mapping[str, Any]],
    path: str,
    t: int,
    theirs: Mapping[str, Any],
    values: Mapping[str, Any],
    options: Mapping[str, Any],
) -> None:
    """Put torch's state of a parameter into the slots of ours."""
    idle = {"momentum_buffer"} if zero(options.get("momentum")) else set()  # torch does not look at it then
    method = {key: value for key, value in values.items() if "." not in key}
    derived = form.derived(t, **method) if t else {}
    strange = set(theirs) - set(form.state) - set(derived) - idle - ({"step"} if form.counts else set())
    if strange:
        raise ValueError(f"the state of {path!r} has {', '.join(sorted(strange))}; wanted {', '.join(form.state)}")
    for key, value in derived.items():
        tolerance = (_ROUNDINGS + (t if form.multiplied else 0)) * 2.0**-23
        if key in theirs and hasattr(theirs[key], "dtype"):  # torch loaded it, and rounded it to the parameter's dtype
            tolerance += float(library(theirs[key]).xp.finfo(theirs[key].dtype).eps)
        if key not in theirs or not math.isclose(float(theirs[key]), value, rel_tol=tolerance, abs_tol=2.0**-33):
            raise ValueError(
                f"the state of {path!r} has {key} {theirs.get(key)}; its group's options would have made {value}, so "
                "they were others at the last step"
            )
    for name, key in form.state.items():
        at = place(optimizer, key)
        if at is None or name in idle:
            continue
        k, slot = at
        arrays = stages[k]["slots"][slot]
        if name in theirs:
            arrays[path] = _wide(CODECS.get(name, Codec()).ours(theirs[name]))
        elif 0 not in arrays[path].shape:
            raise ValueError(f"the state of {path!r} has no {name}; it has {', '.join(theirs)}")
    if "grad_avg" in form.state:
        k, _ = place(optimizer, "s") or (0, "")
        slots = stages[k]["slots"]
        slots["s"][path] = variance(slots["s"][path], slots["m"][path])


def _wide(value: Any) -> Any:
    """The array in the dtype of slots, which is at least float32."""
    arrays = library(value)
    return arrays.xp.astype(value, arrays.xp.float32) if arrays.dtype(value) in {"float16", "bfloat16"} else value
