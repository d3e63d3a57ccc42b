"""The numbers of Philox4x32-10 and its round, for all who draw words; `anyoptim.random` says which word is whose."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["CHOICES", "GROUP", "HALF", "INCREMENTS", "MASK", "MULTIPLIERS", "ROUNDS", "bumped", "keys", "rounds"]

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


def bumped(counter: Iterable[Any], k0: Any, k1: Any, product: Callable[[Any, int], Any]) -> tuple[Any, ...]:
    """The four words after a round with this key, given what makes the high and the low word of a product.

    Each of these is used once: what `product` and `^` are given may be overwritten with what they give.
    """
    c0, c1, c2, c3 = counter
    high, low0 = product(c0, MULTIPLIERS[0])
    after = high ^ (c3 ^ k1)
    high, low1 = product(c2, MULTIPLIERS[1])
    return high ^ (c1 ^ k0), low1, after, low0


def rounds(
    counter: Iterable[Any], keys: Iterable[tuple[Any, Any]], product: Callable[[Any, int], Any]
) -> tuple[Any, ...]:
    """The four words of a counter of four: a round for each key."""
    words = tuple(counter)
    for k0, k1 in keys:
        words = bumped(words, k0, k1, product)
    return words
