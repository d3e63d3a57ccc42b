"""The numbers of Philox4x32-10 and its round, for all who draw; `anyoptim.random` says which draw is whose."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["CHOICES", "GROUP", "INCREMENTS", "MASK", "MULTIPLIERS", "ROUNDS", "TURN", "bumped", "keys", "rounds"]

GROUP = 4
"""The words of a counter."""

TURN = 16
"""The bits of half a word. Turned by so many, a word has its halves exchanged."""

CHOICES = 8
"""The choices of a counter, of 32 bits each: its four words, then these with their halves exchanged.

A choice is compared with a limit, and all but one in 65536 are decided by their upper half; so the lower half of a word
is good for another, at no more arithmetic. It is below a limit as often as the word, since exchanging halves gives
every word once. `anyoptim.random.bernoulli` says what the two have to do with each other.
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
    """The four words after a round with this key. `product` gives the high and the low word of a product.

    Each value is used once: `product` and `^` may overwrite their operands with their results.
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
