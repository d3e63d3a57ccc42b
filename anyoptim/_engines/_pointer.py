"""What generated code asks of Numba beside its own functions. Imports Numba, so nothing here is imported before it."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["pointer", "word"]


@intrinsic
def pointer(typing: Any, address: Any, offset: Any) -> Any:
    """The pointer to an address and so many bytes more."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(builder.add(*arguments), cgutils.voidptr_t)

    return types.voidptr(types.uint64, types.int64), code


@intrinsic
def word(typing: Any, address: Any) -> Any:
    """The 64 bits at an address."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], cgutils.intp_t.as_pointer()))

    return types.uint64(types.uint64), code
