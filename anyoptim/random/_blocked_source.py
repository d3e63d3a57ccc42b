"""Philox as NumPy calls over buffers of 64-bit numbers, each in place, where there is no compiler.

`chosen` writes, for counters whose first words are in `b0` and whose other words are the same, which choices are kept::

    def draw(c1, c2, c3, k, raised, last, found, b0, b1, b2, b3):
        multiply(b0, m0, b0)
        ...
        right_shift(b1, half, b1)
        multiply(b1, m1, b1)
        ...
        greater(b2, last, found[0])
        right_shift(b2, half, b2)
        multiply(b2, turn, b2)
        greater(b2, last, found[4])
        ...

`chosen_of_calls` the same for counters whose third words, the calls, are in `b2`, and `drawn` the words themselves, or
the choices.

`k` are the keys of the rounds, `raised` the same in the upper halves, as arrays; `last` is the last choice that drops,
above ones. A word of each counter is one half of the numbers in a buffer, whatever the other half is; the product of
one in the lower half and `turn` has its halves, exchanged, in the upper one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyoptim.random._rounds import CHOICES, GROUP, MASK, MULTIPLIERS, ROUNDS, TURN, rounds

__all__ = ["CALLED", "EXCHANGE", "chosen", "chosen_of_calls", "drawn"]

CALLED = ("bitwise_xor", "greater", "left_shift", "multiply", "right_shift")
"""The universal functions that the text calls. Beside them it has arrays: `half` is 32, `m0` and `m1` are the
multipliers, `turn` is `EXCHANGE`, and `above(word)` has a word in its upper half."""

EXCHANGE = 1 << (32 + TURN) | 1 << TURN


class _Common:
    """A word that all counters have in common, which is a number of the host; a key is an array, too."""

    def __init__(self, text: str, array: str | None = None) -> None:
        self.text, self.array = text, array or f"above({text})"

    def __xor__(self, other: Any) -> Any:
        return other ^ self if isinstance(other, _Words) else _Common(f"({self.text} ^ {other.text})")


class _Writer:
    def __init__(self, filled: Sequence[int]) -> None:
        self.lines: list[str] = []
        self.free = [f"b{k}" for k in range(GROUP) if k not in filled]
        self.numbers = 0

    def product(self, x: Any, m: int) -> tuple[Any, Any]:
        if isinstance(x, _Common):
            p = f"p{self.numbers}"
            self.numbers += 1
            self.lines.append(f"{p} = {m:#x} * {x.text}")
            return _Common(f"({p} >> 32)"), _Common(f"({p} & {MASK:#x})")
        if x.upper:
            self.lines.append(f"right_shift({x.at}, half, {x.at})")
        self.lines.append(f"multiply({x.at}, m{MULTIPLIERS.index(m)}, {x.at})")
        return _Words(self, x.at, shared=True), _Words(self, x.at, upper=False)


class _Words:
    """A word of each counter, in a buffer.

    Both words of a product are in one buffer, and the upper one, used first, leaves it as it is. All others are
    overwritten when they are used.
    """

    def __init__(self, writer: _Writer, at: str, upper: bool = True, shared: bool = False) -> None:
        self.writer, self.at, self.upper, self.shared = writer, at, upper, shared

    def raised(self) -> str:
        """The name of the buffer, once the words are in its upper halves."""
        if not self.upper:
            self.writer.lines.append(f"left_shift({self.at}, half, {self.at})")
        return self.at

    def __xor__(self, other: Any) -> _Words:
        into = other.at if isinstance(other, _Words) else self.writer.free.pop() if self.shared else self.at
        right = other.at if isinstance(other, _Words) else other.array
        self.writer.lines.append(f"bitwise_xor({self.raised()}, {right}, {into})")
        return _Words(self.writer, into)


def chosen() -> str:
    """The text of a `draw` of truth values: whether each choice is above the last that drops."""
    return _draw(_CHOSEN, CHOICES)


def chosen_of_calls() -> str:
    """The same for counters of several calls."""
    return _draw(_CHOSEN, CHOICES, (0, 2))


def drawn(group: int) -> str:
    """The text of a `draw` of numbers: so many of each counter."""
    return _draw("right_shift({at}, half, found[{k}])", group)


_CHOSEN = "greater({at}, last, found[{k}])"


def _draw(store: str, group: int, filled: Sequence[int] = (0,)) -> str:
    """`filled` are the words of the counters that lie in the buffers of these numbers."""
    writer = _Writer(filled)
    keys = [[_Common(f"k[{r}][{i}]", f"raised[{r}][{i}]") for i in (0, 1)] for r in range(ROUNDS)]
    counter = [_Words(writer, f"b{k}", upper=False) if k in filled else _Common(f"c{k}") for k in range(GROUP)]
    for k, word in enumerate(rounds(counter, [(a, b) for a, b in keys], writer.product)):
        at = word.raised()
        writer.lines.append(store.format(at=at, k=k))
        if group == CHOICES:
            turned = f"right_shift({at}, half, {at})", f"multiply({at}, turn, {at})"
            writer.lines += [*turned, store.format(at=at, k=GROUP + k)]
    buffers = ", ".join(f"b{k}" for k in range(GROUP))
    head = f"def draw(c1, c2, c3, k, raised, last, found, {buffers}):"
    return "\n    ".join([head, *writer.lines]) + "\n"
