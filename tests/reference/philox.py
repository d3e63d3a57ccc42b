"""Philox in Python's own integers, and the words and choices that are counted with it."""

from __future__ import annotations

MASK = 0xFFFFFFFF


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python's own integers, from equation and constants of the paper (section 3.3)."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & MASK, (a >> 32) ^ c3 ^ k1, a & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return [c0, c1, c2, c3]


def word(i: int, key: int, call: int) -> int:
    return _counted(i // 4, key, call)[i % 4]


def choice(i: int, key: int, call: int) -> int:
    """The choice that `bernoulli` compares with its threshold."""
    found = _counted(i // 8, key, call)[i % 4]
    return found if i % 8 < 4 else (found & 0xFFFF) << 16 | found >> 16


def _counted(block: int, key: int, call: int) -> list[int]:
    return philox([block & MASK, block >> 32, call & MASK, call >> 32], [key & MASK, key >> 32])
