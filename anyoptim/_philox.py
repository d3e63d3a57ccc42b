"""The numbers of Philox4x32-10 and its round, for all who draw words; `anyoptim.random` says which word is whose."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["CHOICES", "GROUP", "HALF", "INCREMENTS", "MASK", "MULTIPLIERS", "ROUNDS", "keys", "rounds"]

GROUP = 4
"""Words of a counter."""

HALF = 16
"""Bits of half a word."""

CHOICES = 8
"""Words of a counter that choices are made with: those four, then the four with their halves exchanged.

A choice compares a word with a limit, which the upper half alone decides but for one word in 65536: the lower half has
a second choice in it, for half of the arithmetic. Each is as likely as the limit says, to 2**-32, since every word has
one that it comes from; `anyoptim.random.bernoulli` says what two of a word have to do with each other.
"""

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
INCREMENTS = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF


def keys(key: tuple[int, int]) -> list[tuple[int, int]]:
    """The key of each round."""
    k0, k1 = key
    return [((k0 + r * INCREMENTS[0]) & MASK, (k1 + r * INCREMENTS[1]) & MASK) for r in range(ROUNDS)]


def rounds(
    counter: Iterable[Any], keys: Iterable[tuple[Any, Any]], product: Callable[[Any, int], Any]
) -> tuple[Any, ...]:
    """The four words of a counter of four, given the key of each round and the high and the low word of a product.

    Each of these is used once: what `product` and `^` are given may be overwritten with what they give.
    """
    c0, c1, c2, c3 = counter
    for k0, k1 in keys:
        high, low0 = product(c0, MULTIPLIERS[0])
        after = high ^ (c3 ^ k1)
        high, low1 = product(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high ^ (c1 ^ k0), low1, after, low0
    return c0, c1, c2, c3
