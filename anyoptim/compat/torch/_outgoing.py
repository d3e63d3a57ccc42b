"""The state of optimizers here in torch's form, from which training goes on there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from anyoptim._arrays import library
from anyoptim._arrays._selection import shown
from anyoptim._arrays._torch import tensor
from anyoptim._arrays._tree import Tree
from anyoptim._core._optimizer import Optimizer
from anyoptim._stage._elements import by_element
from anyoptim.compat._shared import zero
from anyoptim.compat._transfer import mean_square, one_count
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

    The optimizer is one that `ao.compat.torch` makes, or the same by other means. Such a one takes the state of its
    method out of a chain with other stages by `bare.load_state_dict(chain.state_dict(), params, strict=False)`. The
    tensors are copies; those of other libraries are on the CPU, from where torch takes them to its parameters.
    Hyperparameters that are schedules stand in `param_groups` as their values at the next step. A scheduler of torch's
    that is made with `last_epoch` wants an `initial_lr` in each of the `param_groups`, which is the caller's to set.

    Args:
        optimizer: a method or a chain.
        names: for each of torch's parameters, in their order, the path of ours, its keys joined by dots; where torch
            has several groups, a list of these for each. Without lists, neighbours of one of the optimizer's `groups`
            are a group.

    Raises ValueError for names that are not those of the state, and for what torch has no place for: other methods,
    other stages, other hyperparameters.

    >>> import torch
    >>> w, ours = torch.ones(2), ao.compat.torch.Adam(lr=0.1)
    >>> params = ours.update({"w": w}, {"w": torch.ones(2)})
    >>> theirs = torch.optim.Adam([w])
    >>> theirs.load_state_dict(ao.compat.torch.to_torch(ours, ["w"]))
    >>> theirs.param_groups[0]["lr"], theirs.state[w]["step"].item()
    (0.1, 1.0)
    """
    state = optimizer.state_dict()
    joint = next((stage for stage in optimizer.stages if getattr(stage, "joint", False)), None)
    slots = [] if joint is None or optimizer.state is None else Tree("slots", optimizer.state.slots).leaves
    if any("complex" in str(getattr(slot, "dtype", "")) for slot in slots):
        raise ValueError(f"{joint!r} takes complex elements as a whole; wanted joint=False, two reals, as torch has it")
    paths = _divided(optimizer, names)
    if state["t"]:
        matched([path for group in paths for path in group], list(state["t"]))
    packed: dict[int, dict[str, Any]] = {}
    param_groups: list[dict[str, Any]] = []
    for group in paths:
        form, options, values = _read(optimizer, group, state["step"] + 1)
        first = sum(len(other["params"]) for other in param_groups)
        ids = list(range(first, first + len(group)))
        for i, path in zip(ids, group, strict=True):
            t = one_count(path, state["t"].get(path, 0))
            kept = _packed(form, optimizer, state["stages"], path, t, options, values) if t else {}
            packed |= {i: kept} if kept else {}
        param_groups.append({**options, "params": ids})
    return {"state": packed, "param_groups": param_groups}


def _divided(optimizer: Optimizer, names: Sequence[Any]) -> list[list[str]]:
    """The names of each of torch's groups."""
    flat = flattened(names)
    if any(not isinstance(name, str) for name in names):
        if any(isinstance(name, str) for name in names):
            raise ValueError("names has some in lists and some not; wanted all in lists, one for each group, or none")
        return [list(group) for group in names]
    return [list(group) for _, group in groupby(flat, lambda path: _selector(optimizer, path))]


def _selector(optimizer: Optimizer, path: str) -> Any:
    """The selector of the optimizer's group that a parameter is in."""
    groups = getattr(optimizer, "groups", None)
    if groups is None:
        return None
    for selector in groups:
        if callable(selector) and not isinstance(selector, Named):
            raise ValueError(f"groups has the function {shown(selector)}, which is of parameters; wanted patterns")
    return groups.selection.taker(path)


def _read(optimizer: Optimizer, paths: Sequence[str], step: int) -> tuple[Form, dict[str, Any], dict[str, float]]:
    """The form of the optimizer for these parameters, torch's options and our hyperparameters."""
    if getattr(optimizer, "_partition", None) is not None:
        raise ValueError(f"{optimizer!r} has several methods; wanted to_torch of an optimizer for each")
    selectors = {_selector(optimizer, path) for path in paths}
    if len(selectors) > 1:
        raise ValueError(f"names has {', '.join(paths)} as one group; they are {shown(*selectors)} of the optimizer's")
    hypers = _effective(optimizer, next(iter(selectors), None))
    if by_elements := [key for key, v in hypers.items() if by_element(v)]:
        raise ValueError(f"{optimizer!r} has {by_elements[0]} element by element, which torch has not; wanted a number")
    values: dict[str, Any] = {key: v(step) if callable(v) else float(v) for key, v in hypers.items()}
    # Torch's state has the rate of the next step already, and its group the rate of the step after that.
    theirs = {key: v.schedule(step) if isinstance(v, _methods.Lagged) else values[key] for key, v in hypers.items()}
    why: list[str] = []
    form = form_of(optimizer, lambda form: not _differs(form, optimizer, theirs, why))
    if form is None:
        makes = "anyoptim.compat.torch makes"
        if not why and len(optimizer.stages) > 1:
            makes += ", which takes its method's state by load_state_dict(optimizer.state_dict(), params, strict=False)"
        raise ValueError(
            f"{optimizer!r} is none that torch has: {'; '.join(why) or 'its stages are others'}; wanted one such as "
            f"{makes}"
        )
    return form, _options(form, optimizer, theirs), values


def _effective(optimizer: Optimizer, selector: Any) -> dict[str, Any]:
    """The hyperparameters of a group by the keys of `FORMS`."""
    hypers: dict[str, Any] = {}
    for stage in optimizer.stages:
        kind = "" if isinstance(stage, Optimizer) else f"{type(stage).__name__}."
        hypers |= {f"{kind}{name}": getattr(stage, name) for name in stage.hyperparameters}
        if getattr(stage, "where", None) is not None:
            raise ValueError(f"{stage!r} goes by a function, which torch can't; wanted groups")
    if selector is None:
        return hypers
    group = optimizer.groups[selector]  # type: ignore[attr-defined] # it has some
    if group is None:
        raise ValueError(f"groups has {shown(selector)} frozen; wanted only parameters that torch's optimizer has")
    method = next(type(stage).__name__ for stage in optimizer.stages if isinstance(stage, Optimizer))
    for key, value in group.items():
        plain = key.removeprefix(f"{method}.")
        hypers[plain if plain in hypers else next(k for k in hypers if k.endswith(f".{key}"))] = value
    return hypers


def _options(form: Form, optimizer: Optimizer, values: Mapping[str, Any]) -> dict[str, Any]:
    """Torch's options; an option that a missing stage would have is 0."""
    method = next(stage for stage in optimizer.stages if isinstance(stage, Optimizer))
    known = {**values, "initial": getattr(method, "initial", 0.0)}
    options = {
        key: option.made(*(known.get(of, 0.0) for of in option.of)) if isinstance(option, Option) else option
        for key, option in form.options.items()
    }
    options = options_of(form.name, options)
    if "maximize" in options:
        options["maximize"] = any(isinstance(stage, Maximize) for stage in optimizer.stages)
    return options


def _differs(form: Form, optimizer: Optimizer, values: Mapping[str, Any], why: list[str]) -> bool:
    """Whether torch's options make another method; the reasons are added to `why`."""
    options = _options(form, optimizer, values)
    # A momentum of 0 would make another method, without a stage that this one has.
    momentum = form.options.get("momentum")
    idle = momentum is not None and zero(options["momentum"]) and place(optimizer, momentum.of[0]) is not None
    make: Callable[..., Optimizer] = getattr(_methods, form.name)
    again = make(**{**options, **({"momentum": 0.5} if idle else {})})
    method = next(stage for stage in again.stages if isinstance(stage, Optimizer))
    wanted = {name: getattr(method, name) for name in method.hyperparameters}
    # Without momentum torch dampens nothing.
    wanted |= {"momentum": 0.0, **({"dampening": 0.0} if "dampening" in wanted else {})} if idle else {}
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
        name: stages[at[0]]["slots"][at[1]][path]
        for name, key in form.state.items()
        if (at := place(optimizer, key)) is not None
    }
    if "grad_avg" in slots:
        slots["square_avg"] = mean_square(slots["square_avg"], slots["grad_avg"])
    has_elements = any(0 not in slot.shape for slot in slots.values())
    arrays = {
        name: CODECS.get(name, Codec()).theirs(slot)
        for name, slot in slots.items()
        if not (has_elements and 0 in slot.shape) and not (name == "momentum_buffer" and zero(options["momentum"]))
    }
    method = {key: value for key, value in values.items() if "." not in key}
    numbers = {"step": t, **form.derived(t, **method)} if form.counts else {}
    return {key: tensor(value) for key, value in numbers.items()} | {
        key: tensor(value if library(value).name.startswith("torch") else library(value).to_host(value))
        for key, value in arrays.items()
    }
