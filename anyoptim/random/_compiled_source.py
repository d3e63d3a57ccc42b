"""Dropout as loops for Numba to compile: `flat` where all elements lie in a row, `strided` where they do not.

Each counter stands by itself, so that the compiler makes vectors of counters: of their rounds, and in `flat` of the
elements that their choices are for. In place is a text of its own, because a compiler that can't tell two arrays apart
makes no vectors of what is read and written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from anyoptim._machine._generated import Text
from anyoptim._trace._text import filled
from anyoptim.random._rounds import CHOICES, GROUP, MASK, TURN, keys
from anyoptim.random._rounds_source import rounds_text

__all__ = ["BLOCK", "FLAT", "PARAMETERS", "ROWS", "Text", "flat", "strided"]

PARAMETERS = ("X", "Y", "OBJECTS", "N", "OFFSET", "KEY", "CALL", "LAST", "KEPT", "DROPPED", "TALL", "WIDE")
"""The parameters of a loop, in the order in which they stand in its array of 64-bit words.

The addresses of x and y, or the ids of these arrays, and which of both; the number of elements (of `flat`);
`anyoptim.random`'s offset, key and call; the last choice that drops; the bits of two float64 factors; and how many rows
and columns `strided` takes at a time.
"""

_AXES = ("LENGTH", "X_STEP", "Y_STEP", "CHOICE_STEP")
"""The columns of the array of axes: lengths and steps in elements, and steps in choices."""

BLOCK, ROWS = 1024, 256
"""The most elements, and the most rows, that `strided` takes at a time."""


class _Kind(NamedTuple):
    stored: str
    """The dtype that memory is read and written in."""
    real: str
    """The dtype of the arithmetic."""
    size: int
    """The bytes of an element."""
    lines: tuple[str, ...]
    """The lines from x to y, with the factor f; for complex numbers from both parts to both parts."""
    calls: tuple[str, ...] = ()


_COMPLEX = (  # as the product with a complex number that has no imaginary part
    "_f, _re, _im = {f}, {x0}, {x1}",
    "{y0} = _re * _f - _im * _zero",
    "{y1} = _re * _zero + _im * _f",
)
_HALF = "{{y}} = {0}_of({0}_wide({{x}}) * {{f}})"

_KINDS = {
    "float32": _Kind("float32", "float32", 4, ("{y} = {x} * {f}",)),
    "float64": _Kind("float64", "float64", 8, ("{y} = {x} * {f}",)),
    **{
        name: _Kind("uint16", "float32", 2, (_HALF.format(name),), (f"{name}_of", f"{name}_wide"))
        for name in ("float16", "bfloat16")
    },
    "complex64": _Kind("float32", "float32", 8, _COMPLEX),
    "complex128": _Kind("float64", "float64", 16, _COMPLEX),
}

FLAT = tuple(name for name, kind in _KINDS.items() if kind.lines is not _COMPLEX)
"""The dtypes that `flat` takes."""

_MODULE = """\
from numba import carray, njit
from numpy import {types}
from anyoptim._machine._bits import {calls}
from anyoptim._machine._array_headers import DATA
from anyoptim._machine._intrinsics import pointer, room, word

{columns}


@njit(forceinline=True, error_model="numpy")
def philox(c0, c1, c2, c3, k0, k1):
    low, half = uint64({mask}), uint64(32)
    {rounds}


@njit(forceinline=True, error_model="numpy")
def turned(w):
    return (w << uint64({turn}) | w >> uint64({turn})) & uint64({mask})


"""

_BEGIN = """\
    low, half = uint64({mask}), uint64(32)
    _c2, _c3 = _of[CALL] & low, _of[CALL] >> half
    _k0, _k1 = _of[KEY] & low, _of[KEY] >> half
    _last = _of[LAST]
    _from, _to = _of[X], _of[Y]
    if _of[OBJECTS]:
        _from, _to = word(_from + uint64(DATA)), word(_to + uint64(DATA))
    _kept, _dropped = {real}(number(_of[KEPT])), {real}(number(_of[DROPPED]))
    _zero = {real}(0)
"""

_FLAT = """\
def {name}(_of, _begin, _end):
    {begin}
    _n, _skip = int64(_of[N]), int64(_of[OFFSET] % uint64({group}))
    _first = _of[OFFSET] // uint64({group})
    # Those counters all of whose choices are for elements, as far as the high word of the counter is the same.
    _inner = max(_begin, 1 if _skip else 0)
    _outer = max(_inner, min(_end, (_skip + _n) // {group}))
    _i = _inner
    while _i < _outer:
        _c0, _c1 = (_first + uint64(_i)) & low, (_first + uint64(_i)) >> half
        _run = min(_outer - _i, int64(low - _c0) + 1)
        _at = {size} * ({group} * _i - _skip)
        _x = carray(pointer(_from, _at), {group} * _run * {parts}, {stored})
        _y = carray(pointer(_to, _at), {group} * _run * {parts}, {stored})
        for _j in range(_run):
            {first} = philox((_c0 + uint64(_j)) & low, _c1, _c2, _c3, _k0, _k1)
            {second}
            {body}
        _i += _run
    _x = carray(pointer(_from, 0), _n * {parts}, {stored})
    _y = carray(pointer(_to, 0), _n * {parts}, {stored})
    for _k in range(_begin, _end - (_outer - _inner)):
        _i = _k if _k < _inner else _k + _outer - _inner
        _c0, _c1 = (_first + uint64(_i)) & low, (_first + uint64(_i)) >> half
        {first} = philox(_c0, _c1, _c2, _c3, _k0, _k1)
        {second}
        {ends}
"""

_STRIDED = """\
def {name}(_of, _axes, _begin, _end):
    {begin}
    _choices, _at = carray(room({room_bytes}), {room}, uint32), carray(room({most_bytes}), {most}, int64)
    _rows, _columns = _axes[-2, LENGTH], _axes[-1, LENGTH]
    _x_row, _y_row, _choice_row = _axes[-2, X_STEP], _axes[-2, Y_STEP], _axes[-2, CHOICE_STEP]
    _x_column, _y_column, _choice_column = _axes[-1, X_STEP], _axes[-1, Y_STEP], _axes[-1, CHOICE_STEP]
    _tall, _wide = int64(_of[TALL]), int64(_of[WIDE])
    _down, _across = (_rows + _tall - 1) // _tall, (_columns + _wide - 1) // _wide
    for _block in range(_begin, _end):
        _rest = _block % (_down * _across)
        _i0, _j0 = _rest // _across * _tall, _rest % _across * _wide
        _high, _long = min(_tall, _rows - _i0), min(_wide, _columns - _j0)
        _x_at = _i0 * _x_row + _j0 * _x_column
        _y_at = _i0 * _y_row + _j0 * _y_column
        _choice = _i0 * _choice_row + _j0 * _choice_column
        _rest = _block // (_down * _across)
        for _d in range(len(_axes) - 3, -1, -1):
            _k = _rest % _axes[_d, LENGTH]
            _rest //= _axes[_d, LENGTH]
            _x_at += _k * _axes[_d, X_STEP]
            _y_at += _k * _axes[_d, Y_STEP]
            _choice += _k * _axes[_d, CHOICE_STEP]
        # Choices of one row, of all rows where they follow each other, or one row's for all.
        _run = _long if _choice_column else 1
        _draws, _step = _high, 0
        if _choice_row == _run or _choice_row == 0 or _high == 1:
            _draws, _step = 1, _choice_row
            _run = _run + (_high - 1) * _choice_row
        for _d in range(_draws):
            # The offset in counters and the rest, since their sum may be more than 64 bits hold.
            _number = _choice + _d * _choice_row + int64(_of[OFFSET] % uint64({group}))
            _first = _of[OFFSET] // uint64({group}) + uint64(_number // {group})
            _skip, _base = _number % {group}, _d * ((_run + {group} - 1) // {group} * {group} + {group})
            for _i in range((_skip + _run + {group} - 1) // {group}):
                _c = _first + uint64(_i)
                {first} = philox(_c & low, _c >> half, _c2, _c3, _k0, _k1)
                {second}
                {fill}
            _at[_d] = _base + _skip
        if _draws == 1:
            for _i in range(1, _high):
                _at[_i] = _at[0] + _i * _step
        if _x_column == 1 and _y_column == 1:
            for _i in range(_high):
                _x = carray(pointer(_from, {size} * (_x_at + _i * _x_row)), _long * {parts}, {stored})
                _y = carray(pointer(_to, {size} * (_y_at + _i * _y_row)), _long * {parts}, {stored})
                if _choice_column:
                    _w = _choices[_at[_i] : _at[_i] + _long]
                    for _j in range(_long):
                        {along}
                else:
                    _w = _choices[_at[_i]]
                    for _j in range(_long):
                        {shared}
        else:
            _x = carray(pointer(_from, {size} * _x_at), 1, {stored})
            _y = carray(pointer(_to, {size} * _y_at), 1, {stored})
            if abs(_x_row) < abs(_x_column):
                for _j in range(_long):
                    for _i in range(_high):
                        {any}
            else:
                for _i in range(_high):
                    for _j in range(_long):
                        {any}
"""


def flat(dtype: str, place: str) -> Text:
    """`drop(parameters, first, last)`: the elements of these counters.

    `place` is where the results go: "y", or "x", which then is written to and there is no y.
    """
    kind = _KINDS[dtype]
    body = [line for k in range(CHOICES) for line in _lines(kind, place, [f"{CHOICES} * _j + {k}"] * 2, f"_w{k}")]
    ends = []
    for k in range(CHOICES):
        ends += [f"_e = {CHOICES} * _i - _skip + {k}", "if 0 <= _e < _n:"]
        ends += [f"    {line}" for line in _lines(kind, place, ["_e", "_e"], f"_w{k}")]
    return _module("drop", _FLAT, kind, "void(uint64[::1], int64, int64)", body=body, ends=ends)


def strided(dtype: str, place: str) -> Text:
    """`drop_strided(parameters, axes, first, last)`: these blocks of the last two axes, of any steps."""
    kind = _KINDS[dtype]
    steps = {"x": "_i * _x_row + _j * _x_column", "y": "_i * _y_row + _j * _y_column"}
    return _module(
        "drop_strided",
        _STRIDED,
        kind,
        "void(uint64[::1], int64[:, ::1], int64, int64)",
        fill=[f"_choices[_base + {CHOICES} * _i + {k}] = uint32(_w{k})" for k in range(CHOICES)],
        along=_lines(kind, place, ["_j", "_j"], "_w[_j]"),
        shared=_lines(kind, place, ["_j", "_j"], "_w"),
        # By numbers without a sign, which wrap around as addresses do: Numba would count negative ones from the end.
        any=_lines(kind, place, [steps["x"], steps[place]], "_choices[_at[_i] + _j * _choice_column]", "uint64({})"),
    )


def _lines(kind: _Kind, place: str, elements: Sequence[str], choice: str, index: str = "{}") -> list[str]:
    """The lines from an element of x to one of y, which is kept where its choice is above the last that drops."""
    names = {}
    for name, array, element in (("x", "_x", elements[0]), ("y", f"_{place}", elements[1])):
        names[name] = f"{array}[{index.format(element)}]"
        for part in (0, 1):
            names[f"{name}{part}"] = f"{array}[{index.format(f'2 * ({element}) + {part}')}]"
    return [line.format(f=f"(_kept if {choice} > _last else _dropped)", **names) for line in kind.lines]


def _module(name: str, template: str, kind: _Kind, signature: str, **lines: list[str]) -> Text:
    numbers = {
        "name": name,
        "mask": f"{MASK:#x}",
        "group": str(CHOICES),
        "turn": str(TURN),
        "first": ", ".join(f"_w{k}" for k in range(GROUP)),
        "size": str(kind.size),
        "parts": "2" if kind.lines is _COMPLEX else "1",
        "stored": kind.stored,
        "real": kind.real,
        "room": str(BLOCK + 2 * CHOICES * ROWS),
        "most": str(ROWS),
        "room_bytes": str(4 * (BLOCK + 2 * CHOICES * ROWS)),
        "most_bytes": str(8 * ROWS),
        "types": ", ".join(sorted({kind.stored, kind.real, "int64", "uint32", "uint64"})),
        "calls": ", ".join(sorted({*kind.calls, "number"})),
    }
    second = [f"_w{k} = turned(_w{k - GROUP})" for k in range(GROUP, CHOICES)]
    columns = [f"{', '.join(names)} = range({len(names)})" for names in (PARAMETERS, _AXES)]
    begin = [line[4:] for line in filled(_BEGIN, **numbers).splitlines()]
    head = filled(_MODULE, **numbers, columns=columns, rounds=_rounds())
    return Text(name, head + filled(template, **numbers, begin=begin, second=second, **lines), signature)


def _rounds() -> list[str]:
    lines, four = rounds_text(
        [f"c{k}" for k in range(GROUP)],
        [(f"(k0 + uint64({k0:#x}) & low)", f"(k1 + uint64({k1:#x}) & low)") for k0, k1 in keys((0, 0))],
        "{p} = uint64({m:#x}) * ({x})",
        "({p} >> half)",
        "({p} & low)",
    )
    return [*lines, f"return {', '.join(four)}"]
