"""CUDA C to machine code, by NVRTC: needs no device and no driver."""

from __future__ import annotations

import hashlib
from typing import Any

from cuda.bindings import nvrtc

from anyoptim._engines import _cache

__all__ = ["OPTIONS", "CompilationError", "code", "ptx", "version"]

OPTIONS = ("--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true", "--std=c++17")
"""Every operation rounded as it is written: none contracted, none approximate, no subnormal flushed to zero."""


class CompilationError(RuntimeError):
    """NVRTC refused a kernel, or can't be found."""


def code(text: str, architecture: int) -> bytes:
    """Machine code for a device of this compute capability, as `90` for 9.0; PTX where NVRTC doesn't know it yet.

    Kept in the user's cache folder by text, architecture, options and version of NVRTC.
    """
    target = _target(architecture)
    made_from = "\n".join([target, version(), *OPTIONS, text])
    name = f"{hashlib.sha256(made_from.encode()).hexdigest()[:32]}.cubin"
    made = _cache.read(name)
    if made is None:
        made = _compiled(text, target)
        _cache.keep(name, made)
    return made


def ptx(text: str, architecture: int) -> str:
    """The PTX of a kernel, for people and tests to read."""
    return _compiled(text, f"compute_{architecture}").decode().rstrip("\0")


def version() -> str:
    """As `13.0`. Raises CompilationError where NVRTC can't be found."""
    return ".".join(map(str, _call("nvrtcVersion")))


def _target(architecture: int) -> str:
    """The newest that NVRTC knows and such a device runs: machine code within its generation, else PTX."""
    known = [a for a in _call("nvrtcGetSupportedArchs")[0] if a <= architecture]
    if not known:
        raise CompilationError(f"NVRTC {version()} has no code for compute capability {architecture}")
    best = max(known)
    return f"sm_{best}" if best // 10 == architecture // 10 else f"compute_{best}"


def _compiled(text: str, target: str) -> bytes:
    options = [f"--gpu-architecture={target}".encode(), *(option.encode() for option in OPTIONS)]
    (program,) = _call("nvrtcCreateProgram", text.encode(), b"anyoptim.cu", 0, None, None)
    try:
        try:
            _call("nvrtcCompileProgram", program, len(options), options)
        except CompilationError as error:
            log = bytes(_call("nvrtcGetProgramLogSize", program)[0] + 1)  # of one byte there is one for all
            _call("nvrtcGetProgramLog", program, log)
            said = log.decode().rstrip("\0").strip()
            raise CompilationError(f"{error}: {said}\n{text}") from None
        kind = "CUBIN" if target.startswith("sm_") else "PTX"
        made = bytes(_call(f"nvrtcGet{kind}Size", program)[0])
        _call(f"nvrtcGet{kind}", program, made)
        return made
    finally:
        _call("nvrtcDestroyProgram", program)


def _call(name: str, *arguments: Any) -> tuple[Any, ...]:
    try:
        status, *results = getattr(nvrtc, name)(*arguments)
    except RuntimeError as error:  # of the loader
        raise CompilationError(f"NVRTC can't be found (pip install nvidia-cuda-nvrtc): {error}") from error
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise CompilationError(f"{name} failed: {status.name}")
    return tuple(results)
