"""CUDA C compiled by NVRTC without a device: to machine code by cuda.core, and to PTX, for which that needs one."""

from __future__ import annotations

from typing import Any

from anyoptim._engines.cuda._device import OPTIONS
from cuda.bindings import nvrtc
from cuda.core import Program, ProgramOptions


def code(text: str, architecture: int) -> bytes:
    """The machine code, compiled as the engine compiles it."""
    program = Program(text, "c++", ProgramOptions(arch=f"sm_{architecture}", **OPTIONS))
    return bytes(program.compile("cubin").code)


def ptx(text: str, architecture: int) -> str:
    """The PTX, compiled with the same options."""
    options = ProgramOptions(arch=f"compute_{architecture}", **OPTIONS).as_bytes("nvrtc")
    (program,) = _call("nvrtcCreateProgram", text.encode(), b"anyoptim.cu", 0, None, None)
    _call("nvrtcCompileProgram", program, len(options), options)
    made = bytes(_call("nvrtcGetPTXSize", program)[0])
    _call("nvrtcGetPTX", program, made)
    _call("nvrtcDestroyProgram", program)
    return made.decode().rstrip("\0")


def _call(name: str, *arguments: Any) -> tuple[Any, ...]:
    status, *results = getattr(nvrtc, name)(*arguments)
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, name
    return tuple(results)
