"""The functions that generated code calls beside Python's and Numba's own. They come with Numba."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from anyoptim._machine._array_headers import (
    ALIGNED,
    BYTES,
    DATA,
    DTYPE,
    FIRST,
    FLAGS,
    MIRROR,
    NDIM,
    ORDER,
    PARAMETER,
    SHAPE,
    TYPE,
    WRITEABLE,
)

__all__ = ["alike", "located", "no_overlap", "pointer", "prefetch", "room", "widest", "word"]

Addresses = Any


@intrinsic  # type: ignore[untyped-decorator]
def pointer(typing: Any, address: Any, offset: Any) -> Any:
    """The pointer to an address and so many bytes more."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(builder.add(*arguments), cgutils.voidptr_t)

    return types.voidptr(types.uint64, types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def word(typing: Any, address: Any) -> Any:
    """The 64 bits at an address."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], cgutils.intp_t.as_pointer()))

    return types.uint64(types.uint64), code


@intrinsic  # type: ignore[untyped-decorator]
def _touch(typing: Any, address: Any) -> Any:
    """Ask for the line of the cache at an address, whether or not there is memory."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        line, word = cgutils.voidptr_t, ir.IntType(32)
        read, soon, data = (ir.Constant(word, n) for n in (0, 2, 1))  # into the second cache
        kind = ir.FunctionType(ir.VoidType(), (line, word, word, word))
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(call, (builder.inttoptr(arguments[0], line), read, soon, data))
        return context.get_dummy_value()

    return types.void(types.uint64), code


@njit(forceinline=True)  # type: ignore[untyped-decorator]
def prefetch(address: Any, offset: Any, size: Any) -> None:
    """Begin to fetch so many bytes, so many behind an address: of each page the first lines.

    The processor sees that the others are wanted too, but it does not look beyond a page by itself.
    """
    for page in range(0, size, _PAGE):
        for line in range(0, _LINES * _LINE, _LINE):
            _touch(types.uint64(address + types.uint64(offset + page + line)))


_PAGE, _LINE, _LINES = 4096, 64, 12


@intrinsic  # type: ignore[untyped-decorator]
def widest(typing: Any) -> Any:
    """Have LLVM take vectors as long as there are in the function that calls this: of 512 bits it takes none unasked.

    Intel's processors before Ice Lake lower their clock for these, which may cost more than they gain.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if get_host_cpu_features().get("avx512vbmi2"):
            set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # a name that llvmlite does not know
        return context.get_dummy_value()

    return types.void(), code


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def room(typing: Any, size: Any) -> Any:
    """The pointer to so many bytes on the stack, a literal number. Numba's own arrays would need its runtime."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words = ir.ArrayType(ir.IntType(64), -(-size.literal_value // 8))
        return builder.bitcast(cgutils.alloca_once(builder, words), cgutils.voidptr_t)

    return types.voidptr(size), code


@njit(nogil=True)  # type: ignore[untyped-decorator]
def located(leaves: Addresses, grads: Addresses) -> bool:
    """Whether each parameter lies where it did, writeable, and its gradient has its dtype, shape and memory order.

    Gradients are given by id. Their addresses are written to the table of leaves.
    """
    for i in range(len(leaves)):
        p, mirror, x = leaves[i, PARAMETER], leaves[i, MIRROR], grads[i]
        order = leaves[i, ORDER] | ALIGNED
        ndim = word(mirror + NDIM) & 0xFFFFFFFF
        if (
            word(p + DATA) != word(mirror + DATA)
            or word(p + DTYPE) != word(mirror + DTYPE)
            or word(p + FLAGS) & (order | WRITEABLE) != order | WRITEABLE
            or word(p + NDIM) & 0xFFFFFFFF != ndim
            or word(x + TYPE) != word(mirror + TYPE)
            or word(x + DTYPE) != word(mirror + DTYPE)
            or word(x + FLAGS) & order != order
            or word(x + NDIM) & 0xFFFFFFFF != ndim
        ):
            return False
        for k in range(ndim):
            length = word(word(mirror + SHAPE) + 8 * k)
            if word(word(p + SHAPE) + 8 * k) != length or word(word(x + SHAPE) + 8 * k) != length:
                return False
        leaves[i, FIRST + 1] = word(x + DATA)
    return True


@njit(nogil=True)  # type: ignore[untyped-decorator]
def no_overlap(leaves: Addresses, written: Addresses) -> bool:
    """Whether no gradient lies in memory that will be written to, given as stretches in order, by begin and end."""
    for i in range(len(leaves)):
        low = leaves[i, FIRST + 1]
        high = low + leaves[i, BYTES]
        left, right = 0, len(written)
        while left < right:
            middle = (left + right) // 2
            if written[middle, 1] <= low:
                left = middle + 1
            else:
                right = middle
        if left < len(written) and written[left, 0] < high and low < high:
            return False
    return True


@njit(nogil=True)  # type: ignore[untyped-decorator]
def alike(leaves: Addresses, grads: Addresses, written: Addresses) -> bool:
    """Whether a step like the last one can be taken with these gradients."""
    return bool(located(leaves, grads)) and bool(no_overlap(leaves, written))
