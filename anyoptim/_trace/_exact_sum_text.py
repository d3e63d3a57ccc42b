"""The reduction as source text: loops for Numba and kernels for CUDA, beside each other, since they do the same."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from anyoptim._trace._exact_sum import (
    COLUMNS,
    FIRST,
    HALF,
    INFINITE,
    MASK,
    NAN,
    ROUNDERS,
    Kind,
    as_integer,
    bits_of,
    power_of,
)

__all__ = ["KERNELS", "LOOPS", "REDUCTION", "TOTALS", "loop_pieces", "pieces"]


def pieces(dtype: str, kind: Kind) -> dict[str, str | list[str]]:
    """What the templates leave open, but for names, for arithmetic in a dtype."""
    power, squares = power_of(kind), kind == "squares"
    one, two, three = (repr(rounder) for rounder, _ in ROUNDERS)
    # Squares and products of float32 do not overflow: there the digits have the scale, and not the elements.
    narrow = dtype == "float32"
    infinite_in_c = f"_a[_j] > {_LARGEST} ? 1.0 : _a[_j] < -{_LARGEST} ? {2.0**-40} : 0.0"
    unit = f"power_of_two({2 * HALF} * (_code + {FIRST})) if 0 < _code < {INFINITE} else 1.0"
    return {
        "one": one,
        "two": two,
        "three": three,
        "infinity": str(bits_of(math.inf)),
        "above": repr(ROUNDERS[0][0] + _ABOVE),
        "nothing": str(int(_ABOVE)),
        "limit": str(int(2 * _ABOVE)),
        "lowest": str(as_integer(-math.inf)),
        "magnitude": str(_MAGNITUDE),
        "tile": str(_TILE),
        "infinite": str(INFINITE),
        "nan": str(NAN),
        "half": str(HALF),
        "mask": str(MASK),
        "least": str(FIRST),
        "columns_of_rows": str(COLUMNS),
        "unit": unit if narrow else "1.0",
        "power": str(power),
        "scale": str(HALF // 2 * power),
        "term_in_c": "_y * _y" if squares else f"_code < {INFINITE} ? _y : {infinite_in_c}",
    }


_LARGEST, _MAGNITUDE = repr(sys.float_info.max), 2**63 - 1

_TILE = 1 << 10
"""The elements that a loop takes at a time, which stay in the first cache."""

_ABOVE = 2.0 ** (2 * HALF - 3)
"""What is added to the first digits in a loop, so that none of those that are in doubt is negative."""

_LOOP = """\
from anyoptim._machine._bits import bits, exponent, power_of_two, product_and


def {name}(_leaves, _chunks, _which, _coefficients, _rows, _first, _last):
    widest()
    _code = 0
    for _c in range(_first, _last):
        _leaf, _start, _length, _at = _chunks[_c]
        {coefficients}
        _known, _ones, _twos, _threes = 0, 0, 0, 0
        for _begin in range(_start, _start + _length, {tile}):
            _n = min({tile}, _start + _length - _begin)
            {arrays}
            {ahead}
            _guess = _code if 0 < _code < {infinite} else -1
            for _sure in (_guess < 0, True):
                if _sure:
                    _top = 0
                    for _i in range(_n):
                        {body}
                        {measured}
                    _code = _known
                    if _top >= {infinity}:
                        _code = max(_code, {infinite} if _top == {infinity} else {nan})
                    elif _top:
                        _code = max(_code, (exponent(_top) + {power} - 1) // ({power} * {half}) - {least})
                    if _code == _guess:
                        break
                _scale = power_of_two(-{scale} * (_code + {least})) if 0 < _code < {infinite} else 0.0
                _unit = {unit}
                _zero, _to_one, _to_two, _to_three = {one} * _unit, {above} * _unit, {two} * _unit, {three} * _unit
                _to_both = _to_two + _to_three
                _one, _two, _three, _seen = 0, 0, 0, 0
                for _i in range(_n):
                    {body}
                    {added}
                if _sure or (0 <= _seen < {limit} and (_code == _known or _seen != {nothing})):
                    break
            if _code >= {infinite}:
                _one, _two, _three = {count} * bits(_to_one), {count} * bits(_to_two), {count} * bits(_to_three)
                for _i in range(_n):
                    {body}
                    {infinities}
            for _ in range(min(_code - _known, 3)):
                _ones, _twos, _threes = 0, _ones, _twos
            _known = _code
            _ones += _one - {count} * bits(_to_one)
            _twos += _two - {count} * bits(_to_two)
            _threes += _three - {count} * bits(_to_three)
        _rows[_at, 0] = _code
        _rows[_at, 1], _rows[_at, 2] = _ones >> {half}, _ones & {mask}
        _rows[_at, 3], _rows[_at, 4] = _twos >> {half}, _twos & {mask}
        _rows[_at, 5], _rows[_at, 6] = _threes >> {half}, _threes & {mask}
"""

_LARGEST_LOOP = """\
from math import nan as _nan
from anyoptim._machine._bits import bits, number


def {name}(_leaves, _chunks, _which, _coefficients, _rows, _first, _last):
    widest()
    for _c in range(_first, _last):
        _leaf, _begin, _n, _at = _chunks[_c]
        {coefficients}
        {arrays}
        _top, _lost = {lowest}, 0
        for _i in range(_n):
            {body}
            {taken}
        _rows[_at, 0] = bits(_nan if _lost else number(uint64(_top ^ (_top >> 63 & {magnitude}))) + 0.0)
"""

_MEASURED = ["_top = max(_top, bits(abs(_value)))"]
# Of integers that are in the order of the numbers: a maximum of these LLVM takes by SIMD.
_TAKEN = [
    "_bits = bits(_value)",
    f"_top = max(_top, _bits ^ (_bits >> 63 & {_MAGNITUDE}))",
    "_lost |= _value != _value",
]
_INFINITIES = [f"_one += _value > {_LARGEST}", f"_two += _value < -{_LARGEST}"]
_EXACT = ["_a = product_and({0}, {1}, _to_one)", "_v = product_and({0}, {1}, _to_one - _a)"]
_ROUNDED = ["_a = _v + _to_one", "_v -= _a - _to_one"]
_ADDED = [
    "_b = _v + _to_two",
    "_one += bits(_a)",
    "_two += bits(_b)",
    "_three += bits(_v + (_to_both - _b))",
    "_seen |= bits(_a) ^ bits(_zero)",
]


def loop_pieces(dtype: str, kind: Kind, terms: Sequence[Sequence[str]]) -> dict[str, str | list[str]]:
    """What the templates of loops leave open, but for names and what comes before the terms of an element.

    Each is a value, or two that are to be multiplied. A product of two float32 is exact in float64: what rounds it to
    the first digit, and takes this from it, may be one operation with it.
    """
    parts: dict[str, list[str]] = {"measured": [], "taken": [], "infinities": [], "added": []}
    for term in terms:
        value, squares = f"_value = {' * '.join(term)}", kind == "squares"
        factors = [*term] * 2 if squares else [*term]
        if dtype == "float32" and len(factors) == 2:
            rounded = [line.format(*factors) for line in _EXACT]
        else:
            scaled = "_v = _value" if dtype == "float32" else "_v = _value * _scale * _scale"
            rounded = [value, scaled, *["_v *= _v"] * squares, *_ROUNDED]
        parts["measured"] += [value, *_MEASURED]
        parts["taken"] += [value, *_TAKEN]
        parts["infinities"] += ["pass"] if squares else [value, *_INFINITIES]
        parts["added"] += [*rounded, *_ADDED]
    return {**pieces(dtype, kind), **parts, "count": "_n" if len(terms) == 1 else f"{len(terms)} * _n"}


LOOPS: dict[Kind, str] = {"squares": _LOOP, "terms": _LOOP, "largest": _LARGEST_LOOP}
"""The function that writes a row of the reduction for each chunk; of a maximum its bits."""

TOTALS = f"""\
from math import inf, nan, sqrt
from numpy import float64, uint64
from anyoptim._machine._bits import number, power_of_two


def totals(_rows, _wanted, _sums, _values):
    for _k in range(len(_rows)):
        if _wanted[_k] == 2:
            _top = -inf
            for _c in range(_rows.shape[1]):
                _value = number(uint64(_rows[_k, _c, 0]))
                _top = _value if _value > _top or _value != _value else _top
            _values[_k] = _top
            continue
        _values[_k] = nan
        _code = 0
        for _c in range(_rows.shape[1]):
            _code = max(_code, _rows[_k, _c, 0])
        if not _wanted[_k] or _code >= {INFINITE}:
            continue
        for _j in range({COLUMNS - 1}):
            _sums[_j] = 0
        for _c in range(_rows.shape[1]):
            _past = 2 * (_code - _rows[_k, _c, 0])
            for _j in range(_past, {COLUMNS - 1}):
                _sums[_j] += _rows[_k, _c, 1 + _j - _past]
        _negative = False
        for _turn in range(2):
            for _j in range({COLUMNS - 2}, 0, -1):
                _sums[_j - 1] += _sums[_j] >> {HALF}
                _sums[_j] &= {MASK}
            if _turn == 0 and _sums[0] < 0:
                _negative = True
                for _j in range({COLUMNS - 1}):
                    _sums[_j] = -_sums[_j]
        _value = 0.0
        for _j in range({COLUMNS - 2}, -1, -1):
            _value = _value * {2.0**-HALF!r} + float64(_sums[_j])
        _value *= {2.0**HALF!r}
        _unit = power_of_two({HALF // 2} * (_code + {FIRST}))
        if _wanted[_k] == 3:
            _values[_k] = sqrt(_value) * _unit * _unit
            continue
        _values[_k] = (-_value if _negative else _value) * _unit * _unit * _unit * _unit
"""
"""The function that makes of all rows of each reduction what `total` does, where 1 is wanted, `largest`, where 2 is, or
`norm`, where 3 is; NaN where 0 is, and of terms that are not finite."""

_KERNEL = """\
    const int _lane = threadIdx.x % 32;
    for (int _b = threadIdx.x / 32; {block} * _b < _chunk.count; _b += blockDim.x / 32) {{
        double _a[32], _largest = 0.0;
        #pragma unroll
        for (int _j = 0; _j < 32; ++_j) {{
            const int _i = {block} * _b + 32 * _j + _lane;
            _a[_j] = _i < _chunk.count ? {name}_of({elements}) : 0.0;
            const double _size = fabs(_a[_j]);
            _largest = _size > _largest || _size != _size ? _size : _largest;
        }}
        #pragma unroll
        for (int _by = 16; _by > 0; _by /= 2) {{
            const double _size = __shfl_xor_sync(0xffffffffu, _largest, _by);
            _largest = _size > _largest || _size != _size ? _size : _largest;
        }}
        int _code = 0;
        if (_largest - _largest != 0)
            _code = _largest != _largest ? {nan} : {infinite};
        else if (_largest != 0) {{
            frexp(_largest, &_code);
            _code = (_code + {power} - 1 - {power} * {half} * {least}) / ({power} * {half});
        }}
        const double _scale = 0 < _code && _code < {infinite} ? ldexp(1.0, -{scale} * (_code + {least})) : 0.0;
        const double _rounders[3] = {{{one}, {two}, {three}}};
        long long _digits[3] = {{0, 0, 0}};
        #pragma unroll
        for (int _j = 0; _j < 32; ++_j) {{
            const double _y = _a[_j] * _scale * _scale;
            double _v = {term_in_c};
            #pragma unroll
            for (int _k = 0; _k < 3; ++_k) {{
                const double _rounded = _v + _rounders[_k];
                _digits[_k] += __double_as_longlong(_rounded) - __double_as_longlong(_rounders[_k]);
                _v -= _rounded - _rounders[_k];
            }}
        }}
        long long *_row = _rows_at + {columns_of_rows} * (_leaf[0] + _chunk.begin / {block} + _b);
        #pragma unroll
        for (int _k = 0; _k < 3; ++_k) {{
            #pragma unroll
            for (int _by = 16; _by > 0; _by /= 2)
                _digits[_k] += __shfl_xor_sync(0xffffffffu, _digits[_k], _by);
            if (_lane == 0) {{
                _row[2 * _k + 1] = _digits[_k] >> {half};
                _row[2 * _k + 2] = _digits[_k] & {mask};
            }}
        }}
        if (_lane == 0)
            _row[0] = _code;
    }}
}}
"""

_LARGEST_KERNEL = """\
    const int _lane = threadIdx.x % 32;
    for (int _b = threadIdx.x / 32; {block} * _b < _chunk.count; _b += blockDim.x / 32) {{
        double _largest = -ldexp(1.0, 2000);
        for (int _i = {block} * _b + _lane; _i < {block} * (_b + 1) && _i < _chunk.count; _i += 32) {{
            const double _value = {name}_of({elements});
            _largest = _value > _largest || _value != _value ? _value : _largest;
        }}
        #pragma unroll
        for (int _by = 16; _by > 0; _by /= 2) {{
            const double _value = __shfl_xor_sync(0xffffffffu, _largest, _by);
            _largest = _value > _largest || _value != _value ? _value : _largest;
        }}
        long long *_row = _rows_at + {columns_of_rows} * (_leaf[0] + _chunk.begin / {block} + _b);
        if (_lane == 0)
            _row[0] = __double_as_longlong(_largest + 0.0);
    }}
}}
"""

KERNELS: dict[Kind, str] = {"squares": _KERNEL, "terms": _KERNEL, "largest": _LARGEST_KERNEL}
"""The end of a kernel that writes a row of the reduction, or the bits of a maximum, for each block of 1,024 elements,
by one warp."""

REDUCTION = f"""\
// One row of the reduction for two, in the place of the first.
__device__ __forceinline__ void add(long long *a, const long long *b)
{{
    const long long code = a[0] > b[0] ? a[0] : b[0], past_a = 2 * (code - a[0]), past_b = 2 * (code - b[0]);
    for (int k = {COLUMNS - 1}; k > 0; --k)
        a[k] = (k > past_a ? a[k - past_a] : 0) + (k > past_b ? b[k - past_b] : 0);
    a[0] = code;
}}

// One row for n, of which as many as a power of two are thought: the second half is added to the first, until `to` are
// left. A thread has the rows whose places are equal modulo `to`, so that none waits for another until there are
// fewer than threads in a block; from there on there is one block.
extern "C" __global__ void __launch_bounds__(1024)
halve(long long *rows, long long n, long long half, long long to)
{{
    for (; half >= to; half /= 2) {{
        const long long stride = (long long)blockDim.x * gridDim.x;
        for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < half; i += stride)
            if (i + half < n)
                add(rows + {COLUMNS} * i, rows + {COLUMNS} * (i + half));
        __syncthreads();
    }}
}}

extern "C" __global__ void root(long long *row, double *norm)
{{
    const double infinite = ldexp(1.0, 2000), unit = ldexp(1.0, 10 * (int(row[0]) + {FIRST}));
    for (int k = {COLUMNS - 1}; k > 1; --k) {{
        row[k - 1] += row[k] >> {HALF};
        row[k] &= {MASK};
    }}
    double value = 0.0;
    for (int k = {COLUMNS - 1}; k > 0; --k)
        value = value * {2.0**-HALF!r} + double(row[k]);
    *norm = row[0] == {INFINITE} ? infinite
        : row[0] == {NAN} ? 0.0 * infinite
        : sqrt(value * {2.0**HALF!r}) * unit * unit;
}}

extern "C" __global__ void tick(double *count, long long by) {{ *count += by; }}
"""
"""The kernels beside those of rules: `halve` and `root` make a norm of rows, `tick` counts replays."""
