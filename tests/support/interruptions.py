"""Exceptions that arrive in the middle of a call, as those of signal handlers do: at every place, one after another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["InterruptionError", "interrupted"]


class InterruptionError(BaseException):
    """What the handler of a signal raises."""


def interrupted(call: Callable[[], object], place: int, package: str = "/anyoptim/") -> bool:
    """Call, and have an exception raised before the instruction of this number in the package's Python code.

    Returns whether the call ran that far. CPython looks for signals at fewer places than all instructions.
    """
    left = place

    def at_instruction(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if event == "opcode":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise InterruptionError
        return at_instruction

    def at_call(frame: FrameType, event: str, _: Any) -> Any:
        if package not in frame.f_code.co_filename and not frame.f_code.co_filename.startswith("<anyoptim"):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return at_instruction

    before = sys.gettrace()
    try:
        sys.settrace(at_call)
        call()
    except InterruptionError:
        return True
    finally:
        sys.settrace(before)
    return False
