"""Exceptions that arrive in the middle of a call, as those of signal handlers do: at any place that one wants."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import anyoptim as ao

__all__ = ["InterruptionError", "interrupted", "places"]


class InterruptionError(BaseException):
    """What the handler of a signal raises."""


PACKAGE = f"{Path(ao.__file__).parent}{os.sep}"


def interrupted(call: Callable[[], object], place: float, package: str = PACKAGE) -> int:
    """Call, and have an exception raised before the instruction of this number in the package's Python code.

    Returns the number of instructions that ran. CPython looks for signals at fewer places than all instructions.
    """
    ran = 0

    def at_instruction(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal ran
        if event == "opcode":
            if ran == place:
                sys.settrace(None)
                raise InterruptionError
            ran += 1
        return at_instruction

    def at_call(frame: FrameType, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if ran == place or not (package in file or file.startswith("<anyoptim")):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return at_instruction

    before = sys.gettrace()
    try:
        sys.settrace(at_call)
        call()
    except InterruptionError:
        pass
    finally:
        sys.settrace(before)
    return ran


def places(call: Callable[[], object]) -> int:
    """The number of places in a call where it could be interrupted."""
    return interrupted(call, float("inf"))
