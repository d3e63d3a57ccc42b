"""Numbers made of words, one of each, and truth values of choices: the same on every library, made of integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anyoptim._arrays import COMPUTE, Array, Library, library, traced, uncompiled
from anyoptim._arrays._library import A
from anyoptim._trace._hyperparameters import share
from anyoptim.random._dropout import numpy_draws
from anyoptim.random._philox import bits, choices, library_of
from anyoptim.random._place import Offset
from anyoptim.random._quantile import upper

__all__ = ["below", "bernoulli", "normal", "threshold", "uniform"]

_DIGITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 32}
"""The bits of a word that a number between 0 and 1 keeps: as many as it can without becoming 1."""


BLOCK = 1 << 15
"""The words of NumPy that become normal numbers at a time, so that all steps stay in the cache: a third of the time."""


def uniform(
    shape: Sequence[int],
    key: int,
    call: Any = 0,
    offset: Offset = 0,
    *,
    within: Sequence[int] | None = None,
    like: A,
) -> A:
    """Independent numbers from 0 to below 1, each as likely: element i is made of word `offset + i` of this call.

    ::

        floor(word / 2**(32-d)) / 2**d        d = 32 in float64, 24 in float32, 11 in float16, 8 in bfloat16

    So they are multiples of 2**-d, in float64 too, and those of a short dtype are those of a long one, cut off.

    Args:
        shape: of the result.
        key: the stream, 0 <= key < 2**64.
        call: the draw within the stream, as for `bits`.
        offset: where this shape begins within a larger draw, as for `bits`.
        within: the shape of the larger draw, as for `bits`.
        like: a real floating array, whose library, device and dtype the result has.

    Raises like `bits`; TypeError for another dtype.

    >>> ao.random.uniform((3,), key=0, like=np.empty(0)).round(3)
    array([0.399, 0.881, 0.736])
    """
    arrays, name = _floating(like)
    words = bits(shape, key, call, offset, within=within, like=like)
    digits = _DIGITS[name]
    return _exact(arrays, words if digits == 32 else words >> (32 - digits), 2.0**-digits, like)  # type: ignore[no-any-return]


def bernoulli(
    p: float,
    shape: Sequence[int],
    key: int,
    call: Any = 0,
    offset: Offset = 0,
    *,
    within: Sequence[int] | None = None,
    like: Array,
) -> Array:
    """Truth values, True with probability p: element i where choice `offset + i` of this call is small.

    ::

        choice < round(p * 2**32)

    With q the four words of Philox(counter = (i // 8, call), key), choice i is q[i % 8] where i % 8 < 4, and q[i % 4]
    with its two halves of 16 bits exchanged where not. So it takes one draw for eight elements, and not two, and
    p is as exact as with a word for each. Elements that share no word are independent. The two that share one are,
    where p * 2**16 is whole; otherwise their correlation is below 2**-14 for p from 1e-5 to 1 - 1e-5, and for any p the
    chance that both are True is less than 2**-17 above p*p.

    Args:
        p: the probability, 0 to 1, to the nearest 2**-32; exact at both ends.
        shape: of the result.
        key: the stream, 0 <= key < 2**64.
        call: the draw within the stream, as for `bits`.
        offset: where this shape begins within a larger draw, as for `bits`.
        within: the shape of the larger draw, as for `bits`.
        like: an array whose library and device the result has.

    Raises like `bits`; TypeError and ValueError for a p that is no number from 0 to 1.

    >>> ao.random.bernoulli(0.5, (4,), key=0, like=np.empty(0))
    array([ True, False, False, False])
    """
    limit = threshold("p", p)
    drawn = choices(shape, key, call, offset, within, like)
    return library(drawn).array(below(drawn, limit))


@uncompiled
def normal(
    shape: Sequence[int],
    key: int,
    call: Any = 0,
    offset: Offset = 0,
    *,
    within: Sequence[int] | None = None,
    like: A,
) -> A:
    """Independent standard normal numbers: element i is made of word `offset + i` of this call.

    ::

        z((2*(word mod 2**31) + 1) / 2**33)        and minus that where word >= 2**31

    with z(q) the number that a standard normal one exceeds with probability q, to 1.4e-8, in multiples of 2**-29. It
    is found with integers alone: the same on every library and under `jax.jit`, in float32 that of float64,
    rounded. Each of the 2**32 words gives one, none longer than 6.34, and the longest few with gaps between: the
    last three have lengths 6.34, 6.17 and 6.09; near 0 several words give the same. Where tails beyond one in
    2**26, or more than 32 bits matter, they won't do.

    Args:
        shape: of the result.
        key: the stream, 0 <= key < 2**64.
        call: the draw within the stream, as for `bits`.
        offset: where this shape begins within a larger draw, as for `bits`.
        within: the shape of the larger draw, as for `bits`.
        like: a real floating array, whose library, device and dtype the result has; float16 and bfloat16 are
            rounded from float32.

    Raises like `bits`; TypeError for another dtype.

    Source: inversion, as in Devroye, Non-uniform random variate generation, 1986, section 2.2.

    >>> ao.random.normal((3,), key=0, like=np.empty(0)).round(3)
    array([ 0.256, -0.304, -0.72 ])
    """
    arrays, name = _floating(like)
    if numpy_draws(arrays, like) and not isinstance(like, np.ndarray):  # NumPy's calls are the faster ones
        drawn = normal(shape, key, call, offset, within=within, like=np.empty(0, COMPUTE[name]))
        return arrays.from_host(drawn, like)  # type: ignore[no-any-return] # of the type that was given
    words = bits(shape, key, call, offset, within=within, like=like)
    if type(words) is np.ndarray:
        numbers, flat = np.empty(words.size, like.dtype), words.reshape(-1)
        for at in range(0, words.size, BLOCK):
            numbers[at : at + BLOCK] = _normal(arrays, flat[at : at + BLOCK], like)
        return numbers.reshape(words.shape)  # type: ignore[return-value]
    return arrays.array(_normal(arrays, words, like))  # type: ignore[no-any-return] # of the type that was given


def _normal(arrays: Library, words: Array, like: Array) -> Array:
    xp = arrays.xp
    size = _exact(arrays, upper(arrays, words), 2.0**-29, like, narrow=False)
    drawn = xp.where(below(words, 1 << 31), size, -size)
    return xp.astype(drawn, like.dtype, copy=False)


def threshold(name: str, p: float) -> int:
    """The number of the 2**32 words that a probability stands for. Raises TypeError and ValueError with the name."""
    if traced(p):
        raise TypeError(f"{name} is traced; wanted a number that is known when the function is compiled")
    value: float = share.value(name, p)
    return round(value * 2**32)


def below(words: Array, limit: int) -> Array:
    """Truth values: whether each word is below a limit, which may be 2**32."""
    arrays = library(words)
    # The largest word that is, and not the limit, because 2**32 itself is no word.
    return words < 0 if limit == 0 else words <= arrays.scalar(limit - 1, words.dtype, words)


def _floating(like: Array) -> tuple[Library, str]:
    arrays = library_of("like", like)
    name = arrays.dtype(like)
    if name not in COMPUTE or name.startswith("complex"):
        raise TypeError(f"like has dtype {name}; wanted a real floating one")
    return arrays, name


def _exact(arrays: Library, integers: Array, unit: float, like: Array, *, narrow: bool = True) -> Array:
    """Integers times a unit, in the dtype of `like` or, unless `narrow`, in that of its arithmetic."""
    xp, name = arrays.xp, arrays.dtype(like)
    wide = xp.astype(integers, getattr(xp, COMPUTE[name])) * unit
    return arrays.array(xp.astype(wide, like.dtype, copy=False) if narrow else wide)
