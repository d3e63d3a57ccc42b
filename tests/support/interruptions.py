"""Exceptions that arrive in the middle of a call, as those of signal handlers do: at any place that one wants."""

from __future__ import annotations

import dis
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import anyoptim as ao

__all__ = ["LOOKS", "InterruptionError", "interrupted", "places"]


class InterruptionError(BaseException):
    """What the handler of a signal raises."""


PACKAGE = f"{Path(ao.__file__).parent}{os.sep}"


LOOKS = ("RESUME", "CALL", "JUMP_BACKWARD", "POP_JUMP_BACKWARD")
"""How the names of those instructions begin at which CPython looks for signals (Python/ceval.c, `eval_breaker`)."""


def interrupted(
    call: Callable[[], object], place: float, package: str = PACKAGE, looks: tuple[str, ...] | None = None
) -> int:
    """Call, and have an exception raised before the instruction of this number in the package's Python code.

    Counts those instructions whose names begin with one of `looks`, without it all; CPython itself looks for signals at
    fewer, `LOOKS`. Returns the number of those that ran.
    """
    ran = 0

    def at_instruction(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal ran
        if event == "opcode" and (looks is None or _opname(frame).startswith(looks)):
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


def _opname(frame: FrameType) -> str:
    return dis.opname[frame.f_code.co_code[frame.f_lasti]]


def places(call: Callable[[], object]) -> int:
    """The number of places in a call where it could be interrupted."""
    return interrupted(call, float("inf"))
