"""Keys, calls and offsets of counted random numbers, valid ones and others."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

U64 = st.integers(0, 2**64 - 1)

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"key": -1}, ValueError, r"key is -1; wanted at least 0 and below 2\*\*64"),
    ({"key": 2**64}, ValueError, "key is 18446744073709551616"),
    ({"key": 1.0}, TypeError, "key is 1.0; wanted an integer"),
    ({"key": 0, "call": -1}, ValueError, "call is -1"),
    ({"key": 0, "call": 0.5}, TypeError, "call is 0.5; wanted an integer"),
    ({"key": 0, "offset": 2**64}, ValueError, "offset is 18446744073709551616"),
]
