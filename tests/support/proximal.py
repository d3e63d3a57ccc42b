"""One proximal step, of nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

import anyoptim as ao

__all__ = ["prox"]


def prox(stage: ao.ParameterStage, x: Any, lr: float = 1.0, engine: ao.EngineName | None = "portable") -> Any:
    """What the stage makes of x: the result of a step that leaves it where it is."""
    with np.errstate(all="ignore"):
        return ao.chain(ao.SGD(lr), stage, engine=engine).update(np.array(x), np.zeros_like(x))
