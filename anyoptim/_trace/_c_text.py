"""Operations as C has them, and the kernel of the coefficients that a device alone can compute."""

from __future__ import annotations

from collections.abc import Iterable

from anyoptim._trace._operations import LOGICAL
from anyoptim._trace._symbols import Scalar
from anyoptim._trace._text import INFIX, Writer, filled

__all__ = ["CALLS", "OPERATIONS", "coefficients_text"]

OPERATIONS = {
    **Writer.operations,
    "not": "!{}",
    "where": "{0} ? {1} : {2}",
    "bound": "{0} < {1} ? {1} : {0} > {2} ? {2} : {0}",
}
CALLS = {
    "float32": {"sqrt": "sqrtf({})", "abs": "fabsf({})", "exp": "expf({})", "log": "logf({})", "power": "powf({}, {})"},
    "float64": {"sqrt": "sqrt({})", "abs": "fabs({})"},
}


def coefficients_text(places: Iterable[tuple[int, Scalar]]) -> str:
    """The kernel that computes expressions for these places of the rows, in float64, by one thread.

    An expression's `number` is the place of a number that the host sends behind the rows, and its `device` that of one
    which stands on the device: a norm, the number of replays of a captured step.
    """
    return filled(_COEFFICIENTS, lines=[f"rows[{place}] = {_double(expression)};" for place, expression in places])


_COEFFICIENTS = """\
// c, or the nearest number of its sign that is neither too small nor too large for a dtype, unless it's 0 or infinite.
__device__ double fitted(double c, double least, double largest)
{{
    const double size = fabs(c);
    return c == 0 || c - c != 0 ? c : copysign(size < least ? least : size > largest ? largest : size, c);
}}

extern "C" __global__ void coefficients(double *rows, const double *numbers, const double *device)
{{
    {lines}
}}
"""


def _double(s: Scalar) -> str:
    if s.op in {"number", "device"}:
        return f"{s.op if s.op == 'device' else 'numbers'}[{s.arguments[0]}]"
    return _DOUBLES[s.op].format(*map(_double, s.arguments))


_DOUBLES = {
    # Truth values are doubles, too, as in Python, where True / 2 is 0.5.
    op: f"double({text})" if op in LOGICAL else f"({text})"
    for op, text in {
        **OPERATIONS,
        **CALLS["float64"],
        **{op: f"({{}}) != 0 {INFIX[op]} ({{}}) != 0" for op in ("and", "or")},
        "where": "({}) != 0 ? {} : {}",
        "fitted": "fitted({}, {}, {})",
        "one_minus_power": "1.0 - pow({}, {})",
        "remainder": "fmod({}, {})",
        "expm1": "expm1({})",
    }.items()
}
