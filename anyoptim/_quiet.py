"""NumPy's floating-point state: whatever the user chose, a step neither warns nor raises."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["quiet", "quietly"]


def quiet() -> np.errstate:
    """A context in which NumPy's floating-point state, whatever the user chose, neither warns nor raises."""
    return np.errstate(all="ignore")


class _Quiet(threading.local):
    """For each thread a context of its own, to be run in."""

    def __init__(self) -> None:
        self.context = contextvars.Context()
        self.context.run(np.seterr, all="ignore")


_QUIET = _Quiet()


def quietly(call: Callable[..., Any], *arguments: Any) -> Any:
    """What the call gives in such a context: the same at a tenth of the price, for calls that look at no other."""
    return _QUIET.context.run(call, *arguments)
