"""Numbers made of words: what they are, and the same bits everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import anyoptim as ao
from anyoptim.random import bernoulli, bits, normal, spawn, uniform
from tests.reference import quantiles
from tests.reference.philox import MASK, choice, philox, word
from tests.support.counters import BAD, U64
from tests.support.libraries import Library, numpy_dtype, same_bits

DTYPES = ["float64", "float32", "bfloat16", "float16"]
DIGITS = {"float64": 32, "float32": 24, "bfloat16": 8, "float16": 11}
CASES = [((), 0, 0, 0), ((0, 3), 1, 1, 1), ((7, 11), 2**63 + 3, 2**40 + 4, 2**62 + 5)]


def _flat(lib: Library, drawn: Any, like: Any, shape: tuple[int, ...]) -> Any:
    assert type(drawn) is type(like)
    assert drawn.dtype == like.dtype
    assert tuple(drawn.shape) == shape
    return lib.tonumpy(drawn).ravel()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_uniform_numbers_are_words_cut_off(lib: Library, dtype: str, case: Any) -> None:
    """Exactly, of any shape, key, call and offset, in the library and dtype of `like`."""
    like, d = lib.array([0.0], dtype), DIGITS[dtype]
    (shape, key, call, offset) = case
    flat = _flat(lib, uniform(shape, key, call, offset, like=like), like, shape)
    expected = [(word(offset + i, key, call) >> (32 - d)) / 2**d for i in range(flat.size)]
    assert flat.astype(np.float64).tolist() == expected


def test_uniform_numbers_are_below_one(monkeypatch: pytest.MonkeyPatch, lib: Library) -> None:
    """Of the largest word, in every dtype; and 0 of the smallest."""
    for extreme, expected in ((MASK, [1 - 2.0 ** -DIGITS[dtype] for dtype in DTYPES]), (0, [0.0] * 4)):
        words = lib.asarray(np.array([extreme], str(bits((1,), 0, like=lib.array([0.0])).dtype).rpartition(".")[2]))
        monkeypatch.setattr("anyoptim.random._numbers.bits", lambda *_, words=words, **__: words)
        for dtype, value in zip(DTYPES, expected, strict=True):
            if dtype in lib.dtypes:
                assert float(lib.tonumpy(uniform((1,), 0, like=lib.array([0.0], dtype)))[0]) == value


def test_bernoulli_is_true_below_the_threshold(lib: Library) -> None:
    """At 0 never, at 1 always, between where the choice is small."""
    like = lib.array([0.0])
    for p in (0.0, 2**-32, 0.3, 0.5, 1 - 2**-32, 1.0):
        drawn = bernoulli(p, (4, 5), 6, 7, 8, like=like)
        assert type(drawn) is type(like)
        expected = [choice(8 + i, 6, 7) < round(p * 2**32) for i in range(20)]
        assert lib.tonumpy(drawn).ravel().tolist() == expected
    bad: list[Any] = [-0.1, 1.1, math.nan, "half"]
    for p in bad:
        with pytest.raises((TypeError, ValueError), match=r"^p is .*at least 0 and at most 1"):
            bernoulli(p, (2,), 0, like=like)


def test_traced_probabilities_are_refused(need: Callable[[str], Library]) -> None:
    lib = need("jax")
    import jax

    with pytest.raises(TypeError, match="p is traced; wanted a number"):
        jax.jit(lambda p: bernoulli(p, (2,), 0, like=lib.array([0.0])))(0.5)


# Normal numbers ---------------------------------------------------------------------------------------------------


def _normal(w: int) -> float:
    """Of a word, by the quantile of the standard library."""
    q = (2 * (w & 0x7FFFFFFF) + 1) / 2**33
    return -NormalDist().inv_cdf(q) * (-1 if w >> 31 else 1)


ERROR = 1.4e-8
"""What the docstring says."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_normals_are_quantiles_of_words(lib: Library, dtype: str, case: Any) -> None:
    """Beside the standard library's quantiles; on every library NumPy's bits; short dtypes are long ones, rounded."""
    like = lib.array([0.0], dtype)
    (shape, key, call, offset) = case
    flat = _flat(lib, normal(shape, key, call, offset, like=like), like, shape)
    exact = normal(shape, key, call, offset, like=np.empty(0)).ravel()
    expected = [_normal(word(offset + i, key, call)) for i in range(flat.size)]
    np.testing.assert_allclose(exact, expected, rtol=0, atol=ERROR)
    short = exact if dtype == "float64" else exact.astype(np.float32)
    assert same_bits(flat, short.astype(numpy_dtype(dtype)))


def test_normals_of_any_word() -> None:
    """The ends of all octaves and parts, and the longest and the shortest: as good as the docstring says."""
    low = {0, 1, 2, 3, 2**31 - 1, 2**31 - 2}
    for octave in range(32):
        for part in range(17):
            n = (16 + part) << octave >> 5
            low |= {k for k in (n - 1, n, n + 1) if 0 <= k < 2**31}
    rng = np.random.default_rng(0)
    words = np.array(sorted(low | set(rng.integers(0, 2**31, 20_000).tolist())))
    words = np.concatenate([words, words + 2**31])
    drawn = _of(words)
    expected = np.array([_normal(int(w)) for w in words])
    assert np.abs(drawn - expected).max() < ERROR
    assert same_bits(drawn[: words.size // 2], -drawn[words.size // 2 :])
    assert (drawn * 2**29 == np.rint(drawn * 2**29)).all()
    lengths = np.sort(np.abs(drawn))
    assert [round(float(x), 2) for x in lengths[::-2][:3]] == [6.34, 6.17, 6.09]
    assert lengths[0] >= 0
    # Their derivative is at least 2.5 * 2**-32, less than a unit: equal neighbours near 0, never in the wrong order.
    assert (np.diff(drawn[: words.size // 2]) <= 2 * 2**-29).all()


def _of(words: Any) -> Any:
    """The normal numbers of given words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anyoptim.random._numbers.bits", lambda *_, **__: words)
        return normal(words.shape, 0, like=np.empty(0))


def test_the_table_is_what_its_maker_makes() -> None:
    """In decimals, whose arithmetic is the same on all machines."""
    assert (Path(ao.__file__).parent / "random" / "_table.py").read_text(encoding="utf-8") == quantiles.module()


def test_the_quantiles_of_the_table_are_good() -> None:
    """The maker's, beside the standard library's, of which 15 digits are good."""
    for q in (Decimal(n) / 2**33 for n in (1, 5, 2**20 + 1, 2**31, 2**32 - 1)):
        assert math.isclose(quantiles.quantile(q), -NormalDist().inv_cdf(float(q)), rel_tol=1e-14, abs_tol=1e-16)


def test_a_shard_of_normals_is_a_part_of_the_whole(lib: Library) -> None:
    """By offsets, and of any shape."""
    like = lib.array([0.0])
    whole = lib.tonumpy(normal((7, 11), 5, 6, 7, like=like)).ravel()
    for at in (0, 13, 77 - 33):
        assert same_bits(lib.tonumpy(normal((33,), 5, 6, 7 + at, like=like)), whole[at : at + 33])


def test_numbers_of_a_traced_call(need: Callable[[str], Library]) -> None:
    """The call may be an argument of a compiled function, which is compiled once: and the bits are the same."""
    for name in ("jax", "jax-x64"):
        lib = need(name)
        with lib.context():
            import jax

            dtypes = [dtype for dtype in DTYPES if dtype in lib.dtypes]
            likes = [lib.array([0.0], dtype) for dtype in dtypes]
            traces: list[int] = []

            def drawn(call: Any, likes: list[Any] = likes, traces: list[int] = traces) -> list[Any]:
                traces.append(1)
                return [draw((999,), 3, call, like=like) for like in likes for draw in (uniform, normal)]

            compiled = jax.jit(drawn)
            for call in range(3):
                expected = [
                    draw((999,), 3, call, like=np.empty(0, numpy_dtype(dtype)))
                    for dtype in dtypes
                    for draw in (uniform, normal)
                ]
                assert all(map(same_bits, map(lib.tonumpy, compiled(call)), expected))
            assert len(traces) == 1


def test_normals_stay_lazy(need: Callable[[str], Library]) -> None:
    """On Dask nothing is computed where numbers are drawn."""
    need("dask")
    import dask
    import dask.array as da

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("computed")

    like = da.zeros(3)
    with dask.config.set(scheduler=refuse):
        drawn = [normal((100, 3), 1, 2, like=like), normal((10, 2), 1, 2, (0, 1), within=(10, 3), like=like)]
    assert same_bits(np.asarray(drawn[0].compute()), normal((100, 3), 1, 2, like=np.empty(0)))
    assert same_bits(np.asarray(drawn[1].compute()), normal((10, 3), 1, 2, like=np.empty(0))[:, 1:])


@pytest.mark.parametrize("draw", [uniform, normal])
@pytest.mark.parametrize(("arguments", "error", "says"), BAD)
def test_bad_arguments_of_numbers(
    draw: Callable[..., Any], arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    """As of bits."""
    with pytest.raises(error, match=says):
        draw((2,), like=np.zeros(1), **arguments)


@pytest.mark.parametrize("draw", [uniform, normal])
@pytest.mark.parametrize("dtype", ["int32", "complex64", "bool"])
def test_numbers_are_real_and_floating(draw: Callable[..., Any], dtype: str) -> None:
    with pytest.raises(TypeError, match=f"like has dtype {dtype}; wanted a real floating one"):
        draw((2,), 0, like=np.zeros(1, numpy_dtype(dtype)))


# Keys -------------------------------------------------------------------------------------------------------------


@given(key=U64, index=st.integers(0, 2**62 - 1))
def test_a_spawned_key_is_the_definition(key: int, index: int) -> None:
    """Two words of the last call, in Python's integers: it does not depend on what was spawned before."""
    low, high = philox([index & MASK, index >> 32, MASK, MASK], [key & MASK, key >> 32])[:2]
    assert spawn(key, index) == low + (high << 32)
    assert type(spawn(key, index)) is int


def test_spawned_keys_differ() -> None:
    """Of 3000 children, and of their children: all."""
    keys = {spawn(5, i) for i in range(3000)}
    keys |= {spawn(spawn(5, 0), i) for i in range(3000)} | {spawn(6, i) for i in range(3000)}
    assert len(keys | {5, 6}) == 9002


@pytest.mark.parametrize(
    ("key", "index", "error", "says"),
    [
        (-1, 0, ValueError, "key is -1"),
        (2**64, 0, ValueError, "key is 18446744073709551616"),
        (0.5, 0, TypeError, "key is 0.5; wanted an integer"),
        (0, -1, ValueError, "index is -1"),
        (0, 2**62, ValueError, r"index is 4611686018427387904; wanted at least 0 and below 2\*\*62"),
        (0, "a", TypeError, "index is 'a'; wanted an integer"),
    ],
)
def test_bad_children(key: Any, index: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        spawn(key, index)
