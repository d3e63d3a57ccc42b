"""Conversions between numbers and their bits, for generated code. They come with Numba."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "bfloat16_of",
    "bfloat16_wide",
    "bits",
    "exponent",
    "float16_of",
    "float16_wide",
    "number",
    "power_of_two",
    "product_and",
    "real",
    "word",
]

Word = Any
Real = Any


@intrinsic  # type: ignore[untyped-decorator]
def number(typing: Any, bits: Any) -> Any:
    """The float64 of 64 bits."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.uint64), code


@intrinsic  # type: ignore[untyped-decorator]
def bits(typing: Any, x: Any) -> Any:
    """The 64 bits of a float64, as a signed integer."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int64))

    return types.int64(types.float64), code


@intrinsic  # type: ignore[untyped-decorator]
def real(typing: Any, bits: Any) -> Any:
    """The float32 of 32 bits."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), code


@intrinsic  # type: ignore[untyped-decorator]
def word(typing: Any, x: Any) -> Any:
    """The 32 bits of a float32."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), code


@intrinsic  # type: ignore[untyped-decorator]
def product_and(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """`a*b + c` of float64 whose product is exact, so that it may be one operation where the processor has that."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        real = context.get_value_type(types.float64)
        kind = ir.FunctionType(real, (real, real, real))
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.fmuladd.f64"), arguments)

    return types.float64(types.float64, types.float64, types.float64), code


# `frexp` and `ldexp` are calls of a library that comes with Numba, without which machine code is loaded.


@njit(forceinline=True)  # type: ignore[untyped-decorator]
def exponent(bits_of: Any) -> Any:
    """The n with 2**(n-1) <= x < 2**n, of the float64 x above 0 that has these 64 bits."""
    if bits_of >> 52:
        return (bits_of >> 52) - 1022
    return (bits(number(types.uint64(bits_of)) * 2.0**54) >> 52) - 1022 - 54  # a subnormal number


@njit(forceinline=True)  # type: ignore[untyped-decorator]
def power_of_two(n: Any) -> Any:
    """2**n as a float64: 0 where it is too small, infinite where it is too large."""
    if n >= -1022:
        return number(types.uint64(min(n, 1024) + 1023) << types.uint64(52))
    return number(types.uint64(1) << types.uint64(n + 1074)) if n >= -1074 else 0.0


@njit(forceinline=True)  # type: ignore[untyped-decorator]
def bfloat16_wide(x: Word) -> Real:
    """The float32 of the 16 bits of a bfloat16."""
    return real(types.uint32(x) << types.uint32(16))


@njit(forceinline=True)  # type: ignore[untyped-decorator]
def bfloat16_of(x: Real) -> Word:
    """The 16 bits of a float32 rounded to the nearest bfloat16, ties to even."""
    bits = word(x)
    if x != x:
        return types.uint16(bits >> types.uint32(16) | types.uint32(0x40))
    return types.uint16(
        (bits + types.uint32(0x7FFF) + (bits >> types.uint32(16) & types.uint32(1))) >> types.uint32(16)
    )


@njit(forceinline=True)  # type: ignore[untyped-decorator]
def float16_wide(x: Word) -> Real:
    """The float32 of the 16 bits of a float16."""
    bits = types.uint32(x) << types.uint32(13) & types.uint32(0x7FFF << 13)
    exponent = bits & types.uint32(0x1F << 23)
    # By the difference of the exponents' biases, and once more for infinities and NaN.
    wide = real(bits + types.uint32((224 if exponent == 0x1F << 23 else 112) << 23))
    if exponent == 0:  # a subnormal number, of which this difference makes a normal one
        least = real(types.uint32(113 << 23))
        wide = real(bits + types.uint32(113 << 23)) - least
    return real(word(wide) | types.uint32(x) << types.uint32(16) & types.uint32(1 << 31))


@njit(forceinline=True)  # type: ignore[untyped-decorator]
def float16_of(x: Real) -> Word:
    """The 16 bits of a float32 rounded to the nearest float16, ties to even."""
    bits = word(x)
    size = bits & types.uint32(0x7FFFFFFF)
    if size >= types.uint32(143 << 23):  # beyond 2**16, or NaN
        rounded = types.uint32(0x7E00 if size > types.uint32(255 << 23) else 0x7C00)
    elif size < types.uint32(113 << 23):  # a subnormal number: the sum with 0.5 has no bits that are too small
        half = types.uint32(126 << 23)
        rounded = types.uint32(word(real(size) + real(half)) - half)
    else:
        odd = size >> types.uint32(13) & types.uint32(1)
        rounded = types.uint32(size - types.uint32(112 << 23) + types.uint32(0xFFF) + odd) >> types.uint32(13)
    return types.uint16(rounded | bits >> types.uint32(16) & types.uint32(0x8000))
