"""Training that goes on in torch from where it stopped here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from anyoptim._arrays import library
from anyoptim._arrays._torch import tensor
from anyoptim._core._optimizer import Optimizer
from anyoptim._core._selection import shown
from anyoptim.compat._shared import zero
from anyoptim.compat._transfer import raw
from anyoptim.compat.torch import _methods
from anyoptim.compat.torch._forms import CODECS, Codec, Form, Named, Option, form_of, place
from anyoptim.compat.torch._incoming import flattened, matched, options_of
from anyoptim.stages import Maximize

__all__ = ["to_torch"]


def to_torch(optimizer: Optimizer, names: Sequence[Any]) -> dict[str, Any]:
    """What `load_state_dict` of one of torch's optimizers takes, to go on where this one stopped.

    ::

        torch_optimizer = torch.optim.AdamW(model.parameters())
        torch_optimizer.load_state_dict(ao.compat.torch.to_torch(optimizer, ["W", "b"]))

    The optimizer is one that `ao.compat.torch` makes, or the same by other means. The tensors are copies; those of
    other libraries are on the CPU, from where torch takes them to its parameters. Hyperparameters that are schedules
    stand in `param_groups` as their values at the next step.

    Args:
        optimizer: a method or a chain.
        names: for each of torch's parameters, in their order, the path of ours, its keys joined by dots; where torch
            has several groups, a list of these for each. Without lists, neighbours of one of the optimizer's `groups`
            are a group.

    Raises ValueError for names that are not those of the state, and for what torch has no place for: other methods,
    other stages, other hyperparameters.
    """
    state = optimizer.state_dict()
    paths = _divided(optimizer, names)
    if state["t"]:
        matched([path for own in paths for path in own], list(state["t"]))
    packed: dict[int, dict[str, Any]] = {}
    param_groups: list[dict[str, Any]] = []
    for own in paths:
        form, options, values = _read(optimizer, own, state["step"] + 1)
        first = sum(len(group["params"]) for group in param_groups)
        ids = list(range(first, first + len(own)))
        for i, path in zip(ids, own, strict=True):
            t = state["t"].get(path, 0)
            kept = _packed(form, optimizer, state["stages"], path, t, options, values) if t else {}
            packed |= {i: kept} if kept else {}
        param_groups.append({**options, "params": ids})
    return {"state": packed, "param_groups": param_groups}


def _divided(optimizer: Optimizer, names: Sequence[Any]) -> list[list[str]]:
    """The names of each group."""
    flat = flattened(names)
    if any(not isinstance(name, str) for name in names):
        if any(isinstance(name, str) for name in names):
            raise ValueError("names has some in lists and some not; wanted all in lists, one for each group, or none")
        return [list(own) for own in names]
    return [list(own) for _, own in groupby(flat, lambda path: _selector(optimizer, path))]


def _selector(optimizer: Optimizer, path: str) -> Any:
    """The one of the optimizer's groups that a parameter is in."""
    found = getattr(optimizer, "groups", None)
    if found is None:
        return None
    for selector in found:
        if callable(selector) and not isinstance(selector, Named):
            raise ValueError(f"groups has the function {shown(selector)}, which is of parameters; wanted patterns")
    return found.selection.taker(path)


def _read(optimizer: Optimizer, paths: Sequence[str], step: int) -> tuple[Form, dict[str, Any], dict[str, float]]:
    """The form, torch's options and our hyperparameters of these parameters."""
    if getattr(optimizer, "_partition", None) is not None:
        raise ValueError(f"{optimizer!r} has several methods; wanted to_torch of an optimizer for each")
    selectors = {_selector(optimizer, path) for path in paths}
    if len(selectors) > 1:
        raise ValueError(f"names has {', '.join(paths)} as one group; they are {shown(*selectors)} of the optimizer's")
    hypers = _effective(optimizer, next(iter(selectors), None))
    values: dict[str, Any] = {key: v(step) if callable(v) else float(v) for key, v in hypers.items()}
    # Torch has the rate of the next step already, and its group that of the one after it.
    theirs = {key: v.schedule(step) if isinstance(v, _methods.Lagged) else values[key] for key, v in hypers.items()}
    why: list[str] = []
    form = form_of(optimizer, lambda form: not _differs(form, optimizer, theirs, why))
    if form is None:
        raise ValueError(
            f"{optimizer!r} is none that torch has: {'; '.join(why) or 'its stages are others'}; wanted one such as "
            "anyoptim.compat.torch makes"
        )
    return form, _options(form, optimizer, theirs), values


def _effective(optimizer: Optimizer, selector: Any) -> dict[str, Any]:
    """The hyperparameters of a group, and the constants, by the keys of the table."""
    found: dict[str, Any] = {}
    for stage in optimizer.stages:
        kind = "" if isinstance(stage, Optimizer) else f"{type(stage).__name__}."
        found |= {f"{kind}{name}": getattr(stage, name) for name in stage.hyperparameters}
        if getattr(stage, "where", None) is not None:
            raise ValueError(f"{stage!r} goes by a function, which torch can't; wanted groups")
    if selector is None:
        return found
    given = optimizer.groups[selector]  # type: ignore[attr-defined] # it has some
    if given is None:
        raise ValueError(f"groups has {shown(selector)} frozen; wanted only parameters that torch's optimizer has")
    method = next(type(stage).__name__ for stage in optimizer.stages if isinstance(stage, Optimizer))
    for key, value in given.items():
        plain = key.removeprefix(f"{method}.")
        found[plain if plain in found else next(k for k in found if k.endswith(f".{key}"))] = value
    return found


def _options(form: Form, optimizer: Optimizer, values: Mapping[str, Any]) -> dict[str, Any]:
    """Torch's options; what a stage would say that isn't there is 0."""
    method = next(stage for stage in optimizer.stages if isinstance(stage, Optimizer))
    known = {**values, "initial": getattr(method, "initial", 0.0)}
    found = {
        key: option.made(*(known.get(of, 0.0) for of in option.of)) if isinstance(option, Option) else option
        for key, option in form.options.items()
    }
    options = options_of(form.name, found)
    if "maximize" in options:
        options["maximize"] = any(isinstance(stage, Maximize) for stage in optimizer.stages)
    return options


def _differs(form: Form, optimizer: Optimizer, values: Mapping[str, Any], why: list[str]) -> bool:
    """Whether what torch's options make is another method."""
    options = _options(form, optimizer, values)
    # With none, it would be another method for want of a stage.
    of = form.options.get("momentum")
    still = of is not None and zero(options["momentum"]) and place(optimizer, of.of[0]) is not None
    make: Callable[..., Optimizer] = getattr(_methods, form.name)
    again = make(**{**options, **({"momentum": 0.5} if still else {})})
    method = next(stage for stage in again.stages if isinstance(stage, Optimizer))
    wanted = {name: getattr(method, name) for name in method.hyperparameters}
    # Without momentum torch dampens nothing.
    wanted |= {"momentum": 0.0, **({"dampening": 0.0} if "dampening" in wanted else {})} if still else {}
    differ = [name for name in method.hyperparameters if values[name] != wanted[name]]
    why += [f"its {name} is {values[name]}, where torch's {form.name} would have {wanted[name]}" for name in differ]
    return bool(differ)


def _packed(
    form: Form,
    optimizer: Optimizer,
    stages: Sequence[Mapping[str, Any]],
    path: str,
    t: int,
    options: Mapping[str, Any],
    values: Mapping[str, float],
) -> dict[str, Any]:
    """Torch's state of a parameter."""
    slots = {
        their: stages[found[0]]["slots"][found[1]][path]
        for their, key in form.state.items()
        if (found := place(optimizer, key)) is not None
    }
    if "grad_avg" in slots:
        slots["square_avg"] = raw(slots["square_avg"], slots["grad_avg"])
    there = any(0 not in slot.shape for slot in slots.values())
    arrays = {
        their: CODECS.get(their, Codec()).theirs(slot)
        for their, slot in slots.items()
        if not (there and 0 in slot.shape) and not (their == "momentum_buffer" and zero(options["momentum"]))
    }
    method = {key: value for key, value in values.items() if "." not in key}
    numbers = {"step": t, **form.derived(t, **method)} if form.counts else {}
    return {key: tensor(value) for key, value in numbers.items()} | {
        key: tensor(value if library(value).name.startswith("torch") else library(value).to_host(value))
        for key, value in arrays.items()
    }
