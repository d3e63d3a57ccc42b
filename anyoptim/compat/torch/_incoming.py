"""Training that goes on here from where torch stopped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

from anyoptim._arrays import library
from anyoptim._arrays._tree import Tree, listed
from anyoptim._core._groups import groups
from anyoptim._core._optimizer import Optimizer
from anyoptim.compat._shared import Rated, zero
from anyoptim.compat._transfer import variance
from anyoptim.compat.torch import _methods
from anyoptim.compat.torch._forms import CODECS, FORMS, Codec, Form, Named, form_of, place

__all__ = ["flattened", "from_torch", "matched", "options_of"]

_KEPT = {"params", "param_names", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr"}
"""What torch's optimizers and schedulers note in a group that is no option of the optimizer."""

_LATER = {"foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"}
"""Options that older versions of torch had not."""

_STRUCTURAL = ("weight_decay", "momentum")
"""Options that are a stage, or another method, where they are not 0."""

_ROUNDINGS = 100
"""Of float32: how far what torch keeps may be from what its options say, but for products over all steps."""


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
    """
    given = _groups(state_dict)
    name = _recognised([set(group) for group in given], method)
    options = [options_of(name, group) for group in given]
    if name == "AdamW":
        name, options = "Adam", [{**own, "decoupled_weight_decay": True} for own in options]
    paths = _paths(names, given)
    tree = Tree("params", params)
    matched([path for own in paths for path in own], [tree.path(i) for i, p in enumerate(tree.leaves) if p is not None])
    optimizer, form, values = _optimizer(name, options, paths)
    state = optimizer.state_dict(optimizer.init(params))
    theirs = _states(state_dict["state"], given)
    for n, (ids, own) in enumerate(zip((group["params"] for group in given), paths, strict=True)):
        for i, path in zip(ids, own, strict=True):
            t = state["t"][path] = _count(form, theirs.get(i), path, step)
            if i in theirs:
                _take(form, optimizer, state["stages"], path, t, theirs[i], values[n], options[n])
    state["step"] = max(state["t"].values(), default=0) if step is None else step
    if not state["step"]:
        state["t"] = {}  # as before the first update
    optimizer.load_state_dict(state, params)
    return optimizer


def _groups(state_dict: Any) -> list[Mapping[str, Any]]:
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise ValueError(
            "state_dict has no state and param_groups; wanted what state_dict() of a torch optimizer gives"
        )
    given = list(state_dict["param_groups"])
    if not given:
        raise ValueError("state_dict['param_groups'] is empty; wanted at least one group")
    return given


def _states(state: Mapping[Any, Any], given: Sequence[Mapping[str, Any]]) -> dict[Any, dict[str, Any]]:
    """What torch keeps of each parameter of which it keeps anything."""
    ids = {i for group in given for i in group["params"]}
    strange = [repr(i) for i in state if i not in ids]
    if strange:
        raise ValueError(f"state_dict['state'] has {listed(strange)}, which no group has")
    found = {i: {key: value for key, value in own.items() if value is not None} for i, own in state.items()}
    return {i: own for i, own in found.items() if own}


def _defaults(name: str) -> dict[str, Any]:
    return {key: argument.default for key, argument in signature(getattr(_methods, name)).parameters.items()}


def options_of(name: str, group: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a torch class: those of a group, and the defaults of others."""
    found = {key: value for key, value in group.items() if key not in _KEPT}
    return {**_defaults(name), **found}


def _recognised(groups: Sequence[set[str]], method: str | None) -> str:
    """The class whose options these groups have."""
    known = sorted({form.name for forms in FORMS.values() for form in forms} | {"AdamW"})
    keys = set().union(*groups) - _KEPT
    fitting = [name for name in known if keys <= set(_defaults(name)) and set(_defaults(name)) - keys <= _LATER]
    exact = [name for name in fitting if keys == set(_defaults(name))] or fitting
    found = exact[0] if method is None and len(exact) == 1 else method
    if found not in fitting:
        has = f"the groups of state_dict have {', '.join(sorted(keys))}"
        which = " or ".join(fitting)
        raise ValueError(f"{has}, as {which}; wanted method=" if fitting else f"{has}, as none of {', '.join(known)}")
    return found


def _paths(names: Sequence[Any] | None, given: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The paths of the parameters of each group."""
    if names is None:
        if not all("param_names" in group for group in given):
            raise ValueError("names is None, and state_dict has no param_names; wanted the path of each parameter")
        names = [name for group in given for name in group["param_names"]]
    flat = flattened(names)
    sizes = [len(group["params"]) for group in given]
    if len(flat) != sum(sizes):
        raise ValueError(f"names has {len(flat)}, and state_dict has {sum(sizes)} parameters; wanted one for each")
    rest = iter(flat)
    return [[next(rest) for _ in range(size)] for size in sizes]


def flattened(names: Sequence[Any]) -> list[str]:
    """The names in lists or not."""
    if isinstance(names, str):
        raise TypeError(f"names is {names!r}; wanted a list of paths")
    flat = [name for own in names for name in (own if isinstance(own, list | tuple) else [own])]
    if not all(isinstance(name, str) for name in flat):
        raise TypeError(f"names is {names!r}; wanted paths, as strings")
    return flat


def matched(names: Sequence[str], paths: Sequence[str]) -> None:
    """Raise ValueError unless names are these paths, each once."""
    given, known = Counter(names), set(paths)
    twice = [repr(name) for name, n in given.items() if n > 1]
    missing = [repr(path) for path in paths if path not in given]
    strange = [repr(name) for name in names if name not in known]
    for found, what in ((twice, "twice"), (strange, "which is no parameter")):
        if found:
            raise ValueError(f"names has {listed(found)} {what}; wanted each of {listed([*map(repr, paths)])} once")
    if missing:
        raise ValueError(f"names has not {listed(missing)}; wanted each parameter once")


def _optimizer(
    name: str, options: Sequence[Mapping[str, Any]], paths: Sequence[Sequence[str]]
) -> tuple[Optimizer, Form, list[dict[str, Any]]]:
    """What has these options; and for each group the hyperparameters."""
    # A stage that one group needs, all have.
    needed = [key for key in _STRUCTURAL if any(not zero(own.get(key, 0)) for own in options)]
    made = [_made(name, own, needed) for own in options]
    (first, form), *others = made
    kinds = [[(type(stage), stage.constants) for stage in one.stages] for one, _ in made]
    for n, _ in enumerate(others, 1):
        if kinds[n] != kinds[0]:
            differ = [key for key, value in options[0].items() if value != options[n][key]]
            raise NotImplementedError(
                f"groups 0 and {n} of state_dict differ in {', '.join(differ)}, which makes other methods of them: "
                "wanted an optimizer for each"
            )
    values = [_values(one) for one, _ in made]
    if not others:
        return first, form, values
    differ = [key for key in values[0] if key == form.rate or any(own[key] != values[0][key] for own in values)]
    of = {
        own[0] if len(own) == 1 else Named(*own): {key: group[key] for key in differ}
        for own, group in zip(paths, values, strict=True)
        if own
    }
    k, attribute = place(first, form.rate) or (0, "lr")
    return Rated(*first.stages, groups(of), of=first.stages[k], name=attribute), form, values


def _made(name: str, options: Mapping[str, Any], needed: Sequence[str]) -> tuple[Optimizer, Form]:
    """One that has all stages that are needed."""
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
    """The hyperparameters by the keys of the table."""
    return {
        name if isinstance(stage, Optimizer) else f"{type(stage).__name__}.{name}": getattr(stage, name)
        for stage in optimizer.stages
        for name in stage.hyperparameters
    }


def _count(form: Form, own: Mapping[str, Any] | None, path: str, step: int | None) -> int:
    """How many steps the parameter took."""
    if not form.counts and (own or not form.state):
        return step or (1 if own else 0)
    if own is None:
        return 0
    if "step" not in own:
        raise ValueError(f"the state of {path!r} has no step; it has {', '.join(own)}")
    return int(float(own["step"]))


def _take(
    form: Form,
    optimizer: Optimizer,
    stages: Sequence[Mapping[str, Any]],
    path: str,
    t: int,
    own: Mapping[str, Any],
    values: Mapping[str, Any],
    options: Mapping[str, Any],
) -> None:
    """Put torch's state of a parameter in the places of the slots."""
    idle = {"momentum_buffer"} if zero(options.get("momentum")) else set()  # which torch does not look at then
    method = {key: value for key, value in values.items() if "." not in key}
    derived = form.derived(t, **method) if t else {}
    strange = set(own) - set(form.state) - set(derived) - idle - ({"step"} if form.counts else set())
    if strange:
        raise ValueError(f"the state of {path!r} has {', '.join(sorted(strange))}; wanted {', '.join(form.state)}")
    for key, value in derived.items():
        near = (_ROUNDINGS + (t if form.multiplied else 0)) * 2.0**-23
        if key in own and hasattr(own[key], "dtype"):  # it was loaded, which rounds it to the parameter's
            near += float(library(own[key]).xp.finfo(own[key].dtype).eps)
        if key not in own or not math.isclose(float(own[key]), value, rel_tol=near, abs_tol=2.0**-33):
            raise ValueError(
                f"the state of {path!r} has {key} {own.get(key)}; its group's options would have made {value}, so they "
                "were others at the last step"
            )
    for their, key in form.state.items():
        found = place(optimizer, key)
        if found is None or their in idle:
            continue
        slots = stages[found[0]]["slots"][found[1]]
        if their in own:
            slots[path] = _wide(CODECS.get(their, Codec()).ours(own[their]))
        elif 0 not in slots[path].shape:
            raise ValueError(f"the state of {path!r} has no {their}; it has {', '.join(own)}")
    if "grad_avg" in form.state:
        k, _ = place(optimizer, "s") or (0, "")
        slots = stages[k]["slots"]
        slots["s"][path] = variance(slots["s"][path], slots["m"][path])


def _wide(value: Any) -> Any:
    """As slots are kept: at least float32."""
    here = library(value)
    return here.xp.astype(value, here.xp.float32) if here.dtype(value) in {"float16", "bfloat16"} else value
