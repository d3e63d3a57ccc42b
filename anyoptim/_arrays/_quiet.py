"""NumPy's floating-point state: whatever the user chose, a step neither warns nor raises."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["quiet", "quietly"]


def quiet() -> np.errstate:
    """A context in which NumPy's floating-point state, whatever the user chose, neither warns nor raises."""
    return np.errstate(all="ignore")


_free: deque[contextvars.Context] = deque()


def quietly(call: Callable[..., Any], *arguments: Any) -> Any:
    """What the call gives in such a context: the same at a tenth of the price, for calls that look at no other."""
    try:
        context = _free.pop()  # nobody else's: one that is entered can't be entered again
    except IndexError:
        context = contextvars.Context()
        context.run(np.seterr, all="ignore")
    try:
        return context.run(call, *arguments)
    finally:
        _free.append(context)
