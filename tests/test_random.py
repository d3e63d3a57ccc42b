"""Philox: the published known answers, and the same words everywhere."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyoptim.random import normal, philox4x32, words
from tests.libraries import Library, numpy_dtype, same_bits

# From the file kat_vectors of Random123, the authors' own implementation: philox4x32 with 10 rounds.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
MASK = 0xFFFFFFFF
U64 = st.integers(0, 2**64 - 1)


def _hex(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def _philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python's own integers, from equation and constants of the paper (section 3.3)."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & MASK, (a >> 32) ^ c3 ^ k1, a & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return [c0, c1, c2, c3]


def _word(i: int, key: int, call: int) -> int:
    block = i // 4 % 2**64
    return _philox([block & MASK, block >> 32, call & MASK, call >> 32], [key & MASK, key >> 32])[i % 4]


@pytest.mark.parametrize("known", KNOWN, ids=["zeros", "ones", "pi"])
def test_known_answers(lib: Library, known: tuple[str, str, str]) -> None:
    """The three published vectors, on every library, in its own integers."""
    counter, key, expected = map(_hex, known)
    assert _philox(counter, key) == expected
    integer = words((1,), 0, like=lib.array([0.0])).dtype
    name = str(integer).rpartition(".")[2]
    arrays = [lib.asarray(np.array([c, c], name)) for c in counter]
    result = [lib.tonumpy(a).tolist() for a in philox4x32(arrays, (key[0], key[1]))]
    assert result == [[e, e] for e in expected]
    if lib.name != "dask":  # A NumPy scalar's product warns where it wraps; in Dask's threads nobody can turn that off.
        alone = philox4x32([lib.asarray(np.array(c, name)) for c in counter], (key[0], key[1]))
        assert [int(lib.tonumpy(a)) for a in alone] == expected


SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@settings(max_examples=30)
@given(shape=SHAPES, key=U64, call=U64, offset=st.integers(0, 2**64 - 1000))
def test_words_are_counted_by_element(lib: Library, shape: tuple[int, ...], key: int, call: int, offset: int) -> None:
    """Element i of any shape is word offset + i of the definition, in Python's integers."""
    drawn = words(shape, key, call, offset, like=lib.array([0.0]))
    assert type(drawn) is type(lib.array([0.0]))
    assert tuple(drawn.shape) == shape
    flat = lib.tonumpy(drawn).ravel()
    assert [int(w) for w in flat] == [_word(offset + i, key, call) for i in range(flat.size)]


@pytest.mark.parametrize("offset", [2**32 * 4 - 6, 2**33 * 4 - 1, 2**64 - 1])
def test_the_block_counter_carries(lib: Library, offset: int) -> None:
    """Where the low word of the block counter overflows, the high word goes on."""
    drawn = lib.tonumpy(words((20,), 1, 2, offset, like=lib.array([0.0])))
    assert [int(w) for w in drawn] == [_word(offset + i, 1, 2) for i in range(20)]


def test_a_shard_is_a_part_of_the_whole(lib: Library) -> None:
    """Drawn in pieces with offsets, the words are those of one draw."""
    like = lib.array([0.0])
    whole = lib.tonumpy(words((50,), 5, 6, like=like))
    for cut in (1, 7, 48):
        parts = [words((cut,), 5, 6, like=like), words((50 - cut,), 5, 6, cut, like=like)]
        assert np.concatenate([lib.tonumpy(p) for p in parts]).tolist() == whole.tolist()


def test_a_traced_call_under_jit(need: Callable[[str], Library]) -> None:
    """The call may be an argument of a compiled function; no step of a loop compiles again."""
    for name in ("jax", "jax-x64"):
        lib = need(name)
        with lib.context():
            import jax

            traces: list[int] = []

            def draw(call: Any, traces: list[int] = traces, lib: Library = lib) -> Any:
                traces.append(1)
                return words((9,), 3, call, like=lib.array([0.0]))

            compiled = jax.jit(draw)
            for call in range(3):
                assert [int(w) for w in compiled(call)] == [_word(i, 3, call) for i in range(9)]
            assert len(traces) == 1


def test_a_call_held_in_an_array(lib: Library) -> None:
    """A 0-d integer array of the library is a call number, with both its words where it has 64 bits."""
    like = lib.array([0.0])
    wide = "64" in str(words((1,), 0, like=like).dtype) or lib.name == "jax-x64"
    call = 2**40 + 3 if wide else 2**31 - 1
    array = lib.asarray(np.array(call, "int64" if wide else "int32"))
    assert [int(w) for w in lib.tonumpy(words((5,), 8, array, like=like))] == [_word(i, 8, call) for i in range(5)]


def test_calls_in_arrays_are_checked_like_numbers(lib: Library) -> None:
    """One integer, not negative; the same refusal on every library."""
    like = lib.array([0.0])
    for value, dtype, error, says in (
        (-1, "int32", ValueError, "call is -1"),
        (1.5, "float32", TypeError, "call is .*wanted an integer"),
        ([1, 2], "int32", TypeError, "call is .*wanted an integer"),
    ):
        with pytest.raises(error, match=says):
            words((2,), 0, lib.asarray(np.array(value, dtype)), like=like)


def test_traced_calls_are_integers(need: Callable[[str], Library]) -> None:
    """Of a traced call dtype and shape are known."""
    lib = need("jax")
    import jax

    for value in (lib.array(1.5), lib.asarray(np.arange(2))):
        with pytest.raises(TypeError, match=r"call is an array of shape .* wanted one integer"):
            jax.jit(lambda call: words((2,), 0, call, like=lib.array([0.0])))(value)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"key": -1}, ValueError, r"key is -1; wanted at least 0 and below 2\*\*64"),
    ({"key": 2**64}, ValueError, "key is 18446744073709551616"),
    ({"key": 1.0}, TypeError, "key is 1.0; wanted an integer"),
    ({"key": 0, "call": -1}, ValueError, "call is -1"),
    ({"key": 0, "call": 0.5}, TypeError, "call is 0.5; wanted an integer"),
    ({"key": 0, "offset": 2**64}, ValueError, "offset is 18446744073709551616"),
]


@pytest.mark.parametrize(("arguments", "error", "says"), BAD)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    """Counters and keys are 64-bit unsigned integers."""
    with pytest.raises(error, match=says):
        words((2,), like=np.zeros(1), **arguments)


def test_bytes_are_uniform_and_neighbours_unrelated() -> None:
    """Chi-square of all bytes of 2**18 words, and correlations between neighbouring keys, calls and elements.

    Five standard deviations: by chance one of these four checks fails once in a million keys, and the key is fixed.
    """
    like = np.zeros(1)
    n = 1 << 18
    w = words((n,), 12345, 0, like=like)
    counts = np.bincount(w.astype("<u4").view(np.uint8), minlength=256)
    expected = 4 * n / 256
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi2 - 255) < 5 * np.sqrt(2 * 255)
    others = [words((n,), 12346, 0, like=like), words((n,), 12345, 1, like=like), np.roll(w, 1)]
    for other in others:
        assert abs(np.corrcoef(w, other)[0, 1]) < 5 / np.sqrt(n)


# Normal numbers ---------------------------------------------------------------------------------------------------


def _normal(i: int, key: int, call: int) -> float:
    """Of words 2*i and 2*i + 1: the real part of a complex number of a random length and direction."""
    a, b = _word(2 * i, key, call), _word(2 * i + 1, key, call)
    return (math.sqrt(2 * (32 * math.log(2) - math.log(a + 1))) * cmath.exp(2j * math.pi * (b / 2**32))).real


# Where the logarithm is close to 0, and the cosine to 0, roundings of their arguments are large beside them.
# In float32 words are rounded to 24 bits, in float16 they would be infinite.
TOLERANCE = {"float64": 1e-13, "float32": 3e-6, "bfloat16": 0.2, "float16": 0.03}


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_normals_are_made_of_words(lib: Library, dtype: str) -> None:
    """Of any shape, key, call and offset, in the library and dtype of `like`, beside Python's own floats."""
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.name} has no {dtype}")
    like = lib.array([0.0], dtype)
    for shape, key, call, offset in [
        ((), 0, 0, 0),
        ((0, 3), 1, 1, 1),
        ((7, 11), 3, 4, 5),
        ((50,), 2**63, 2**40, 2**62),
    ]:
        drawn = normal(shape, key, call, offset, like=like)
        assert type(drawn) is type(like)
        assert drawn.dtype == like.dtype
        assert tuple(drawn.shape) == shape
        flat = lib.tonumpy(drawn).ravel().astype(np.float64)
        expected = [_normal(offset + i, key, call) for i in range(flat.size)]
        np.testing.assert_allclose(flat, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_normals_of_half_a_dtype_are_finite(lib: Library) -> None:
    """A word is above float16's largest number; the two that make 0 and 1 of the logarithm's argument are seen to."""
    for dtype in ("float16", "bfloat16", "float32"):
        if dtype in lib.dtypes:
            drawn = lib.tonumpy(normal((4000,), 1, 2, like=lib.array([0.0], dtype))).astype(np.float64)
            assert np.isfinite(drawn).all()
            assert abs(drawn.mean()) < 5 / math.sqrt(4000)
            assert abs(drawn.std() - 1) < 5 / math.sqrt(8000)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_shard_of_normals_is_a_part_of_the_whole(lib: Library, dtype: str) -> None:
    """By offsets, and of any shape: to the last bits, which vector functions may take otherwise at an end."""
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.name} has no {dtype}")
    like = lib.array([0.0], dtype)
    whole = lib.tonumpy(normal((50,), 5, 6, like=like))
    for cut in (1, 7, 48):
        parts = [normal((cut,), 5, 6, like=like), normal((50 - cut,), 5, 6, cut, like=like)]
        together = np.concatenate([lib.tonumpy(p) for p in parts])
        if lib.name == "numpy":
            assert same_bits(together, whole)
        np.testing.assert_allclose(
            together, whole, rtol=8 * float(np.finfo(dtype).eps), atol=1e-6 * (dtype != "float64")
        )
    assert same_bits(lib.tonumpy(normal((5, 10), 5, 6, like=like)).ravel(), whole)


def test_normals_are_normal() -> None:
    """Their moments, of 2**20: those of the standard normal distribution within four standard errors; and unrelated."""
    n = 1 << 20
    x = normal((n,), 2024, 7, like=np.zeros(1))
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - moment) < 4 * math.sqrt(variance / n)
    for limit in (0.0, 1.0, 2.0, 3.0):
        share = math.erfc(limit / math.sqrt(2)) / 2
        for tail in ((x > limit).mean(), (x < -limit).mean()):
            assert abs(tail - share) < 4 * math.sqrt(share * (1 - share) / n)
    assert 4 < np.abs(x).max() < 6.7
    others = [np.roll(x, 1), normal((n,), 2024, 8, like=x), normal((n,), 2025, 7, like=x)]
    for other in others:
        assert abs(float(np.corrcoef(x, other)[0, 1])) < 4 / math.sqrt(n)
        assert abs(float(np.corrcoef(x**2, other**2)[0, 1])) < 4 / math.sqrt(n)


def test_normals_of_a_traced_call(need: Callable[[str], Library]) -> None:
    """The call may be an argument of a compiled function, which is compiled once."""
    for name, dtype in (("jax", "float32"), ("jax-x64", "float64")):
        lib = need(name)
        with lib.context():
            import jax

            traces: list[int] = []

            like = lib.array([0.0], dtype)

            def draw(call: Any, traces: list[int] = traces, like: Any = like) -> Any:
                traces.append(1)
                return normal((9,), 3, call, like=like)

            compiled = jax.jit(draw)
            for call in range(3):
                expected = [_normal(i, 3, call) for i in range(9)]
                np.testing.assert_allclose(compiled(call), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
            assert len(traces) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "says"), [*BAD[:5], ({"key": 0, "offset": 2**63}, ValueError, "offset")]
)
def test_bad_arguments_of_normal(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    """As of words, of which an offset skips two."""
    with pytest.raises(error, match=says):
        normal((2,), like=np.zeros(1), **arguments)


@pytest.mark.parametrize("dtype", ["int32", "complex64", "bool"])
def test_normals_are_real_and_floating(dtype: str) -> None:
    with pytest.raises(TypeError, match=f"like has dtype {dtype}; wanted a real floating one"):
        normal((2,), 0, like=np.zeros(1, numpy_dtype(dtype)))
