"""What is done whole, whatever exceptions the handlers of signals raise in its middle."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["completed", "exhaust", "in_one_go"]

T = TypeVar("T")

FAILURES = 16
"""How often an action may raise an `Exception` before it counts as one that fails each time."""

SIGNALS = 100_000
"""How often any other, such as KeyboardInterrupt, which hardly ever is what an action itself raises."""


exhaust: Callable[[Iterable[object]], None] = deque[object](maxlen=0).extend
"""Take all that is left of an iterator, in a loop of C: where that calls nothing but functions of C, CPython runs no
handler before the last of them is done."""


def in_one_go(calls: Iterable[Callable[[], object]]) -> None:
    """Make calls of functions of C, in such a loop."""
    exhaust(map(operator.call, calls))


def completed(action: Callable[[], T]) -> T:
    """What an action gives, which is finished before an exception that came in its middle goes on.

    The action is one that, called again, does what is left, and no harm where nothing is left. Such exceptions come
    from handlers of signals (SIGINT, an alarm), and nothing foretells them. Of several the first goes on; but one that
    is no `Exception`, such as SystemExit, goes before one that is. Only two signals that come within the microsecond in
    which a third is dealt with, as in a hail of one every few microseconds, can leave the action unfinished.
    """
    first: BaseException
    try:
        return action()
    except Exception as error:
        first, ordinary = error, True
    except BaseException as error:
        first, ordinary = error, False
    # CPython looks for signals where a function begins, after a call, and where a loop goes round. No handler below
    # calls anything, so that the next of several signals can come only where a loop goes round: the inner one's turn
    # lies within the outer `try`, and the outer one's comes up only for a signal within that instant.
    failures = signals = 0
    while failures < FAILURES and signals < SIGNALS:
        try:
            while failures < FAILURES and signals < SIGNALS:
                try:
                    action()
                    failures = FAILURES
                except Exception:
                    failures += 1
                except BaseException as error:
                    signals += 1
                    if ordinary:
                        first, ordinary = error, False
        except Exception:
            signals += 1
        except BaseException as error:
            signals += 1
            if ordinary:
                first, ordinary = error, False
    try:
        raise first
    finally:
        del first  # it has this frame, and so would keep its arrays alive
