"""The values that hyperparameters have at a step, by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from anyoptim._trace._symbols import Symbol

__all__ = ["values_at"]


def values_at(step: int, stages: Sequence[Any], groups: Mapping[Any, Any] | None) -> dict[str, Any]:
    """The value of each hyperparameter at a step; under "groups" what each group has instead, None where it rests.

    What every group that moves has of its own stands there alone: no parameter goes by the stage's value.
    """
    names = Counter(name for stage in stages for name in stage.hyperparameters)
    qualified = Counter(f"{type(stage).__name__}.{name}" for stage in stages for name in stage.hyperparameters)
    moving = [own for own in (groups or {}).values() if own is not None]
    found: dict[str, Any] = {}
    for k, stage in enumerate(stages):
        for name, value in stage._values(step, {}).items():
            full = f"{type(stage).__name__}.{name}"
            if moving and all(name in own or full in own for own in moving):
                continue
            key = name if names[name] == 1 else full if qualified[full] == 1 else f"stages[{k}].{name}"
            found[key] = getattr(stage, name) if isinstance(value, Symbol) else value
    if groups is not None:
        found["groups"] = {
            pattern: None if own is None else {name: v(step) if callable(v) else v for name, v in own.items()}
            for pattern, own in groups.items()
        }
    return found
