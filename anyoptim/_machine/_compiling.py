"""What Numba makes of a text: an object file. This module comes with Numba."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from numba import config, njit, types
from numba.core import sigutils
from numba.core.compiler import Flags, compile_extra
from numba.core.registry import cpu_target

from anyoptim._machine._generated import Text, executed

__all__ = ["compiled", "function"]

OPTIONS = {"nogil": True, "error_model": "numpy"}
"""Without the check for zero divisors, which stops SIMD, and without `fastmath`, which rounds differently."""


def compiled(of: Text) -> bytes:
    """The name of the function in an object file, those of the symbols that the file needs, a zero, and the file.

    The function takes the address of a block, in which it finds its two integers, and then the address and the lengths
    of the axes of each of its arrays.
    """
    if config.DISABLE_JIT:
        raise RuntimeError("it is switched off (NUMBA_DISABLE_JIT)")
    module = _module("entry", _entry(of))
    module.entry.__globals__[of.name] = njit(**OPTIONS)(function(of.name, of.text))
    flags = Flags()
    # Of these the first are for calls from Python, by whom here nothing is called.
    flags.no_cpython_wrapper, flags.no_cfunc_wrapper, flags.nrt, flags.error_model = True, True, True, "numpy"
    made = compile_extra(
        cpu_target.typing_context,
        cpu_target.target_context,
        module.entry,
        (types.uint64,),
        types.boolean,
        flags,
        {},
    )
    code: bytes = made.library._get_compiled_object()
    functions = made.library._final_module.functions
    needed = [symbol.name for symbol in functions if symbol.is_declaration and not symbol.name.startswith("llvm.")]
    return " ".join([made.fndesc.llvm_func_name, *needed]).encode() + b"\0" + code


def function(name: str, text: str) -> Callable[..., Any]:
    """The function of this name in a module with this text, which debuggers and tracebacks can show."""
    call: Callable[..., Any] = getattr(_module(name, text), name)
    return call


def _module(name: str, text: str) -> Any:
    stem = f"anyoptim {name} {hash(text):x}"
    module = ModuleType(stem)
    executed(text, f"<{stem}>", vars(module))
    return module


def _entry(of: Text) -> str:
    """The text of a function of an address that makes arrays of the block there, and calls the function."""
    arguments, result = sigutils.normalize_signature(of.signature)
    arrays = [t for t in arguments if isinstance(t, types.Array)]
    size = 2 + sum(1 + t.ndim for t in arrays)
    lines, at = [f"_block = carray(pointer(_at, 0), {size}, uint64)"], 2
    for k, array in enumerate(arrays):
        lengths = ", ".join(f"int64(_block[{at + 1 + axis}])" for axis in range(array.ndim))
        lines.append(f"_a{k} = carray(pointer(_block[{at}], 0), ({lengths},), {array.dtype})")
        at += 1 + array.ndim
    numbers = ["int64(_block[0])", "int64(_block[1])"][: len(arguments) - len(arrays)]
    call = f"{of.name}({', '.join([*(f'_a{k}' for k in range(len(arrays))), *numbers])})"
    lines += [call, "return True"] if result == types.none else [f"return {call}"]
    dtypes = ", ".join(sorted({"int64", "uint64", *(str(array.dtype) for array in arrays)}))
    body = "\n".join(f"    {line}" for line in lines)
    return _ENTRY.format(dtypes=dtypes, body=body)


_ENTRY = """\
from numba import carray
from numpy import {dtypes}
from anyoptim._machine._intrinsics import pointer


def entry(_at):
{body}
"""
