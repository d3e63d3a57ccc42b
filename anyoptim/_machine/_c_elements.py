"""The types of CUDA C for the elements of arrays, `Element`, and for arithmetic on them, `real`."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ELEMENTS", "Element"]


class Element(NamedTuple):
    """The text that defines both types, and `wide` and `narrow` between them."""

    text: str
    real: str
    """The name of the arithmetic's dtype."""


_PLAIN = """\
typedef {real} real;
typedef real Element;
__device__ __forceinline__ real wide(Element x) {{ return x; }}
__device__ __forceinline__ Element narrow(real x) {{ return x; }}
"""

_BFLOAT16 = """\
typedef float real;
struct Element { unsigned short bits; };

__device__ __forceinline__ real wide(Element x)
{
    const unsigned bits = (unsigned)x.bits << 16;
    return *(const float *)&bits;
}

__device__ __forceinline__ Element narrow(real x)
{
    const unsigned bits = *(const unsigned *)&x;
    if (x != x)
        return Element{(unsigned short)(bits >> 16 | 0x40)};
    return Element{(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};  // to the nearest, ties to even
}
"""

_FLOAT16 = """\
typedef float real;
struct Element { unsigned short bits; };

#ifdef __CUDACC__
__device__ __forceinline__ real wide(Element x)
{
    real y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

__device__ __forceinline__ Element narrow(real x)
{
    Element y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
#else  // a compiler for hosts
static inline real wide(Element x) { return *(const _Float16 *)&x; }
static inline Element narrow(real x) { const _Float16 y = x; return *(const Element *)&y; }
#endif
"""

ELEMENTS = {
    "float32": Element(_PLAIN.format(real="float"), "float32"),
    "float64": Element(_PLAIN.format(real="double"), "float64"),
    "float16": Element(_FLOAT16, "float32"),
    "bfloat16": Element(_BFLOAT16, "float32"),
}
"""The types for arrays of each dtype."""
