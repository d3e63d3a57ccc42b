"""What is done whole, whatever exception comes in its middle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["completed"]

T = TypeVar("T")

AGAIN = 16
"""How often an action is called again. It ends with the first time that no exception comes; but what fails, fails each
time."""


def completed(action: Callable[[], T]) -> T:
    """What an action gives, which goes on where an exception came in its middle: it is finished before that is raised.

    Such exceptions come from handlers of signals (SIGINT, an alarm), and nothing foretells them. The action is one
    that, called again, does what is left, and no harm where nothing is left.
    """
    try:
        return action()
    except BaseException:
        for _ in range(AGAIN):
            try:
                action()
                break
            except BaseException:  # noqa: S112 - the first one is raised
                continue
        raise
