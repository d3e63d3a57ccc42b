"""What Numba makes of a text: an object file. This module comes with Numba."""

from __future__ import annotations

import ast
from collections.abc import Callable
from types import ModuleType
from typing import Any

from numba import config, types
from numba.core import sigutils
from numba.core.compiler import Flags, compile_extra
from numba.core.registry import cpu_target

from anyoptim._machine._generated import Text, executed

__all__ = ["compiled", "function"]


def compiled(of: Text) -> bytes:
    """The name of the function in an object file, those of the symbols that the file needs, a zero, and the file.

    The function takes the address of a block, in which it finds its two integers, and then the address and the lengths
    of the axes of each of its arrays.
    """
    if config.DISABLE_JIT:
        raise RuntimeError("it is switched off (NUMBA_DISABLE_JIT)")
    flags = Flags()
    # Of these the first are for calls from Python, by whom here nothing is called. By the error model of NumPy there is
    # no check for zero divisors, which stops SIMD; and without `fastmath`, nothing is rounded differently.
    flags.no_cpython_wrapper, flags.no_cfunc_wrapper, flags.nrt, flags.error_model = True, True, True, "numpy"
    made = compile_extra(
        cpu_target.typing_context,
        cpu_target.target_context,
        function(of.name, _of_an_address(of)),
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
    stem = f"anyoptim {name} {hash(text):x}"
    module = ModuleType(stem)
    executed(text, f"<{stem}>", vars(module))
    call: Callable[..., Any] = getattr(module, name)
    return call


def _of_an_address(of: Text) -> str:
    """The text with the function taking an address of a block, in whose first lines it makes arrays of what is there.

    One function, for of two Numba would infer the types twice, and make machine code of both.
    """
    arguments, result = sigutils.normalize_signature(of.signature)
    module = ast.parse(of.text)
    (changed,) = (each for each in module.body if isinstance(each, ast.FunctionDef) and each.name == of.name)
    names = [argument.arg for argument in changed.args.args]
    arrays = [t for t in arguments if isinstance(t, types.Array)]
    size = 2 + sum(1 + t.ndim for t in arrays)
    lines, at = [f"__block = __carray(__pointer(__at, 0), {size}, __numpy.uint64)"], 2
    for name, array in zip(names, arrays, strict=False):
        lengths = ", ".join(f"__numpy.int64(__block[{at + 1 + axis}])" for axis in range(array.ndim))
        lines.append(f"{name} = __carray(__pointer(__block[{at}], 0), ({lengths},), __numpy.{array.dtype})")
        at += 1 + array.ndim
    lines += [f"{name} = __numpy.int64(__block[{k}])" for k, name in enumerate(names[len(arrays) :])]
    end = "return True" if result == types.none else ""
    changed.args.args = [ast.arg("__at")]
    changed.body = [*ast.parse("\n".join(lines)).body, *changed.body, *ast.parse(end).body]
    return _HEAD + ast.unparse(module)


_HEAD = """\
import numpy as __numpy
from numba import carray as __carray
from anyoptim._machine._intrinsics import pointer as __pointer
"""
