"""Dropout as CUDA C: Philox in registers, one read and one write for each element, no mask.

A thread has one counter, its four words and these with their halves exchanged, and the eight elements that they are
for: `anyoptim.random` says which.
"""

from __future__ import annotations

import functools

from anyoptim._engines.cuda._source import THREADS, Kernel
from anyoptim._machine._c_elements import ELEMENTS
from anyoptim.random._rounds import CHOICES, GROUP, TURN, keys
from anyoptim.random._rounds_source import rounds_text

__all__ = ["dropout_kernel"]

_KERNEL = """\
struct alignas({choices} * sizeof(Element) < 16 ? {choices} * sizeof(Element) : 16) Vector { Element at[{choices}]; };

// Philox4x32, in place.
__device__ __forceinline__ void philox(unsigned *c, unsigned k0, unsigned k1)
{
    {rounds}
}

// y = x * (scale where an element's choice is at least `threshold`, else 0), for n of them from choice `offset` on.
extern "C" __global__ void __launch_bounds__({threads})
dropout(const Element *x, Element *y, unsigned long long n, unsigned long long offset, unsigned long long key,
    unsigned long long call, unsigned long long threshold, unsigned long long scale_bits)
{
    const unsigned long long counter = offset / {choices} + (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    const long long first = (long long)({choices} * counter - offset);
    if (first >= (long long)n)
        return;
    unsigned choice[{choices}] = {(unsigned)counter, (unsigned)(counter >> 32), (unsigned)call, (unsigned)(call >> 32)};
    philox(choice, (unsigned)key, (unsigned)(key >> 32));
    #pragma unroll
    for (int k = 0; k < {group}; ++k)
        choice[{group} + k] = choice[k] << {turn} | choice[k] >> {turn};
    const real scale = real(*(const double *)&scale_bits);
    const bool whole = first >= 0 && first + {choices} <= (long long)n;
    if (whole && ((unsigned long long)(x + first) | (unsigned long long)(y + first)) % alignof(Vector) == 0) {
        Vector v = *(const Vector *)(x + first);
        #pragma unroll
        for (int k = 0; k < {choices}; ++k)
            v.at[k] = narrow(wide(v.at[k]) * (choice[k] >= threshold ? scale : real(0)));
        *(Vector *)(y + first) = v;
        return;
    }
    #pragma unroll
    for (int k = 0; k < {choices}; ++k)
        if (first + k >= 0 && first + k < (long long)n)
            y[first + k] = narrow(wide(x[first + k]) * (choice[k] >= threshold ? scale : real(0)));
}
"""


@functools.cache
def dropout_kernel(dtype: str) -> Kernel:
    """The kernel for elements of one dtype; half precision is scaled in float32."""
    text = _KERNEL
    for name, number in (("group", GROUP), ("choices", CHOICES), ("turn", TURN), ("threads", THREADS)):
        text = text.replace(f"{{{name}}}", str(number))
    text = text.replace("{rounds}", "\n    ".join(_rounds()))
    return Kernel("dropout", ELEMENTS[dtype].text + "\n" + text)


def _rounds() -> list[str]:
    lines, four = rounds_text(
        [f"c[{k}]" for k in range(GROUP)],
        [(f"(k0 + {k0:#x}u)", f"(k1 + {k1:#x}u)") for k0, k1 in keys((0, 0))],
        "const unsigned long long {p} = {m:#x}ull * ({x});",
        "(unsigned)({p} >> 32)",
        "(unsigned){p}",
    )
    return [*lines, *(f"c[{k}] = {word};" for k, word in enumerate(four))]
