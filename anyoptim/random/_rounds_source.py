"""The rounds of Philox as lines of text: a line for each product, and the four words in terms of these."""

from __future__ import annotations

from collections.abc import Sequence

from anyoptim.random._rounds import rounds

__all__ = ["rounds_text"]


class _Text(str):
    __slots__ = ()

    def __xor__(self, other: str) -> _Text:
        return _Text(f"{self} ^ {other}")


def rounds_text(
    counter: Sequence[str], keys: Sequence[tuple[str, str]], line: str, high: str, low: str
) -> tuple[list[str], tuple[str, ...]]:
    """The lines, and the words in terms of them.

    `line` is a template of a name `p`, a multiplier `m` and an operand `x`; `high` and `low` are templates of the two
    words of the product `p`.
    """
    lines: list[str] = []

    def product(x: str, m: int) -> tuple[_Text, _Text]:
        p = f"p{len(lines)}"
        lines.append(line.format(p=p, m=m, x=x))
        return _Text(high.format(p=p)), _Text(low.format(p=p))

    return lines, rounds(map(_Text, counter), keys, product)
